"""Training of the multi-granular grader on a small synthetic corpus with tiny random backbones."""

from __future__ import annotations

import json

import pytest
import speech_llm_samples as samples
import torch
import training_samples

from asa_engine.errors import ManifestError
from asa_engine.graders.multi_granular.model import MultiGranular
from asa_engine.training import adapters, train
from asa_engine.training.multi_granular.recipe import MultiGranularRecipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return training_samples.multi_granular(tmp_path_factory.mktemp("multi_granular"))


def test_a_training_ends_with_a_checkpoint_and_a_report(folder, tmp_path):
    output = train(folder / "small.toml", tmp_path / "out")
    report = json.loads((output / "training.json").read_text())
    assert set(report["runs"]) == {"sft", "preference"}
    assert report["train"]["n"] == 12
    assert not (tmp_path / "out.training").exists()
    first, *_, last = report["runs"]["sft"]["history"]
    assert last["loss"] < first["loss"]
    assert report["runs"]["preference"]["history"][0]["preference"] > 0
    assert 0 <= report["dev"]["word"]["agreement"] <= 1
    assert (output / "lexicon.txt").read_text() == "go G OW\nup AH P\n"
    grader = MultiGranular.load(output)
    assert grader.config.least_fit < 0
    assert list(grader.config.label_scores["word"]) == sorted(grader.config.label_scores["word"])


def test_a_fused_language_model_is_adapted_whole(folder, tmp_path):
    samples.language_model("phi3").save_pretrained(tmp_path / "phi3")
    samples.tokenizer().save_pretrained(tmp_path / "phi3")
    text = (folder / "small.toml").read_text().replace('ship = "preference"', 'ship = "sft"')
    text = text.replace(str(folder / "backbones" / "model"), str(tmp_path / "phi3"))
    text = text.replace("rounds = 3", "rounds = 1").replace("epochs = 3", "epochs = 1")
    recipe = folder / "phi3.toml"
    recipe.write_text(text.replace("steps = 3\n", "steps = 0\n"))
    report = json.loads((train(recipe, tmp_path / "out") / "training.json").read_text())
    assert report["adapters"] == dict.fromkeys(
        ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"), 2
    )


def test_a_killed_training_goes_on_and_ends_alike(folder, tmp_path, monkeypatch):
    whole = train(folder / "small.toml", tmp_path / "whole")
    monkeypatch.setattr(adapters, "SAVE_EVERY_S", 0.0)
    real, steps = torch.nn.utils.clip_grad_norm_, []

    def dies(parameters, norm):
        steps.append(1)
        if len(steps) in (4, 10, 17):  # in the warm start, in both runs
            raise KeyboardInterrupt
        return real(parameters, norm)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", dies)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            train(folder / "small.toml", tmp_path / "parts")
    parts = train(folder / "small.toml", tmp_path / "parts")
    for name in ("weights.safetensors", "config.json", "lexicon.txt"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()


def test_a_corpus_without_words_is_refused(folder, tmp_path):
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    del lines[3]["words"]
    (folder / "bare.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = folder / "bare.toml"
    path.write_text((folder / "small.toml").read_text().replace("train.jsonl", "bare.jsonl"))
    with pytest.raises(ManifestError, match="words"):
        train(path, tmp_path / "out")


def test_the_shipped_recipe_is_valid():
    from asa_engine.training.recipe_file import find_recipe

    recipe = MultiGranularRecipe.load(find_recipe("multi-granular-tiny-en-smollm2"))
    assert recipe.ship in ("sft", "preference")
