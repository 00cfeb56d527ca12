"""`train --dry-run`: what it says, and what it refuses before anything starts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from acoustic_samples import CLASSES_SECTION, write_recipe
from safetensors.torch import load_file, save_file
from text_samples import make_bert

from asa_engine.backbones.stored import INDEX_NAME, SINGLE_NAME, read_stored
from asa_engine.cli.main import main
from asa_engine.errors import CheckpointError
from asa_engine.nn.bert import load_bert
from asa_engine.training import rehearsal

TEXT = """
grader = "text"
seeds = [1, 2]
ship = "plain"
[data]
manifest = "corpus/train.jsonl"
transcripts = "manifest"
[encoder]
source = "{bert}"
[fit]
epochs = 3
batch_size = 4
[[objective]]
name = "plain"
kind = "cross_entropy"
"""
TEXT += CLASSES_SECTION


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = write_recipe(tmp_path).with_name("text.toml")
    path.write_text(TEXT.format(bert=make_bert(tmp_path / "bert")))
    return path


def _refused(recipe: Path, capsys, *more: str) -> str:
    assert main(["train", str(recipe), *more]) != 0
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_a_dry_run_reckons_and_leaves_nothing_behind(recipe: Path, tmp_path, capsys) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert main(["train", str(recipe), "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["train"]["recordings"], found["dev"]["recordings"]) == (10, 4)
    assert found["train"]["speakers"] == 9
    assert found["steps"] == 2 * 3 * 3  # seeds, epochs, batches of four out of ten
    state = load_file(tmp_path / "bert" / SINGLE_NAME)
    (model,) = found["models"]
    assert model["parameters"] == sum(value.numel() for value in state.values())
    assert model["bytes"] == (tmp_path / "bert" / SINGLE_NAME).stat().st_size
    assert found["memory_bytes"] > 4 * model["parameters"]
    assert found["seconds"] > 0
    assert main(["train", str(recipe), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "dev speakers are those whose number is divisible by 5" in said
    assert "steps: 18" in said
    assert sorted(tmp_path.rglob("*")) == before


def test_a_machine_that_is_too_small_is_said_so_before_work_starts(
    recipe: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(rehearsal, "memory_bytes", lambda: 10**8)
    out = tmp_path / "out"
    for more in (["--dry-run"], ["-o", str(out)]):
        assert "this machine has 0.1 GB" in _refused(recipe, capsys, *more)
    assert not list(tmp_path.glob("out*"))


def test_a_dry_run_refuses_what_training_would(recipe: Path, capsys) -> None:
    text = recipe.read_text()
    recipe.write_text(text.replace("transcripts", 'targets = "raters_mode"\ntranscripts'))
    assert "choose from raters, raters_median" in _refused(recipe, capsys, "--dry-run")
    recipe.write_text(text.replace('manifest = "corpus', 'score = "style"\nmanifest = "corpus'))
    assert "lacks medians for style" in _refused(recipe, capsys, "--dry-run")
    recipe.write_text(text)
    assert "--json goes with --dry-run" in _refused(recipe, capsys, "--json")


def _sharded(folder: Path) -> Path:
    load_bert(folder).save_pretrained(folder, max_shard_size="40KB")
    (folder / SINGLE_NAME).unlink(missing_ok=True)
    assert (folder / INDEX_NAME).is_file()
    return folder


def test_shards_are_told_from_their_headers(tmp_path: Path) -> None:
    one = read_stored(make_bert(tmp_path / "bert"))
    several = read_stored(_sharded(tmp_path / "bert"))
    assert several.parameters == one.parameters
    assert several.tensors.keys() == one.tensors.keys()
    assert len({tensor.file for tensor in several.tensors.values()}) > 1


def _cut(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-4])


def _another(shard: Path) -> None:
    save_file({"other.weight": torch.zeros(2)}, shard)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "the shard model-00002-of-.* is missing"),
        (_cut, "cut short"),
        (_another, "it is of another model"),
        (lambda shard: shard.write_bytes(b"\xff" * 16), "damaged"),
    ],
)
def test_a_shard_that_is_wrong_is_named(tmp_path: Path, damage, message) -> None:
    folder = _sharded(make_bert(tmp_path / "bert"))
    damage(sorted(folder.glob("model-00002*"))[0])
    with pytest.raises(CheckpointError, match=message):
        read_stored(folder)


def test_an_index_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = _sharded(make_bert(tmp_path / "bert"))
    index = json.loads((folder / INDEX_NAME).read_text())
    index["weight_map"]["embeddings.word_embeddings.weight"] = "../secret.safetensors"
    (folder / INDEX_NAME).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="no shard beside it"):
        read_stored(folder)
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "pytorch_model.pt").write_bytes(b"pickle")
    with pytest.raises(CheckpointError, match="no weights that can be read"):
        read_stored(folder)
