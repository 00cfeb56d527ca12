"""Training of the text grader on a corpus of a few sentences."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import training_samples
from text_samples import make_config

from asa_engine.errors import CheckpointError, ManifestError, UsageError
from asa_engine.features.word_pieces import WordPieces
from asa_engine.graders.text.config import TextConfig
from asa_engine.graders.text.model import TextGrader
from asa_engine.nn.bert import load_bert
from asa_engine.objectives import cross_entropy, focal_loss
from asa_engine.training.pictures import confusion_svg
from asa_engine.training.text import trainer as training
from asa_engine.training.text.corpus import (
    attention_bias,
    frozen_outputs,
    load_sides,
    padded,
)
from asa_engine.training.text.recipe import ObjectiveRecipe, TextRecipe
from asa_engine.training.text.report import figures
from asa_engine.training.text.trainer import objective_of, train

# The same float32 sums in another order.
TOLERANCE = 1e-5


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return training_samples.text(tmp_path)


def test_a_comparison_ends_in_a_checkpoint_a_report_and_a_picture(place: Path) -> None:
    out = train(place / "tiny.toml", place / "out")
    report = json.loads((out / "training.json").read_text())
    assert list(report["objectives"]) == ["focal", "blv"]
    focal = report["objectives"]["focal"]
    assert len(focal["pcc"]["runs"]) == 2
    assert focal["pcc"]["mean"] == pytest.approx(np.mean(focal["pcc"]["runs"]), abs=1e-4)
    deviation = np.std(focal["rmse"]["runs"], ddof=1)
    # Both come from runs rounded to four places.
    assert focal["rmse"]["deviation"] == pytest.approx(deviation, abs=2e-4)
    assert report["nothing_heard"] == {"train": ["u7"], "dev": []}
    assert sum(report["train"]["classes"]) == report["train"]["n"] == 35
    assert np.sum(report["confusion"]["focal"]) == 2 * report["dev"]["n"] == 2 * 9
    assert (out / "confusion.svg").read_text().count("<g ") == 2
    config = TextConfig.load(out)
    assert config.class_scores == (3.0, 6.0, 9.0)
    assert config.classes == ("low", "middle", "high")
    assert config.is_whole
    assert config.aspect.sd
    assert not (place / "out.training").exists()


def test_the_checkpoint_is_the_shipped_run(place: Path) -> None:
    out = train(place / "tiny.toml", place / "out")
    grader = TextGrader.load(out)
    pieces = WordPieces.open(out / "tokenizer.json", 16)
    recipe = TextRecipe.load(place / "tiny.toml")
    heard = {f"u{i}": training_samples.SAID[(3.0, 6.0, 9.0)[i % 3]] for i in range(45)}
    _, dev = load_sides(recipe.sides(), recipe.data, recipe.classes.cuts, lambda: heard, pieces)
    ids, mask = padded([torch.tensor(item) for item in dev.pieces])
    with torch.inference_mode():
        logits = grader(ids, mask).double().numpy()
    found = figures(logits, dev, grader.config)
    report = json.loads((out / "training.json").read_text())
    shipped = {name: runs["runs"][0] for name, runs in report["objectives"]["focal"].items()}
    # Figures are rounded to four places.
    assert found == pytest.approx(shipped, abs=1e-4)


def test_it_goes_on_after_a_kill_and_ends_the_same(place: Path, monkeypatch) -> None:
    whole = train(place / "tiny.toml", place / "whole")
    ran = training.TextComparison.run
    count = 0

    def killed(self, run):
        nonlocal count
        count += 1
        if count > 2:
            raise KeyboardInterrupt
        ran(self, run)

    monkeypatch.setattr(training.TextComparison, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        train(place / "tiny.toml", place / "out")
    assert not (place / "out").exists()
    monkeypatch.setattr(training.TextComparison, "run", ran)
    out = train(place / "tiny.toml", place / "out")
    for name in ("weights.safetensors", "config.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    first, second = (json.loads((f / "training.json").read_text()) for f in (whole, out))
    assert {**first, "seconds": 0} == {**second, "seconds": 0}


def test_another_recipe_does_not_go_on_with_the_state(place: Path, monkeypatch) -> None:
    monkeypatch.setattr(training.TextComparison, "finish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(place / "tiny.toml", place / "out")
    text = (place / "tiny.toml").read_text()
    (place / "tiny.toml").write_text(text.replace("epochs = 2", "epochs = 3"))
    with pytest.raises(CheckpointError, match="another recipe"):
        train(place / "tiny.toml", place / "out")


def test_layers_below_the_tuned_ones_are_left_as_they_were(place: Path) -> None:
    grader = TextGrader.load(train(place / "tiny.toml", place / "out"))
    before, after = load_bert(place / "bert").state_dict(), grader.bert.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[2] for name in changed} == {"1", "2"}


def test_embeddings_learn_where_they_are_told_to(place: Path) -> None:
    text = (place / "tiny.toml").read_text()
    (place / "tiny.toml").write_text(
        text.replace("tuned_layers = 2", "tuned_layers = 3\ntuned_embeddings = true")
    )
    out = train(place / "tiny.toml", place / "out")
    grader = TextGrader.load(out)
    before, after = load_bert(place / "bert").state_dict(), grader.bert.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "embeddings.word_embeddings.weight" in changed
    assert {name.split(".")[2] for name in changed if "encoder" in name} == {"0", "1", "2"}
    # The checkpoint, through the reference, gives the figures of the report.
    recipe = TextRecipe.load(place / "tiny.toml")
    heard = {f"u{i}": training_samples.SAID[(3.0, 6.0, 9.0)[i % 3]] for i in range(45)}
    pieces = WordPieces.open(out / "tokenizer.json", 16)
    _, dev = load_sides(recipe.sides(), recipe.data, recipe.classes.cuts, lambda: heard, pieces)
    ids, mask = padded([torch.tensor(item) for item in dev.pieces])
    with torch.inference_mode():
        found = figures(grader(ids, mask).double().numpy(), dev, grader.config)
    report = json.loads((out / "training.json").read_text())
    shipped = {name: runs["runs"][0] for name, runs in report["objectives"]["focal"].items()}
    # Figures are rounded to four places.
    assert found == pytest.approx(shipped, abs=1e-4)
    (place / "tiny.toml").write_text(
        text.replace("tuned_layers = 2", "tuned_layers = 2\ntuned_embeddings = true")
    )
    with pytest.raises(UsageError, match="all of them where embeddings are tuned"):
        train(place / "tiny.toml", place / "less")


def test_frozen_outputs_are_berts_own(place: Path) -> None:
    bert = load_bert(place / "bert")
    pieces = WordPieces.open(place / "bert" / "tokenizer.json", 16)
    heard = {f"u{i}": training_samples.SAID[(3.0, 6.0, 9.0)[i % 3]] for i in range(45)}
    recipe = TextRecipe.load(place / "tiny.toml")
    train_side, _ = load_sides(recipe.sides(), recipe.data, (4.5, 7.5), lambda: heard, pieces)
    hidden = frozen_outputs(bert, train_side, 1)
    for index in (0, 1, 2):
        ids = torch.tensor([train_side.pieces[index]])
        with torch.inference_mode():
            wanted = bert(input_ids=ids, output_hidden_states=True).hidden_states[1][0]
        torch.testing.assert_close(hidden[index], wanted, atol=TOLERANCE, rtol=0)


def test_attention_leaves_the_padding_out() -> None:
    bias = attention_bias(torch.tensor([[1, 1, 0]]))
    assert bias.shape == (1, 1, 1, 3)
    assert bias.flatten().tolist()[:2] == [0.0, 0.0]
    assert bias.flatten()[2] < -1e30


def test_objectives_follow_the_recipe() -> None:
    rng = np.random.default_rng(4)
    z, y = torch.from_numpy(rng.normal(0, 1, (9, 3))), torch.from_numpy(rng.integers(0, 3, 9))
    counts = [5, 3, 1]

    def loss(**fields):
        item = ObjectiveRecipe(name="x", **fields)
        return objective_of(item, counts, torch.Generator().manual_seed(1))(z, y).item()

    assert loss(kind="cross_entropy") == cross_entropy(z, y).item()
    assert loss(kind="focal", gamma=1.0) == focal_loss(z, y, 1.0).item()
    assert loss(kind="blv", sigma=0.0) == pytest.approx(cross_entropy(z, y).item(), abs=1e-12)
    assert loss(kind="blv", sigma=6.0) != loss(kind="blv", sigma=2.0)
    assert loss(kind="blv", sigma=6.0) != loss(kind="blv", sigma=6.0, clamp=1.0)


def test_a_class_without_examples_is_refused(place: Path) -> None:
    text = (place / "tiny.toml").read_text()
    (place / "tiny.toml").write_text(text.replace("[4.5, 7.5]", "[1.5, 4.5]"))
    with pytest.raises(ManifestError, match="no example"):
        train(place / "tiny.toml", place / "out")


def test_the_confusion_matrix_escapes_names_and_counts_rows() -> None:
    svg = confusion_svg({"a<b": [[3, 1], [0, 0]]}, ("low", "high & up"))
    assert "a&lt;b" in svg
    assert "high &amp; up" in svg
    assert 'fill-opacity="0.760"' in svg  # 0.04 + 0.96 * 3/4
    assert svg.count("<rect") == 1 + 4


def test_expected_scores_are_the_models() -> None:
    config = make_config()
    logits = np.random.default_rng(0).normal(0, 2, (7, 3))
    from asa_engine.training.text.report import expected_scores

    wanted = TextGrader(config).expected_score(torch.from_numpy(logits)).numpy()
    np.testing.assert_allclose(expected_scores(logits, config), wanted, atol=TOLERANCE)
