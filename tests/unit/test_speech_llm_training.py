"""Training of the speech LLM on a small synthetic corpus with tiny random backbones."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import torch
import training_samples

from asa_engine.errors import CheckpointError, ManifestError
from asa_engine.graders.speech_llm.model import SpeechLLM
from asa_engine.training import adapters, train
from asa_engine.training.recipe import shipped
from asa_engine.training.speech_llm import frozen as speech_llm_frozen
from asa_engine.training.speech_llm import trainer as speech_llm
from asa_engine.training.speech_llm.recipe import SpeechLLMRecipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return training_samples.speech_llm(tmp_path_factory.mktemp("speech_llm"))


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
    _, dev, _ = speech_llm.load_corpus(recipe.sides(), ("total",), "medians")
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


@pytest.mark.parametrize("kind", ["fair_average", "regression"])
def test_recordings_of_several_chunks_are_learnt_from(folder, tmp_path, kind):
    """A corpus of which half is longer than a chunk, and a checkpoint that scores as reported."""
    text = (folder / "small.toml").read_text()
    first, last = text.index("[[objective]]"), text.index("[backbones]")
    one = f'[[objective]]\nname = "fair"\nkind = "{kind}"\n'
    text = text[:first].replace("share = 0.3", "share = 0.0") + one + text[last:]
    recipe = folder / f"chunks-{kind}.toml"
    recipe.write_text(text + "\n[windows]\nwindow_s = 0.4\nchunk_s = 1.2\n")
    output = train(recipe, tmp_path / "out")
    report = json.loads((output / "training.json").read_text())
    losses = [epoch["loss"] for epoch in report["objectives"]["fair"]["history"]]
    assert losses[-1] < losses[0]
    grader = SpeechLLM.load(output)
    corpora = speech_llm.load_corpus(SpeechLLMRecipe.load(recipe).sides(), ("total",), "medians")
    dev = corpora[1]
    assert sum(corpora[0].durations_s() > 1.2) > 4
    graded = [grader.assess_samples(dev.samples(i)) for i in range(len(dev))]
    assert max(len(item.chunks) for item in graded) > 1
    said = np.array([item.scores[0] for item in graded])
    rmse = float(np.sqrt(np.mean((said - dev.scores[:, 0]) ** 2)))
    # Audio tokens are kept as float16 between the stages.
    assert rmse == pytest.approx(report["dev"]["rmse"], abs=5e-3)


def test_without_training_the_language_model_answers_as_it_is(folder, tmp_path):
    text = (folder / "small.toml").read_text()
    first, last = text.index("[[objective]]"), text.index("[backbones]")
    one = '[[objective]]\nname = "fair"\nkind = "zero_shot"\n'
    recipe = folder / "zero.toml"
    recipe.write_text(text[:first] + one + text[last:])
    assert SpeechLLMRecipe.load(recipe).steps(16) == 0
    output = train(recipe, tmp_path / "out")
    found = json.loads((output / "training.json").read_text())["objectives"]["fair"]
    assert found["history"] == []
    grader = SpeechLLM.load(output)
    assert all(not v.any() for name, v in grader.tuned().items() if name.endswith("lora_b"))
    # What labels are said of four dev recordings, against the reference's own probabilities.
    dev = speech_llm.load_corpus(SpeechLLMRecipe.load(recipe).sides(), ("total",), "medians")[1]
    shares = found["dev_with_prior"]["labels"]
    probabilities = [grader.assess_samples(dev.samples(i)).probabilities[0] for i in range(4)]
    np.testing.assert_allclose(shares["likely"], np.mean(probabilities, 0), atol=5e-3)
    said = np.bincount(np.argmax(probabilities, 1), minlength=4) / 4
    assert shares["said"] == said.tolist()
    near = np.abs(dev.scores[:, :1] - np.array([2.0, 4.0, 7.0, 9.0])).argmin(1)
    assert shares["meant"] == (np.bincount(near, minlength=4) / 4).tolist()
    assert set(found["dev"]["soft"]) == {"pcc", "srcc", "krc", "rmse", "mae"}


def test_a_prior_on_recordings_of_several_chunks_is_refused(folder, tmp_path):
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
    from asa_engine.training.recipe_file import find_recipe

    recipe = SpeechLLMRecipe.load(find_recipe("speech-llm-tiny-en-smollm2"))
    assert shipped(recipe.objectives, recipe.ship).kind == "fair_average"
