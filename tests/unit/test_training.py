"""Training: recipes, and runs that survive being killed."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from acoustic_samples import RECIPE, write_recipe

from asa_engine.errors import CheckpointError, ManifestError, UsageError
from asa_engine.graders.acoustic.model import AcousticGrader
from asa_engine.training import state, train
from asa_engine.training.acoustic import trainer as loop
from asa_engine.training.acoustic.recipe import (
    AcousticRecipe,
)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path)


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


def test_a_missing_recipe_says_so(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        train(tmp_path / "none.toml", tmp_path / "out")


def test_shipped_recipes_are_valid_and_found_by_name():
    recipe = AcousticRecipe.load("acoustic-tiny-en")
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
        (lambda x: x["raters"].pop("total"), "u2 lacks raters for total"),
        (lambda x: x["raters"].update(total=[]), "u2 lacks raters for total"),
        (lambda x: x.update(words=[{"accuracy": 1.0}]), "words and phones are malformed"),
        (lambda x: x["words"][0].pop("accuracy"), "words and phones are malformed"),
        (lambda x: x["words"][0]["phones"][0].pop("accuracy"), "words and phones are malformed"),
        (lambda x: x.update(words="none"), "u2: words is not a list"),
        (_drop("words"), "ctc or auxiliary"),
        (_drop("speaker"), "'u2' has no speaker"),
    ],
)
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
