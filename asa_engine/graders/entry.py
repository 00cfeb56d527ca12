"""What the engine knows of a grader, and what a grader does for it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from asa_engine.assessment import Grade
from asa_engine.audio.front import Kept
from asa_engine.bundle import Bundle
from asa_engine.errors import BackendError, BundleError

if TYPE_CHECKING:
    from asa_engine.graders.aspects import AspectConfig
    from asa_engine.profiling import StageClock

__all__ = [
    "MIXED",
    "Configuration",
    "EmbeddingRun",
    "Explains",
    "Foretells",
    "GraderEntry",
    "MixedPrecision",
    "Opener",
    "Placed",
    "Run",
    "ScoreMany",
    "SessionRun",
    "Stages",
    "load_attribute",
    "openers",
]

MIXED = "mixed"
"""The precision of a grader whose encoder has one for each layer."""


class Configuration(Protocol):
    """A grader's frozen configuration."""

    @property
    def aspects(self) -> tuple[AspectConfig, ...]:
        """What is scored, in order."""

    @property
    def front(self) -> int:
        """What stands between the samples and the grader (`asa_engine.audio.front`); 0: nothing."""


class Stages(Protocol):
    """A grader's opened stages."""

    def versions(self) -> dict[str, str]:
        """Return the libraries that the scores depend on, and their versions."""


class Run(Protocol):
    """One recording being scored."""

    def push(self, samples: NDArray[np.float32]) -> None:
        """Take float32 mono samples at 16 kHz; do the work that they make final."""

    def provisional(self) -> Grade | None:
        """Return the grade of what is final so far, or `None` before there is any."""

    def finish(self) -> Grade | None:
        """Return the final grade; `None` where the audio is too short to hold anything."""


class EmbeddingRun(Run, Protocol):
    """A run that keeps its encoder frames."""

    @property
    def frames(self) -> list[NDArray[np.float32]]:
        """Frames of each window, float32 [T, D]."""

    @property
    def frame_rate_hz(self) -> float:
        """Frames a second of audio."""


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
class Placed(Protocol):
    """A run that is told where in the recording lies what it hears."""

    kept: Sequence[Kept]


@runtime_checkable
class Foretells(Protocol):
    """A run that knows when it will have something new to say."""

    @property
    def missing(self) -> int:
        """Samples (16 kHz) that must come before it has, at least."""


@runtime_checkable
class Explains(Protocol):
    """A run that hands out its rationale while it writes it."""

    on_text: Callable[[str], None] | None


C = TypeVar("C", bound=Configuration)
S = TypeVar("S", bound=Stages)

Opener = Callable[[Bundle, str, int], S]
"""(bundle, precision, threads) -> stages on one backend."""
Layers = tuple[str, ...]


def openers(
    open_one: Callable[[str, Bundle, str, int], S], *backends: str, **others: Opener[S]
) -> dict[str, Opener[S]]:
    """Return what opens a grader's stages on several backends.

    Args:
        open_one: Opens them on any of `backends`: (backend, bundle, precision, threads) -> stages.
        backends: Names of runtimes.
        others: Name of a further runtime -> what opens them there.
    """
    return {**{name: partial(open_one, name) for name in backends}, **others}


ScoreMany = Callable[[Sequence[NDArray[np.float32]]], list[dict[str, float] | None]]
"""Recordings, float32 [n] at 16 kHz -> scores of each; `None` where it cannot be scored."""


@dataclass(frozen=True, slots=True)
class MixedPrecision:
    """How the precision of each layer of a grader's native encoder is searched for.

    Attributes:
        layers: Layers of a bundle's encoder; 0 where they cannot be searched.
        dense: The precision that int8 leaves a layer's projections at, on this CPU.
        scorer: (bundle, threads) -> (layers, recordings) -> scores float64 [recordings, aspects].
        pack: Writes the weights as this CPU's kernels read them: (bundle, precision, folder).
        packed: Name of the folder that `pack` writes into.
    """

    layers: Callable[[Bundle], int]
    dense: Callable[[], str]
    scorer: Callable[
        [Bundle, int], Callable[[Layers, Sequence[NDArray[np.float32]]], NDArray[np.float64]]
    ]
    pack: Callable[[Bundle, str, Path], None]
    packed: str


@dataclass(frozen=True, slots=True)
class GraderEntry(Generic[C, S]):
    """What the engine, training and export need to know of a grader.

    Attributes:
        name: Its name, the same in `asa_engine.graders`, `asa_engine.training` and `asa_export`.
        summary: One line for people.
        exact_when: What is final when, in a stream; one line.
        config: Builds the grader's frozen configuration from `config.json`.
        backends: Name of a runtime -> what opens the grader's stages on it.
        run: Starts scoring one recording: (config, stages, clock, request) -> `Run`.
        uses: Which texts of a `Request` the grader takes.
        requires: Those of them without which it refuses to score.
        score: Starts a run that stops once the aspects have their scores, where more follows: what
            exports are compared by.
        extra: Names of asa-engine's extras that it needs, for people; "" if none.
        reference: Opens the PyTorch stages that exports are compared with, (bundle, threads) ->
            stages, where these are not those of the torch backend: a grader that recognises words
            is compared on the same words.
        reference_many: Opens the PyTorch reference as fast as it can be made: (bundle, threads,
            most windows a call) -> `ScoreMany`. Without it, benchmarks compare speed with the
            torch backend.
        session: Starts scoring a whole session, for graders that hear all of it at once:
            (config, stages, clock, mode=..., tolerance=...) -> `SessionRun`. Others score each
            response, and parts and session are means.
        embed: Starts a run that keeps its encoder frames: (config, stages, clock) ->
            `EmbeddingRun`; `None` where there are none to hand out.
        mixed: How a precision for each layer is searched for; `None` where there is one for all.
        trainer: "module:function" that follows a recipe; "" where it cannot be trained.
        exporter: "module:attribute" of its `asa_export.exporter.Exporter`; "" where it cannot be
            exported.
        device: "module:function" that makes the one file of it that libasa reads: (bundle,
            precision, name) -> bytes; "" where libasa does not run it.
    """

    name: str
    summary: str
    exact_when: str
    config: Callable[[Mapping[str, Any]], C]
    backends: Mapping[str, Opener[S]]
    run: Callable[..., Run]
    uses: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    score: Callable[..., Run] | None = None
    extra: str = ""
    reference: Callable[[Bundle, int], S] | None = None
    reference_many: Callable[[Bundle, int, int], ScoreMany] | None = None
    session: Callable[..., SessionRun] | None = None
    embed: Callable[[C, S, StageClock], EmbeddingRun] | None = None
    mixed: MixedPrecision | None = None
    trainer: str = field(default="", kw_only=True)
    recipe: str = ""
    exporter: str = field(default="", kw_only=True)
    device: str = field(default="", kw_only=True)

    def open(self, bundle: Bundle, backend: str, precision: str, threads: int) -> S:
        """Open the grader's stages on a backend.

        Raises:
            BackendError: The backend does not run this grader, or cannot run here.
            BundleError: The bundle holds no artifact for it.
        """
        if backend not in self.backends:
            raise BackendError(
                f"the {backend} backend does not run the {self.name} grader",
                hint=f"choose from {', '.join(self.backends)}",
            )
        return self.backends[backend](bundle, precision, threads)

    def open_reference(self, bundle: Bundle, threads: int) -> S:
        """Open the PyTorch stages that exports are compared with.

        Raises:
            BackendError: PyTorch is not here.
            CheckpointError: The checkpoint is damaged.
        """
        if self.reference is not None:
            return self.reference(bundle, threads)
        return self.open(bundle, "torch", "fp32", threads)


def load_attribute(name: str) -> Any:
    """Return what "module:attribute" names, importing the module only now.

    Raises:
        BundleError: The module cannot be imported, or lacks the attribute.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise BundleError(
            f"{name} cannot be loaded: {error}", hint="install what it needs, or repair the package"
        ) from None
