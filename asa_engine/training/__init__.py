"""Training: corpora, recipes, the loops. Needs torch; the engine never imports this at run time.

A recipe names its grader at the top (`grader = "text"`; `DEFAULT_GRADER` where it says nothing),
and the grader's entry names the function that follows it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asa_engine.errors import UsageError
from asa_engine.graders import DEFAULT_GRADER, grader_entry, grader_names, load_attribute
from asa_engine.graders.entry import GraderEntry
from asa_engine.training.recipe import Recipe
from asa_engine.training.recipe_file import find_recipe

if TYPE_CHECKING:
    from asa_engine.training.rehearsal import Rehearsal

__all__ = ["rehearse", "train"]


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
    from asa_engine.training.rehearsal import check_memory

    path = find_recipe(recipe)
    entry = _entry_of(path)
    if entry.recipe:
        check_memory(_load(path, entry))
    trainer: Callable[[Path, Path, bool], Path] = load_attribute(entry.trainer)
    return trainer(path, Path(output), resume)


def rehearse(recipe: str | Path) -> Rehearsal:
    """Check a recipe's corpus and models, and reckon its steps, memory and time; train nothing.

    Raises:
        UsageError: As for `train`; or the recipe takes more memory than there is.
        ManifestError: The corpus cannot be used.
        CheckpointError: A model cannot be used.
    """
    from asa_engine.training import rehearsal

    path = find_recipe(recipe)
    entry = _entry_of(path)
    if not entry.recipe:
        raise UsageError(f"{path}: training of {entry.name!r} cannot be rehearsed")
    return rehearsal.rehearse(_load(path, entry))


def _load(path: Path, entry: GraderEntry[Any, Any]) -> Recipe:
    kind: type[Recipe] = load_attribute(entry.recipe)
    return kind.load(path)


def _entry_of(path: Path) -> GraderEntry[Any, Any]:
    grader = _grader_of(path)
    if grader not in grader_names() or not grader_entry(grader).trainer:
        raise UsageError(
            f"{path}: a grader {grader!r} cannot be trained",
            hint=f"choose from {', '.join(grader_names())}",
        )
    return grader_entry(grader)


def _grader_of(path: Path) -> str:
    """Return the grader that a recipe names; an unreadable recipe is left to its trainer."""
    try:
        named = tomllib.loads(path.read_text(encoding="utf-8")).get("grader", DEFAULT_GRADER)
    except (OSError, ValueError):
        return DEFAULT_GRADER
    return named if isinstance(named, str) else DEFAULT_GRADER
