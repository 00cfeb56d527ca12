"""The graders: one folder each, one line each in `GRADERS`.

Importing this package imports no grader; `grader_entry` imports the run-time side of one, which
needs neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from asa_engine.errors import BundleError

__all__ = ["GRADERS", "GraderEntry", "grader_entry"]

GRADERS = {
    "acoustic": "asa_engine.graders.acoustic.runtime:ENTRY",
}


@dataclass(frozen=True, slots=True)
class GraderEntry:
    """What the engine needs to know of a grader.

    Attributes:
        name: Its key in `GRADERS`.
        summary: One line for people.
        exact_when: What is final when, in a stream; one line.
        config: Builds the grader's frozen configuration from `config.json`.
        run: Starts scoring one recording: (config, backend, clock) -> run.
    """

    name: str
    summary: str
    exact_when: str
    config: Callable[[Mapping[str, Any]], Any]
    run: Callable[..., Any]


def grader_entry(name: str) -> GraderEntry:
    """Return the entry of a grader.

    Raises:
        BundleError: There is no such grader in this engine.
    """
    if name not in GRADERS:
        raise BundleError(
            f"this engine has no grader {name!r}",
            mend=f"it has {', '.join(GRADERS)}; a newer asa-engine may have more",
        )
    module, attribute = GRADERS[name].split(":")
    entry: GraderEntry = getattr(importlib.import_module(module), attribute)
    return entry
