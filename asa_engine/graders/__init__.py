"""The graders: one folder each, and those that installed packages bring.

A grader is an entry point of the group `asa_engine.graders`: its name, and "module:ENTRY" of its
`GraderEntry`. Ours are found the same way. Importing this package imports no grader;
`grader_entry` imports the run-time side of one, which needs neither torch nor transformers.
"""

from __future__ import annotations

import functools
from importlib import metadata
from typing import Any, Final

from asa_engine.errors import BundleError
from asa_engine.graders.entry import (
    MIXED,
    EmbeddingRun,
    Explains,
    Foretells,
    GraderEntry,
    MixedPrecision,
    Placed,
    Run,
    SessionRun,
    Stages,
    load_attribute,
)

__all__ = [
    "DEFAULT_GRADER",
    "MIXED",
    "EmbeddingRun",
    "Explains",
    "Foretells",
    "GraderEntry",
    "MixedPrecision",
    "Placed",
    "Run",
    "SessionRun",
    "Stages",
    "grader_entries",
    "grader_entry",
    "grader_names",
    "load_attribute",
]

GROUP: Final = "asa_engine.graders"
DEFAULT_GRADER: Final = "acoustic"
"""What a recipe trains that names none."""


@functools.cache
def _ours() -> dict[str, metadata.EntryPoint]:
    """Those of this package: read from its own metadata, which takes no look at the others'."""
    points = metadata.distribution("asa-engine").entry_points
    return {point.name: point for point in points if point.group == GROUP}


@functools.cache
def _all() -> dict[str, metadata.EntryPoint]:
    """Ours, then those of other packages; a name of ours is never replaced."""
    others = {point.name: point for point in metadata.entry_points(group=GROUP)}
    return _ours() | {name: others[name] for name in sorted(others.keys() - _ours().keys())}


def grader_names() -> tuple[str, ...]:
    """Return the names of all graders, whether they can be imported or not."""
    return tuple(_all())


def grader_entry(name: str) -> GraderEntry[Any, Any]:
    """Return the entry of a grader.

    Raises:
        BundleError: There is no such grader in this engine, or its package cannot be imported.
    """
    point = _ours().get(name) or _all().get(name)
    if point is None:
        raise BundleError(
            f"this engine has no grader {name!r}",
            hint=f"it has {', '.join(grader_names())}; a newer asa-engine may have more",
        )
    try:
        entry = point.load()
    except Exception as failure:  # whatever a stranger's module raises while it is imported
        package = point.dist.name if point.dist is not None else point.value
        raise BundleError(
            f"the grader {name!r} of {package} cannot be imported: {failure}",
            hint=f"repair or remove the package {package}",
        ) from None
    if not isinstance(entry, GraderEntry) or entry.name != name:
        raise BundleError(
            f"{point.value} is not the entry of a grader {name!r}",
            hint="an entry point of asa_engine.graders names a GraderEntry of its own name",
        )
    return entry


def grader_entries() -> tuple[dict[str, GraderEntry[Any, Any]], dict[str, str]]:
    """Return the graders that can be imported, and for each of the others why it cannot."""
    entries: dict[str, GraderEntry[Any, Any]] = {}
    broken: dict[str, str] = {}
    for name in grader_names():
        try:
            entries[name] = grader_entry(name)
        except BundleError as error:
            broken[name] = str(error)
    return entries, broken
