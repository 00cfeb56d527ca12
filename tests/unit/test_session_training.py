"""Training of the session grader on a small synthetic corpus with tiny random backbones."""

from __future__ import annotations

import json

import numpy as np
import pytest
import speech_llm_samples as samples
import torch
import training_samples
from safetensors.torch import load_file

from asa_engine.errors import CheckpointError, ManifestError
from asa_engine.evaluation.sessions import Part, Session, played, read_sessions
from asa_engine.evaluation.splits import session_split
from asa_engine.graders.speech_llm_session.model import Heard, SessionLLM
from asa_engine.nn.language_model import LanguageModel
from asa_engine.nn.lora import lora_counts
from asa_engine.training import adapters, train
from asa_engine.training.speech_llm_session import trainer as session_training
from asa_engine.training.speech_llm_session.data import Example, Speaker, shuffled
from asa_engine.training.speech_llm_session.prior import fit_prior
from asa_engine.training.speech_llm_session.recipe import SessionRecipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return training_samples.session(tmp_path_factory.mktemp("session"))


@pytest.fixture(scope="module")
def trained(folder):
    return train(folder / "small.toml", folder / "out")


def test_a_fused_language_model_is_adapted_whole(folder):
    recipe = SessionRecipe.load(folder / "small.toml")
    model = LanguageModel(samples.language_model("phi3"))
    config = session_training._config(recipe, ["P1"], samples.encoder(), model, samples.tokenizer())
    assert config.speech.lora.targets == ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
    grader = SessionLLM(config, samples.encoder(), model)
    assert set(lora_counts(grader).values()) == {2}


def test_a_comparison_ends_with_a_checkpoint_and_a_report(folder, trained):
    report = json.loads((trained / "training.json").read_text())
    assert set(report["runs"]) == {"last", "first", "without"}
    assert (report["train"]["sessions"], report["dev"]["sessions"]) == (4, 2)
    assert not (folder / "out.training").exists()
    for run in report["runs"].values():
        assert [look["step"] for look in run["history"]] == [4, 8]
    # The checkpoint, through the whole reference, says what the report was made of.
    grader = SessionLLM.load(trained)
    assert grader.config.prior.position == "last"
    errors = []
    for session in session_split(read_sessions(folder / "sessions.jsonl"))[1]:
        said = {
            part.name: [np.concatenate(list(played(r))) for r in part.responses]
            for part in session.parts
        }
        found = grader.assess(said).scores["overall"]
        errors.append(found - session.scores["overall"])
    # Audio tokens are kept as float16 between the stages.
    rmse = float(np.sqrt(np.mean(np.square(errors))))
    assert rmse == pytest.approx(report["dev"]["overall"]["rmse"], abs=5e-3)
    assert grader.config.aspects[-1].sd[0][1] == pytest.approx(rmse, abs=6e-3)


def test_the_priors_levels_are_the_embeddings_of_their_names(trained):
    grader = SessionLLM.load(trained)
    tokens = samples.tokenizer()(["A", "B", "C"], add_special_tokens=False).input_ids
    rows = grader.speech.language_model.embed(torch.tensor(tokens)[:, 0])
    # Stored as float16.
    torch.testing.assert_close(grader.prior.projector.weight.T, rows, rtol=1e-3, atol=1e-3)
    assert not grader.prior.projector.bias.any()


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(folder, trained, tmp_path, monkeypatch):
    loss = session_training.SessionComparison._loss

    def stopped(self, grader, item, step):
        if item.name == "first" and step == 5:
            raise KeyboardInterrupt
        return loss(self, grader, item, step)

    with monkeypatch.context() as patch:
        patch.setattr(adapters, "SAVE_EVERY_S", 0.0)
        patch.setattr(session_training.SessionComparison, "_loss", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(folder / "small.toml", tmp_path / "again")
    work = tmp_path / "again.training"
    assert (work / "run-last.json").is_file()
    kept = {path.name: path.stat().st_mtime_ns for path in (work / "heard").iterdir()}
    assert len(kept) == 6
    output = train(folder / "small.toml", tmp_path / "again")
    expected, found = (load_file(path / "weights.safetensors") for path in (trained, output))
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    reports = [json.loads((p / "training.json").read_text()) for p in (trained, output)]
    histories = [report["runs"]["first"]["history"] for report in reports]
    assert histories[0] == histories[1]
    assert train(folder / "small.toml", output) == output  # nothing is left to do


def test_another_recipe_is_not_gone_on_with(folder, tmp_path):
    work = tmp_path / "out.training"
    work.mkdir()
    (work / "recipe.json").write_text('{"sha256": "another"}')
    with pytest.raises(CheckpointError, match="another recipe"):
        train(folder / "small.toml", tmp_path / "out")


def _speaker(count=20):
    parts = (
        Part("P1", tuple((f"a{i}",) for i in range(6))),
        Part("P3", (tuple(f"b{i}" for i in range(4)),)),
    )
    names = [name for part in parts for response in part.responses for name in response]
    heard = {
        (name,): Heard(
            torch.full((2, 3), float(i)), torch.full((4,), 10.0 * i, dtype=torch.float64), i + 1
        )
        for i, name in enumerate(names)
    }
    whole = Example({}, torch.zeros(4), torch.zeros(3))
    scores = {name: float(i) for i, name in enumerate(names)}
    return Speaker("1", Session("1", parts), heard, scores, whole)


@pytest.mark.parametrize(("share", "kept"), [(0.01, (1, 1)), (0.5, (3, 2)), (1.0, (6, 4))])
def test_a_shuffled_session_is_scored_by_what_it_holds(share, kept):
    speaker = _speaker()
    found = shuffled(speaker, share, 0.0, np.random.default_rng(3))
    assert [len(found.responses[part]) for part in ("P1", "P3")] == [kept[0], 1]
    values = {part: torch.cat(found.responses[part])[::2, 0] for part in ("P1", "P3")}
    assert tuple(len(v) for v in values.values()) == kept
    everything = torch.cat(list(values.values()))
    assert len(set(everything.tolist())) == sum(kept)  # no recording twice
    means = [float(v.mean()) for v in values.values()]
    np.testing.assert_allclose(found.targets, [*means, np.mean(means)], rtol=1e-6)
    mean = 10 * everything.sum() / (everything + 1).sum()
    np.testing.assert_allclose(found.mean, torch.full((4,), float(mean)), rtol=1e-6)


@pytest.mark.parametrize(("share", "kept"), [(0.01, (1, 1)), (0.5, (3, 2)), (1.0, (6, 4))])
def test_an_unshuffled_session_keeps_recordings_in_their_parts(share, kept):
    speaker = _speaker()
    found = shuffled(speaker, share, 0.0, np.random.default_rng(3), mixed=False)
    values = [torch.cat(found.responses[part])[::2, 0] for part in ("P1", "P3")]
    assert tuple(map(len, values)) == kept
    # The first six recordings, by their scores, are those of P1.
    assert values[0].max() < 6 <= values[1].min()
    assert all(torch.equal(v, v.sort().values) for v in values)
    means = [float(v.mean()) for v in values]
    np.testing.assert_allclose(found.targets, [*means, np.mean(means)], rtol=1e-6)


def test_a_recipe_may_leave_sessions_unshuffled(folder, monkeypatch):
    path = folder / "unshuffled.toml"
    text = (
        (folder / "small.toml")
        .read_text()
        .replace("[sessions]", "[sessions]\nshuffle = false\nwhole = 0.999")
    )
    path.write_text(text)
    told = []
    real = shuffled

    def noted(*given, mixed):
        told.append(mixed)
        return real(*given, mixed=mixed)

    monkeypatch.setattr(session_training, "shuffled", noted)
    train(path, folder / "unshuffled")
    assert told
    assert not any(told)


def test_a_part_may_be_left_out_but_not_all():
    speaker, seen = _speaker(), set()
    for seed in range(40):
        found = shuffled(speaker, 0.5, 0.9, np.random.default_rng(seed))
        missing = tuple(found.targets.isnan().tolist())
        assert [part in found.responses for part in ("P1", "P3")] == [not m for m in missing[:2]]
        assert not missing[2]
        seen.add(missing)
    assert seen == {(True, False, False), (False, True, False)}


def test_a_priors_fold_does_not_hear_its_speakers(folder):
    recipe = SessionRecipe.load(folder / "small.toml")
    speaker = _speaker()
    others = [
        Speaker(
            str(i),
            speaker.session,
            speaker.heard,
            {k: 3.0 * i for k in speaker.scores},
            speaker.whole,
        )
        for i in range(4)
    ]
    import session_samples

    config = session_samples.config()
    config = config.__class__.from_dict(
        json.loads(json.dumps(config.to_dict()))
        | {
            "speech": {
                **json.loads(json.dumps(config.speech.to_dict())),
                "encoder": {"d_model": 4, "heads": 2},
            }
        }
    )
    alone = fit_prior(config, recipe.prior, [others[1], others[3]], 7)
    without = fit_prior(config, recipe.prior, others, 7, fold=0)
    for a, b in zip(alone.parameters(), without.parameters(), strict=True):
        assert torch.equal(a, b)


def test_sessions_need_their_scores(folder, tmp_path):
    lines = (folder / "sessions.jsonl").read_text().splitlines()
    value = json.loads(lines[0])
    del value["scores"]["P3"]
    (folder / "poor.jsonl").write_text("\n".join([json.dumps(value), *lines[1:]]))
    path = folder / "poor.toml"
    text = (folder / "small.toml").read_text()
    path.write_text(text.replace('"sessions.jsonl"', '"poor.jsonl"'))
    with pytest.raises(ManifestError, match="no score 'P3'"):
        train(path, tmp_path / "out")
