"""Training: corpora, recipes, the loops. Needs torch; the engine never imports this at run time.

A recipe names its grader at the top (`grader = "text"`; "acoustic" where it says nothing), and
`TRAINERS` names the function that follows it.
"""

from __future__ import annotations

import importlib
import tomllib
from collections.abc import Callable
from pathlib import Path

from asa_engine.errors import UsageError
from asa_engine.training.recipe import find_recipe

__all__ = ["TRAINERS", "train"]

TRAINERS = {
    "acoustic": "asa_engine.training.loop:train",
    "text": "asa_engine.graders.text.training:train",
    "speech_llm": "asa_engine.training.speech_llm:train",
    "speech_llm_session": "asa_engine.training.session:train",
    "multi_aspect": "asa_engine.graders.multi_aspect.training:train",
    "multi_granular": "asa_engine.training.multi_granular:train",
}


def train(recipe: str | Path, output: str | Path, resume: bool = True) -> Path:
    """Train the grader that a recipe names; write its checkpoint and report.

    Args:
        recipe: TOML file, or the name of a shipped recipe.
        output: Checkpoint folder to write.
        resume: Go on with a run of the same recipe; False starts anew.

    Returns:
        The output folder.

    Raises:
        UsageError: The recipe is wrong, or names a grader that cannot be trained.
        ManifestError: The corpus cannot be used.
        CheckpointError: A backbone, or the state to resume, cannot be used.
    """
    path = find_recipe(recipe)
    grader = _grader_of(path)
    if grader not in TRAINERS:
        raise UsageError(
            f"{path}: a grader {grader!r} cannot be trained",
            mend=f"choose from {', '.join(TRAINERS)}",
        )
    module, name = TRAINERS[grader].split(":")
    trainer: Callable[[Path, Path, bool], Path] = getattr(importlib.import_module(module), name)
    return trainer(path, Path(output), resume)


def _grader_of(path: Path) -> str:
    """Return the grader that a recipe names; an unreadable recipe is left to its trainer."""
    try:
        named = tomllib.loads(path.read_text(encoding="utf-8")).get("grader", "acoustic")
    except (OSError, ValueError):
        return "acoustic"
    return named if isinstance(named, str) else "acoustic"
