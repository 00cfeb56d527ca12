"""Training: recipes, corpora, steps, and runs that survive being killed."""

from __future__ import annotations

import dataclasses
import errno
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("tqdm", reason="needs the extra 'train'")

from asa_engine.errors import CheckpointError, ManifestError, UsageError  # noqa: E402
from asa_engine.graders.acoustic.model import AcousticGrader  # noqa: E402
from asa_engine.nn.whisper import WhisperEncoder  # noqa: E402
from asa_engine.training import loop, state, train  # noqa: E402
from asa_engine.training.augment import augment_mel, augment_samples  # noqa: E402
from asa_engine.training.data import epoch_order, load_corpus, make_batch  # noqa: E402
from asa_engine.training.frozen import FrozenFeatures  # noqa: E402
from asa_engine.training.kernel import fit_kernel, speaker_folds  # noqa: E402
from asa_engine.training.recipe import (  # noqa: E402
    AugmentRecipe,
    KernelRecipe,
    PhaseRecipe,
    Recipe,
)
from asa_engine.training.report import calibrated  # noqa: E402
from asa_engine.training.steps import (  # noqa: E402
    Network,
    Targets,
    learning_rate,
    losses,
    parameter_groups,
)

RECIPE = """
seed = 5
threads = 1
[data]
manifest = "corpus/train.jsonl"
[encoder]
source = "random"
[grader]
window_s = 0.5
attention_heads = 2
head_width = 16
prior_width = 8
prior_embedding = 4
aspects = [{ name = "accuracy" }, { name = "total" }]
encoder = { n_mels = 80, d_model = 16, layers = 2, heads = 2, ffn = 32, positions = 25 }
[augment]
speed = 0.05
gain_db = 6.0
noise = 0.5
low_pass = 0.5
shift = 0.5
tilt = 0.1
mel_mask = 8
[[phase]]
name = "heads"
epochs = 2
batch_size = 4
dropout = 0.2
feature_noise = 0.1
ctc = 0.3
auxiliary = 0.3
[[phase]]
name = "all"
epochs = 2
batch_size = 4
encoder_lr = 1e-3
dropout = 0.2
encoder_dropout = 0.1
ccc = 0.5
ctc = 0.3
auxiliary = 0.3
bf16 = true
[kernel]
blend = 0.4
width = 6
folds = 3
gammas = [0.5, 1.0]
"""
ALL_ON = AugmentRecipe(speed=0.1, gain_db=12, noise=1, low_pass=1, shift=1, tilt=0.2, mel_mask=10)


def _line(number: int, speaker: int) -> dict[str, object]:
    words = [
        {"accuracy": 10.0, "phones": [{"phone": "AH0", "accuracy": 2.0}]},
        {"accuracy": 4.0, "phones": [{"phone": "T", "accuracy": 0.4}]},
    ]
    score = float(3 + number % 7)
    return {
        "id": f"u{number}",
        "audio": f"u{number}.wav",
        "speaker": f"{speaker:04d}",
        "age": 8 + speaker,
        "gender": "fm"[number % 2],
        "scores": {"accuracy": score, "total": score},
        "raters": {"accuracy": [score, score + 1], "total": [score, score]},
        "words": words,
    }


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe beside a corpus of ten train and four dev utterances of noise."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    rng = np.random.default_rng(1)
    lines = [_line(i, speaker=1 + i if i < 10 else 15) for i in range(14)]
    lines = [{**x, "speaker": "0021"} if x["speaker"] in ("0005", "0010") else x for x in lines]
    for line in lines:
        tone = rng.normal(0, 0.05, int(rng.integers(12_000, 30_000)))
        soundfile.write(folder / str(line["audio"]), tone, 16_000)
    (folder / "train.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


def _weights(folder: Path) -> bytes:
    return (folder / "weights.safetensors").read_bytes()


def test_a_run_leaves_a_checkpoint_and_a_report(recipe, tmp_path):
    out = train(recipe, tmp_path / "out")
    assert sorted(p.name for p in out.iterdir()) == [
        "config.json",
        "report.json",
        "weights.safetensors",
    ]
    assert not (tmp_path / "out.training").exists()
    grader = AcousticGrader.load(out)
    assert all(aspect.sd for aspect in grader.config.aspects)
    report = json.loads((out / "report.json").read_text())
    assert [(e["phase"], e["epoch"]) for e in report["history"]] == [
        ("heads", 1),
        ("heads", 2),
        ("all", 1),
        ("all", 2),
    ]
    assert report["dev"]["all"]["n"] == 4
    assert grader.config.kernel_centres == 10
    assert grader.blend.tolist() == pytest.approx([0.4, 0.4])
    assert report["kernel"]["gamma"] in (0.5, 1.0)
    assert set(report["dev"]["all"]["aspects"]) == {"accuracy", "total"}
    # what is finished is not done again
    before = _weights(out)
    stamp = (out / "weights.safetensors").stat().st_mtime_ns
    train(recipe, out)
    assert (out / "weights.safetensors").stat().st_mtime_ns == stamp
    assert _weights(train(recipe, out, resume=False)) == before


@pytest.mark.parametrize("killed_after", [1, 5, 8, 11])
def test_a_killed_run_goes_on_bit_for_bit(recipe, tmp_path, monkeypatch, killed_after):
    whole = _weights(train(recipe, tmp_path / "whole"))

    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    step = loop.Trainer._step
    done = []

    def dies(self, *args):
        if len(done) == killed_after:
            raise KeyboardInterrupt
        done.append(step(self, *args))

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "_step", dies)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "killed")
    assert len(list((tmp_path / "killed.training").glob("state-*"))) == 1
    assert _weights(train(recipe, tmp_path / "killed")) == whole


def _killed_at(monkeypatch, method, recipe, output):
    def dies(self, *args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, method, dies)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, output)


@pytest.mark.parametrize("method", ["_next_phase", "_write"])
def test_a_run_killed_between_phases_goes_on_bit_for_bit(recipe, tmp_path, monkeypatch, method):
    whole = _weights(train(recipe, tmp_path / "whole"))
    _killed_at(monkeypatch, method, recipe, tmp_path / "killed")
    assert not (tmp_path / "killed").exists()
    assert _weights(train(recipe, tmp_path / "killed")) == whole


def test_a_full_disk_keeps_the_last_state(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    write = Path.write_bytes
    written = []

    def full(self, data):
        if self.name == state.TENSORS_NAME:
            if len(written) == 2:
                write(self, data[: len(data) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
            written.append(self)
        return write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(UsageError, match="No space left"):
            train(recipe, tmp_path / "out")
    work = tmp_path / "out.training"
    (kept,) = work.iterdir()
    assert kept.name == "state-000-00000002"
    assert not (tmp_path / "out").exists()
    assert _weights(train(recipe, tmp_path / "out")) == _weights(train(recipe, tmp_path / "b"))


def test_another_recipe_does_not_go_on(recipe, tmp_path, monkeypatch):
    _killed_at(monkeypatch, "_next_phase", recipe, tmp_path / "out")
    recipe.write_text(RECIPE.replace("seed = 5", "seed = 6"))
    with pytest.raises(CheckpointError, match="another recipe"):
        train(recipe, tmp_path / "out")


def test_training_stops_when_dev_no_longer_gains(recipe, tmp_path, monkeypatch):
    recipe.write_text(RECIPE.replace("epochs = 2", "epochs = 9\npatience = 2"))
    figures = iter([0.5, 0.6, 0.4, 0.3, 0.1, 0.2, 0.15, 0.12])
    monkeypatch.setattr(loop.Trainer, "_dev_pcc", lambda self: {"total": next(figures)})
    report = json.loads((train(recipe, tmp_path / "out") / "report.json").read_text())
    assert [e["phase"] for e in report["history"]] == ["heads"] * 4 + ["all"] * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seed = 5", "seed = five"), "not valid TOML"),
        (("seed = 5", "seed = 1.5"), "seed is 1.5"),
        (("seed = 5", "sead = 5"), "unknown sead"),
        (("[encoder]", "[decoder]"), "unknown decoder"),
        (("epochs = 2", "epochs = 0"), "epochs is too small"),
        (("epochs = 2", "epoch = 2"), "unknown epoch"),
        (("dropout = 0.2", "dropout = 1.0"), "dropout must be"),
        (("dropout = 0.2", 'dropout = "much"'), "not of type float"),
        (("dropout = 0.2", "dropout = nan"), "out of range"),
        (('name = "heads"', ""), "name is missing"),
        (("window_s = 0.5", "window_s = 9.0"), "window_s"),
        (("corpus/train.jsonl", "elsewhere.jsonl"), "elsewhere.jsonl is not in"),
        (("blend = 0.4", "blend = 1.4"), "blend must be"),
        (("gammas = [0.5, 1.0]", "gammas = []"), "candidates is empty"),
        (("gammas = [0.5, 1.0]", "gammas = 0.5"), "not a list"),
        (("window_s = 0.5", "window_s = 0.5\nkernel_centres = 3"), r"set by \[kernel\]"),
        (('source = "random"', 'source = "package:no_such_thing"'), "not installed"),
    ],
)
def test_a_wrong_recipe_says_what(recipe, tmp_path, change, message):
    assert change[0] in RECIPE
    recipe.write_text(RECIPE.replace(*change))
    with pytest.raises((UsageError, CheckpointError), match=message):
        train(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_recipe_says_so(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        train(tmp_path / "none.toml", tmp_path / "out")


def test_shipped_recipes_are_valid_and_found_by_name():
    recipe = Recipe.load("acoustic-tiny-en")
    assert recipe.name == "acoustic-tiny-en"
    assert recipe.grader.window_frames == 200


def _drop(name):
    return lambda line: line.pop(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop("audio"), "line 3: 'audio' is missing"),
        (lambda x: x.update(id="u0"), "line 3: id 'u0' occurs twice"),
        (lambda x: x.update(audio="no.wav"), "line 3: there is no recording"),
        (lambda x: x["scores"].update(total=float("nan")), "line 3: score 'total'"),
        (lambda x: x["raters"].pop("total"), "u2 lacks raters"),
        (lambda x: x["raters"].update(total=[]), "u2"),
        (lambda x: x.update(words=[{"accuracy": 1.0}]), "words and phones are malformed"),
        (_drop("words"), "ctc or auxiliary"),
        (_drop("speaker"), "not a number"),
    ],
)
@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
def test_a_bad_line_stops_the_run_at_once(recipe, tmp_path, change, message):
    manifest = recipe.parent / "corpus" / "train.jsonl"
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    change(lines[2])
    manifest.write_text("".join(json.dumps(x) + "\n" for x in lines))
    with pytest.raises(UsageError, match=message):
        train(recipe, tmp_path / "out")


def test_a_broken_recording_is_named(recipe, tmp_path):
    (recipe.parent / "corpus" / "u2.wav").write_bytes(b"not sound")
    with pytest.raises(ManifestError, match="u2"):
        train(recipe, tmp_path / "out")


def test_no_dev_speaker_is_said(recipe, tmp_path):
    manifest = recipe.parent / "corpus" / "train.jsonl"
    manifest.write_text(manifest.read_text().replace("0015", "0016"))
    with pytest.raises(ManifestError, match="no dev speaker"):
        train(recipe, tmp_path / "out")


@pytest.fixture
def corpus(recipe):
    return load_corpus(recipe.parent / "corpus" / "train.jsonl", ["accuracy", "total"], "raters")


def test_corpus_targets(corpus):
    train_side, dev, phones = corpus
    assert (len(train_side), len(dev), phones) == (10, 4, ["AH", "T"])
    assert not {u.speaker for u in train_side.utterances} & {u.speaker for u in dev.utterances}
    np.testing.assert_allclose(train_side.targets - train_side.scores, [[0.5, 0]] * 10)
    # AH good -> 1; T poor -> 2 + inventory of 2
    assert train_side.phones[0].tolist() == [1, 4]
    np.testing.assert_allclose(train_side.auxiliary[0, :5], [7, 4, 0.5, 1.2, 0.5])


def test_an_epoch_has_every_utterance_once(corpus):
    order = epoch_order(corpus[0], 4, np.random.default_rng(0))
    assert sorted(i for batch in order for i in batch) == list(range(10))
    assert order != epoch_order(corpus[0], 4, np.random.default_rng(1))


def test_augmentation_is_a_function_of_the_generator():
    samples = np.random.default_rng(0).normal(0, 0.3, 20_000).astype(np.float32)
    one, two, other = (
        augment_samples(samples, ALL_ON, np.random.default_rng(seed)) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(one, two)
    assert one.dtype == np.float32
    assert len(one) != len(other) or not np.array_equal(one, other)
    assert np.abs(one).max() <= 1
    silent = augment_samples(np.zeros(5000, np.float32), ALL_ON, np.random.default_rng(3))
    assert np.isfinite(silent).all()
    mel = np.random.default_rng(1).normal(0, 1, (80, 30)).astype(np.float32)
    changed = augment_mel(mel, ALL_ON, np.random.default_rng(2))
    assert changed.shape == mel.shape
    assert not np.array_equal(changed, mel)
    nothing = augment_samples(samples, AugmentRecipe(), np.random.default_rng(3))
    np.testing.assert_array_equal(nothing, samples)


def test_frozen_features_are_the_encoders_outputs(recipe, corpus):
    config = Recipe.load(recipe).grader
    torch.manual_seed(0)
    encoder = WhisperEncoder(config.encoder).eval()
    features = FrozenFeatures(encoder, config, corpus[1], "frames").batch([2, 0])
    batch = make_batch(corpus[1], [2, 0], config)
    with torch.inference_mode():
        wanted = torch.stack(encoder(batch.mel, batch.lengths), 1)
    assert torch.equal(features.owner, batch.owner)
    frames = (batch.lengths + 1) // 2
    for got, want, valid in zip(features.mel, wanted, frames.tolist(), strict=True):
        # float16 keeps 11 bits of values below 4
        torch.testing.assert_close(got[:, :valid], want[:, :valid], atol=2e-3, rtol=0)


def test_the_kernel_is_ridge_regression_in_its_dual_form(recipe, corpus):
    config = Recipe.load(recipe).grader
    torch.manual_seed(0)
    network = AcousticGrader(config).eval()
    network.round_halves()
    side = corpus[0]
    features = FrozenFeatures(network.encoder, config, side, "frames")
    # all directions kept and one candidate, so that nothing is left to chance
    fit = fit_kernel(
        network, side, features, KernelRecipe(blend=0.0, width=99, gammas=(0.7,), ridges=(0.3,))
    )
    mean, square = np.split(features.sums / features.counts, 2, axis=1)
    pooled = np.concatenate((mean, np.sqrt(np.maximum(square - mean**2, 1e-5))), axis=1)
    pooled = (pooled - pooled.mean(0)) / np.maximum(pooled.std(0), 1e-6)
    duration = np.clip(np.log(features.counts / 175) / 0.5, -2, 3.5)
    duration /= duration.std()

    def kernel(i, j):
        near = ((pooled[i] - pooled[j]) ** 2).mean() + 0.3 * ((duration[i] - duration[j]) ** 2)[0]
        return np.exp(-0.7 * near)

    table = np.array([[kernel(i, j) for j in range(10)] for i in range(10)])
    offset = side.targets.mean(0)
    weights = np.linalg.inv(table + 0.3 * np.eye(10)) @ (side.targets - offset)
    wanted = table @ weights + offset
    found = [fit.grader.assess_samples(side.samples(i)).scores for i in range(10)]
    # the projection is rounded to float16: three digits of distances of about two
    np.testing.assert_allclose(found, wanted, atol=5e-3)


def test_folds_hold_speakers_out():
    speakers = [f"{i % 7:04d}" for i in range(50)]
    folds = speaker_folds(speakers, 3)
    assert set(folds.tolist()) == {0, 1, 2}
    for speaker in set(speakers):
        assert len({f for f, s in zip(folds, speakers, strict=True) if s == speaker}) == 1


@pytest.mark.parametrize("phones_only", [False, True])
def test_only_phones_reach_the_encoder_when_asked(recipe, corpus, phones_only):
    config = Recipe.load(recipe).grader
    torch.manual_seed(0)
    network = Network(AcousticGrader(config), phones=2)
    grader, side = network.grader, corpus[0]
    targets = Targets(side, grader.score_mean, grader.score_std, config.prior_levels)
    batch = make_batch(side, [0, 1, 2], config)
    phase = PhaseRecipe("x", 1, ccc=1.0, prior=1.0, auxiliary=1.0, phones_only=phones_only)

    def gradient(ctc):
        network.zero_grad()
        frames = grader.mix(grader.encoder(batch.mel, batch.lengths))
        chosen = dataclasses.replace(phase, ctc=ctc)
        losses(network, frames, batch, targets, chosen)["total"].backward()
        assert grader.head_fc1.weight.grad.abs().max() > 0
        found = grader.encoder.conv1.weight.grad
        return 0.0 if found is None else found.abs().max().item()

    assert (gradient(ctc=0.0) == 0) == phones_only
    assert gradient(ctc=1.0) > 0


def test_learning_rates_rise_and_fall_and_differ_by_layer(recipe):
    rates = [learning_rate(step, 100, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1, rel=0.01)
    assert max(rates) == rates[9]
    assert rates[-1] == pytest.approx(0.02, abs=0.001)

    network = Network(AcousticGrader(Recipe.load(recipe).grader), phones=2)
    phase = PhaseRecipe("x", 1, encoder_lr=1.0, head_lr=3.0, layer_decay=0.5, frozen_layers=1)
    names = {parameter: name for name, parameter in network.named_parameters()}
    found = {names[g["params"][0]]: g for g in parameter_groups(network, phase)}
    assert not any("conv" in name or "positions" in name for name in found)
    assert not network.grader.encoder.conv1.weight.requires_grad
    assert found["grader.encoder.layers.0.fc1.weight"]["lr"] == 0.5
    assert found["grader.encoder.layers.1.fc1.weight"]["lr"] == 1.0
    assert found["grader.encoder.layer_norm.bias"]["lr"] == 1.0
    assert found["ctc.weight"]["lr"] == 3.0
    assert found["ctc.bias"]["weight_decay"] == 0
    assert found["ctc.weight"]["weight_decay"] == phase.weight_decay


def test_expected_error_is_the_rmse_on_dev(recipe, corpus):
    dev = corpus[1]
    predicted = dev.scores + np.array([[1.0, -2.0]])
    config = calibrated(Recipe.load(recipe).grader, dev, predicted)
    assert [aspect.sd_at(5.0) for aspect in config.aspects] == [1.0, 2.0]
