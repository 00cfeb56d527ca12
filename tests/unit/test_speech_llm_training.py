"""Training of the speech LLM on a small synthetic corpus with tiny random backbones."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("transformers", reason="needs the extra 'bench'")

import speech_llm_samples as samples  # noqa: E402

from asa_engine.errors import CheckpointError, ManifestError  # noqa: E402
from asa_engine.graders.speech_llm.model import SpeechLLM  # noqa: E402
from asa_engine.graders.speech_llm.recipe import SpeechLLMRecipe  # noqa: E402
from asa_engine.training import adapters, speech_llm, speech_llm_frozen, train  # noqa: E402

RECIPE = """
grader = "speech_llm"
seed = 5
ship = "fair"
[data]
manifest = "train.jsonl"
score = "total"
targets = "medians"
[backbones]
encoder = "{whisper}"
language_model = "{model}"
[prompt]
prefix = "<|im_start|>Grade:"
suffix = "<|im_end|>="
labels = ["A", "B", "C", "D"]
label_scores = [2, 4, 7, 9]
[projector]
width = 12
epochs = 2
batch_size = 4
[prior]
share = 0.3
width = 4
folds = 2
[adapter]
rank = 2
alpha = 4
first_layer = 1
[fit]
epochs = {epochs}
batch_size = 4
lr = 0.005
head_lr = 0.01
bf16 = {bf16}
[[objective]]
name = "fair"
kind = "fair_average"
[[objective]]
name = "soft"
kind = "soft_cross_entropy"
[[objective]]
name = "hard"
kind = "cross_entropy"
[[objective]]
name = "line"
kind = "regression"
[[objective]]
name = "units"
kind = "fair_average"
units = 6
start = "fair"
epochs = 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Corpus of 5 speakers, one of them dev: the higher the tone, the higher the score."""
    root = tmp_path_factory.mktemp("speech_llm")
    rng = np.random.default_rng(17)
    lines = []
    for number in range(20):
        speaker, length = 1 + number % 5, int(rng.uniform(0.6, 2.5) * 16_000)
        score = float(rng.integers(2, 10))
        tone = np.sin(2 * np.pi * (150 + 60 * score) * np.arange(length) / 16_000)
        sound = 0.3 * tone + rng.normal(0, 0.02, length)
        soundfile.write(root / f"{number}.flac", sound.astype(np.float32), 16_000)
        lines.append(
            {
                "id": str(number),
                "audio": f"{number}.flac",
                "speaker": str(speaker),
                "scores": {"total": score},
            }
        )
    (root / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    whisper, model = samples.write_backbones(root / "backbones")
    text = RECIPE.replace("{whisper}", str(whisper)).replace("{model}", str(model))
    for name, bf16 in (("small", "false"), ("half", "true")):
        made = text.replace("{epochs}", "6").replace("{bf16}", bf16)
        (root / f"{name}.toml").write_text(made)
        (root / f"{name}-units.toml").write_text(made.replace('ship = "fair"', 'ship = "units"'))
    return root


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    """Evaluation in batches of several sizes."""
    monkeypatch.setattr(speech_llm, "EVALUATION_BATCH", 3)
    monkeypatch.setattr(speech_llm_frozen, "EVALUATION_BATCH", 3)


def _train(folder, name, output, **options):
    return train(folder / f"{name}.toml", output, **options)


@pytest.mark.parametrize("recipe_name", ["small", "small-units"])
def test_a_comparison_ends_with_a_checkpoint_and_a_report(folder, tmp_path, recipe_name):
    output = _train(folder, recipe_name, tmp_path / "out")
    report = json.loads((output / "training.json").read_text())
    assert set(report["objectives"]) == {"fair", "soft", "hard", "line", "units"}
    assert report["train"]["n"] == 16
    assert report["dev"]["n"] == 4
    for name, run in report["objectives"].items():
        losses = [epoch["loss"] for epoch in run["history"]]
        assert len(losses) == (2 if name == "units" else 6)
        assert name == "units" or losses[-1] < losses[0]
        assert "dev_with_prior" in run
    fair, units = (report["objectives"][name]["history"][0] for name in ("fair", "units"))
    assert units["loss"] < fair["loss"]  # it goes on from there
    assert not (tmp_path / "out.training").exists()
    # The checkpoint, through the whole reference, says what the report was made of.
    grader = SpeechLLM.load(output)
    assert grader.config.prior.share == 0.3
    assert grader.config.units == (6 if recipe_name == "small-units" else 0)
    recipe = SpeechLLMRecipe.load(folder / "small.toml")
    _, dev, _ = speech_llm.load_corpus(recipe.manifest_path(), ("total",), "medians")
    said = [grader.assess_samples(dev.samples(i)).scores[0] for i in range(len(dev))]
    rmse = float(np.sqrt(np.mean((np.array(said) - dev.scores[:, 0]) ** 2)))
    # Audio tokens are kept as float16 between the stages.
    assert rmse == pytest.approx(report["dev"]["rmse"], abs=5e-3)
    assert grader.config.aspects[0].sd


def test_a_killed_run_goes_on_and_ends_alike(folder, tmp_path, monkeypatch):
    whole = _train(folder, "half", tmp_path / "whole")
    monkeypatch.setattr(adapters, "SAVE_EVERY_S", 0.0)
    real, steps = torch.nn.utils.clip_grad_norm_, []

    def dies(parameters, norm):
        steps.append(1)
        if len(steps) in (15, 30):  # twice within the first objective
            raise KeyboardInterrupt
        return real(parameters, norm)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", dies)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            _train(folder, "half", tmp_path / "parts")
    parts = _train(folder, "half", tmp_path / "parts")
    for name in ("weights.safetensors", "config.json"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()


def test_a_recording_of_several_chunks_is_refused(folder, tmp_path):
    soundfile.write(folder / "long.flac", np.zeros(29 * 16_000, np.float32), 16_000)
    line = {"id": "long", "audio": "long.flac", "speaker": "3", "scores": {"total": 5.0}}
    lines = (folder / "train.jsonl").read_text() + json.dumps(line) + "\n"
    (folder / "long.jsonl").write_text(lines)
    path = folder / "long.toml"
    path.write_text((folder / "small.toml").read_text().replace("train.jsonl", "long.jsonl"))
    with pytest.raises(ManifestError, match=r"long lasts 29\.0 s"):
        train(path, tmp_path / "out")


def test_another_recipe_does_not_go_on(folder, tmp_path):
    work = tmp_path / "out.training"
    work.mkdir()
    (work / "recipe.json").write_text('{"sha256": "another"}')
    with pytest.raises(CheckpointError, match="another recipe"):
        _train(folder, "small", tmp_path / "out")


def test_a_finished_comparison_is_not_run_again(folder, tmp_path):
    digest = SpeechLLMRecipe.load(folder / "small.toml").digest
    output = tmp_path / "out"
    output.mkdir()
    (output / "training.json").write_text(json.dumps({"recipe_sha256": digest}))
    assert _train(folder, "small", output) == output
    assert [path.name for path in output.iterdir()] == ["training.json"]


def test_the_shipped_recipe_is_valid():
    from asa_engine.training.recipe import find_recipe

    recipe = SpeechLLMRecipe.load(find_recipe("speech-llm-tiny-en-smollm2"))
    assert recipe.shipped.kind == "fair_average"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('ship = "fair"', 'ship = "best"', "ship is 'best'"),
        ('kind = "regression"', 'kind = "ranking"', "ranking"),
        ("label_scores = [2, 4, 7, 9]", "label_scores = [2, 7, 4, 9]", "ascend"),
        ("label_scores = [2, 4, 7, 9]", "label_scores = [2, 4, 7]", "label"),
        ('targets = "medians"', 'targets = "best"', "targets"),
        ("batch_size = 4\nlr", "batch_size = 0\nlr", "at least 1"),
        ("rank = 2", "rank = 0", "lora.rank"),
        ('labels = ["A", "B", "C", "D"]', 'labels = ["A", "B", "C", "DD"]', "'DD' is 2 tokens"),
        ("[adapter]", "[adaptor]", "adaptor"),
        ("seed = 5", "seed = 5.5", "seed"),
    ],
)
def test_a_wrong_recipe_is_refused(folder, tmp_path, old, new, message):
    samples.check_refused(folder, tmp_path, old, new, message)
