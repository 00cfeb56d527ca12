"""The papers' recipes can be read, say what the papers say, and stand in the documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from asa_engine.corpora import LAYOUTS
from asa_engine.corpora.icnale import BANDS
from asa_engine.corpora.teemi import LEVELS
from asa_engine.graders import grader_entry, load_attribute
from asa_engine.graders.multi_aspect.model import MultiAspectGrader
from asa_engine.nn.config import BertShape
from asa_engine.training import _grader_of
from asa_engine.training.recipe import shipped
from asa_engine.training.recipe_file import RECIPES, find_recipe

PAGE = Path(__file__).parents[2] / "docs" / "papers.md"
PAPERS = ("s1", "s2", "s3", "s4", "s5")


def _recipe(name: str) -> Any:
    path = find_recipe(f"papers/{name}")
    assert path == RECIPES / "papers" / f"{name}.toml"
    kind = load_attribute(grader_entry(_grader_of(path)).recipe)
    return kind.load(path)


@pytest.mark.parametrize("name", PAPERS)
def test_it_can_be_read_and_its_commands_are_ours(name: str) -> None:
    recipe = _recipe(name)
    assert recipe.steps(100) > 0
    assert recipe.wanted()[0]
    lines = find_recipe(f"papers/{name}").read_text().splitlines()
    corpus, training = (line.split() for line in lines if line.startswith("#   asa-engine"))
    assert corpus[3] in LAYOUTS
    assert corpus[corpus.index("-o") + 1] == recipe.data.manifest
    assert training[2:4] == ["train", f"papers/{name}"]
    assert f"papers/{name}" in PAGE.read_text()


def test_s1_tunes_all_of_bert_on_icnales_bands() -> None:
    recipe = _recipe("s1")
    assert recipe.classes.names == BANDS
    assert recipe.encoder.tuned_layers == BertShape(layers=12).layers
    assert recipe.encoder.tuned_embeddings
    assert {item.sigma for item in recipe.objectives if item.kind == "blv"} == {2.0, 6.0}
    assert all(item.clamp is None for item in recipe.objectives)


def test_s2_has_the_papers_widths() -> None:
    config = _recipe("s2").config
    assert (config.frame_width, config.prompt_width, config.widths[0]) == (768, 768, 1536)
    assert config.aspects[0].level_names == LEVELS
    with torch.device("meta"):
        assert MultiAspectGrader(config).head.out_features == 4 * 8


def test_s3_answers_with_six_letters_and_trains_as_stated() -> None:
    recipe = _recipe("s3")
    assert recipe.fit.epochs == 2
    assert (recipe.fit.lr, recipe.adapter.rank) == (1e-4, 16)
    assert {item.kind for item in recipe.objectives} == {
        "zero_shot", "regression", "cross_entropy", "soft_cross_entropy", "fair_average",
    }  # fmt: skip


def test_s4_hears_whole_sessions_behind_their_prior() -> None:
    recipe = _recipe("s4")
    assert shipped(recipe.runs, recipe.ship).prior == "first"
    assert len(recipe.prior.levels) == 8
    assert not recipe.sessions.shuffle
    assert recipe.sessions.missing == recipe.sessions.missing_last == 0
    backbones = recipe.backbones
    assert backbones.encoder == backbones.language_model != backbones.prior_encoder


def test_s5_prefers_by_bounded_dpo() -> None:
    recipe = _recipe("s5")
    assert (recipe.preference.beta, recipe.preference.mix) == (0.1, 0.5)
    assert recipe.backbones.layer_weights == (*[0.0] * 32, 1.0)  # large-v3 has 32 layers
