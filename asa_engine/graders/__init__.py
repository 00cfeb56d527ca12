"""The graders: one folder each, one line each in `GRADERS`.

Importing this package imports no grader; `grader_entry` imports the run-time side of one, which
needs neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from asa_engine.assessment import Grade
from asa_engine.bundle import Bundle
from asa_engine.errors import BundleError

if TYPE_CHECKING:
    from asa_engine.selection import Choice

__all__ = ["GRADERS", "Explains", "GraderEntry", "Run", "SessionRun", "grader_entry"]

GRADERS = {
    "acoustic": "asa_engine.graders.acoustic.runtime:ENTRY",
    "text": "asa_engine.graders.text.runtime:ENTRY",
    "multi_aspect": "asa_engine.graders.multi_aspect.runtime:ENTRY",
    "speech_llm": "asa_engine.graders.speech_llm.runtime:ENTRY",
    "multi_granular": "asa_engine.graders.multi_granular.runtime:ENTRY",
    "speech_llm_session": "asa_engine.graders.speech_llm.session_runtime:ENTRY",
}


@dataclass(frozen=True, slots=True)
class GraderEntry:
    """What the engine needs to know of a grader.

    Attributes:
        name: Its key in `GRADERS`.
        summary: One line for people.
        exact_when: What is final when, in a stream; one line.
        config: Builds the grader's frozen configuration from `config.json`; it has `aspects`.
        open: Opens the grader's stages: (bundle, choice, threads) -> stages. These have
            `versions()`, the libraries that the scores depend on.
        run: Starts scoring one recording: (config, stages, clock, request) -> `Run`.
        uses: Which texts of a `Request` the grader takes.
        requires: Those of them without which it refuses to score.
        score: Starts a run that stops once the aspects have their scores, where more follows: what
            exports are compared by.
        extra: Names of asa-engine's extras that it needs, for people; "" if none.
        open_reference: Opens the PyTorch stages that exports are compared with, (bundle, threads)
            -> stages, where these are not those of the torch backend: a grader that recognises
            words is compared on the same words.
        session: Starts scoring a whole session, for graders that hear all of it at once:
            (config, stages, clock, mode=..., tolerance=...) -> `SessionRun`. Others score each
            response, and parts and session are means.
    """

    name: str
    summary: str
    exact_when: str
    config: Callable[[Mapping[str, Any]], Any]
    open: Callable[[Bundle, Choice, int], Any]
    run: Callable[..., Run]
    uses: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    score: Callable[..., Run] | None = None
    extra: str = ""
    open_reference: Callable[[Bundle, int], Any] | None = None
    session: Callable[..., SessionRun] | None = None


class Run(Protocol):
    """One recording being scored."""

    def push(self, samples: NDArray[np.float32]) -> None:
        """Take float32 mono samples at 16 kHz; do the work that they make final."""

    def provisional(self) -> Grade | None:
        """Return the grade of what is final so far, or `None` before there is any."""

    def finish(self) -> Grade | None:
        """Return the final grade; `None` where the audio is too short to hold anything."""


class SessionRun(Protocol):
    """One session being scored; responses come one after another, part by part."""

    mode: str

    def begin(self, part: str) -> None:
        """Begin the next response."""

    def push(self, samples: NDArray[np.float32]) -> None:
        """Take float32 mono samples at 16 kHz of the response."""

    def end(self, *, keep: bool = True) -> bool:
        """End the response, or forget it; return whether it counts."""

    def provisional(self) -> Grade | None:
        """Return the grade, were this all; `None` before anything was heard."""

    def finish(self) -> Grade | None:
        """Return the final grade; `None` where nothing was heard."""


@runtime_checkable
class Explains(Protocol):
    """A run that hands out its rationale while it writes it."""

    on_text: Callable[[str], None] | None


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
