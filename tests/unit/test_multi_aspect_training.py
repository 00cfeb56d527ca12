"""The comparison: recipes, corpus, resuming, report and pictures, on features that are made up."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile
import torch
from multi_aspect_samples import LEVELS, Analyser, encode, words_of

from asa_engine.errors import CheckpointError, ManifestError, UsageError
from asa_engine.evaluation.manifest import read_manifest
from asa_engine.evaluation.splits import Sides
from asa_engine.graders.multi_aspect.model import MultiAspectGrader
from asa_engine.training.multi_aspect import trainer as training
from asa_engine.training.multi_aspect.corpus import (
    compute_examples,
    load_examples,
    split_sides,
)
from asa_engine.training.multi_aspect.recipe import MultiAspectRecipe

RECIPE = """
grader = "multi_aspect"
seeds = [1, 2]
ship = "ma_mmo"
[data]
manifest = "train.jsonl"
[config]
frame_width = 6
prompt_width = 5
content_width = 8
delivery_width = 8
language_width = 8
ffn_factor = 1
projection = 8
window_s = 1.0
frame_pool = 5
class_scores = [3.0, 5.5, 9.0]
aspects = [{ name = "total", level_cuts = [4.0, 7.0], level_names = ["low", "middle", "high"] }]
[fit]
epochs = 2
batch_size = 8
[[system]]
name = "ma_mmo"
kind = "ma"
objective = "mmo"
[[system]]
name = "w2v_pt"
kind = "w2v_pt"
"""


class Backbones:
    """Stands for the frozen encoders."""

    def __init__(self, config):
        self.encode = encode
        self.analyser = Analyser()

    def transcribe(self, utterances, cache):
        """Hear as many words as the score says; nothing in the last recording."""
        heard = {u.id: tuple(words_of(int(u.scores["total"]), 0.1)) for u in utterances}
        return {**heard, "r29": ()}

    def vector(self, text, pooling):
        return np.full(5, len(text) + (pooling == "mean"), np.float32)


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "Backbones", Backbones)
    rng = np.random.default_rng(1)
    lines = []
    for i in range(30):
        soundfile.write(tmp_path / f"r{i}.wav", 0.1 * rng.normal(size=16000 + 400 * i), 16000)
        line = {
            "id": f"r{i}",
            "audio": f"r{i}.wav",
            "speaker": str(i % 10),
            "text": "read this",
            "duration": 1 + i / 40,
            "scores": {"total": [3.0, 5.0, 8.0][i % 3]},
        }
        lines.append(json.dumps(line))
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


def test_a_comparison_ships_a_grader_a_report_and_pictures(recipe, tmp_path):
    output = training.train(recipe, tmp_path / "out")
    assert not (tmp_path / "out.training").exists()
    grader = MultiAspectGrader.load(output)
    assert grader.config.classes == LEVELS
    assert len(grader.config.aspects[0].sd) == 1
    report = json.loads((output / "training.json").read_text())
    assert set(report["systems"]) == {"ma_mmo", "w2v_pt"}
    found = report["systems"]["ma_mmo"]["total"]
    assert set(found) == {"accuracy", "macro_accuracy", "macro_f1", "pcc", "rmse"}
    assert len(found["macro_f1"]["runs"]) == 2
    assert report["sides"]["train"]["n"] + report["sides"]["dev"]["n"] == 29
    assert report["sides"]["train"]["no_words"] == ["r29"]
    assert len(report["distances"]["ma_mmo"]["total"]["mean"]) == 2
    assert "w2v_pt" not in report["distances"]
    counts = np.array(report["confusion"]["ma_mmo"]["total"])
    assert counts.sum() == 2 * report["sides"]["dev"]["n"]
    assert sum(report["importance"]["total"].values()) == pytest.approx(1, abs=0.01)
    pictures = sorted(path.name for path in output.glob("*.svg"))
    assert pictures == ["confusion-total.svg", "distances-ma_mmo.svg", "importance.svg"]
    for name in pictures:
        ElementTree.parse(output / name)
    # A finished comparison is not run again.
    before = (output / "weights.safetensors").stat().st_mtime_ns
    assert training.train(recipe, output) == output
    assert (output / "weights.safetensors").stat().st_mtime_ns == before


def test_a_killed_comparison_goes_on_and_ends_the_same(recipe, tmp_path, monkeypatch):
    whole = training.train(recipe, tmp_path / "whole")
    run = training.MultiAspectComparison.run

    def dies(self, each):
        if self.name(each) == "w2v_pt-1":
            raise KeyboardInterrupt
        run(self, each)

    monkeypatch.setattr(training.MultiAspectComparison, "run", dies)
    with pytest.raises(KeyboardInterrupt):
        training.train(recipe, tmp_path / "again")
    kept = sorted(path.name for path in (tmp_path / "again.training").glob("run-*.json"))
    assert kept == ["run-ma_mmo-1.json", "run-ma_mmo-2.json"]
    monkeypatch.setattr(training.MultiAspectComparison, "run", run)
    again = training.train(recipe, tmp_path / "again")
    for name in ("weights.safetensors", "config.json"):
        assert (again / name).read_bytes() == (whole / name).read_bytes()


def test_another_recipes_state_is_not_gone_on_with(recipe, tmp_path):
    (tmp_path / "out.training").mkdir()
    (tmp_path / "out.training" / "recipe.json").write_text('{"sha256": "0"}')
    with pytest.raises(CheckpointError, match="another recipe"):
        training.train(recipe, tmp_path / "out")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('ship = "ma_mmo"', 'ship = "w2v_pt"'),
        ('kind = "w2v_pt"', 'kind = "gru"'),
        ('objective = "mmo"', 'objective = "mse"'),
        ("seeds = [1, 2]", "seeds = [1, 1]"),
        ("epochs = 2", "epochs = 0"),
        ("epochs = 2", "epochs = 2\nno_prompt = 1.0"),
        ('name = "w2v_pt"', 'name = "ma_mmo"'),
        ("epochs = 2", 'epochs = 2\nmmo_reduction = "sum"'),
        ("projection = 8", "projection = -8"),
        ("[fit]", "[fits]"),
        ("window_s = 1.0", 'form = "essay"'),
    ],
)
def test_recipes_that_cannot_be_are_refused(recipe, old, new):
    recipe.write_text(RECIPE.replace(old, new, 1))
    with pytest.raises(UsageError):
        MultiAspectRecipe.load(recipe)


def test_the_second_phase_changes_the_head_alone(recipe, tmp_path):
    first = training.train(recipe, tmp_path / "first")
    text = recipe.read_text()
    recipe.write_text(text.replace("batch_size = 8", "batch_size = 8\nhead_epochs = 2"))
    second = training.train(recipe, tmp_path / "second")
    one, two = (MultiAspectGrader.load(path).state_dict() for path in (first, second))
    changed = {name for name in one if not torch.equal(one[name], two[name])}
    assert changed == {"head.weight", "head.bias"}
    report = json.loads((second / "training.json").read_text())
    before = json.loads((first / "training.json").read_text())
    assert report["systems"]["w2v_pt"] == before["systems"]["w2v_pt"]  # of cross-entropy
    recipe.write_text(text.replace("batch_size = 8", 'batch_size = 8\nmmo_reduction = "pairs"'))
    other = MultiAspectGrader.load(training.train(recipe, tmp_path / "pairs")).state_dict()
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_score_or_a_transcript_that_is_missing_is_named(recipe, tmp_path):
    config = MultiAspectRecipe.load(recipe).config
    utterances = read_manifest(tmp_path / "train.jsonl")
    frozen = Backbones(config)
    path = tmp_path / "features.npz"
    heard = frozen.transcribe(utterances, path)
    given = {"encode": encode, "vector": frozen.vector, "analyser": frozen.analyser}
    with pytest.raises(ManifestError, match="r0 has no transcript"):
        compute_examples(utterances, {}, config, path=path, **given)
    compute_examples(utterances[:2], heard, config, path=path, **given)
    examples = load_examples(path)
    assert examples["r1"].delivery.shape == (5, 16)
    assert examples["r1"].named["words"] == 5
    bare = [type(u)(u.id, u.audio, {"fluency": 1.0}, u.speaker) for u in utterances[:2]]
    with pytest.raises(ManifestError, match="r0 lacks medians for total"):
        split_sides(Sides(bare[:1], bare[1:], "numbers"), examples, config, "medians")


def test_the_shipped_recipe_can_be_read():
    from asa_engine.training.recipe_file import find_recipe

    recipe = MultiAspectRecipe.load(find_recipe("multi-aspect-tiny-en.toml"))
    assert [len(aspect.level_names) for aspect in recipe.config.aspects] == [8] * 4
    assert {item.kind for item in recipe.systems} >= {"ma", "w2v", "bert", "w2v_bert"}
