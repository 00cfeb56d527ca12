"""Per-stage timings: named scopes that add up, and spans for whoever records them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from asa_engine.kernels.laps import Lap

__all__ = [
    "LapSource",
    "Recorder",
    "Span",
    "StageClock",
    "lap_sources",
    "operator_trace_folder",
    "recording",
]


class Span(NamedTuple):
    """One scope that has ended.

    Attributes:
        stage: Name of the stage.
        start_s: When it began, by `time.perf_counter`.
        end_s: When it ended.
        own_ms: Its length less that of the scopes inside it.
        args: What the scope was given to say of itself, e.g. its number of frames.
    """

    stage: str
    start_s: float
    end_s: float
    own_ms: float
    args: Mapping[str, int]


Recorder: TypeAlias = Callable[[Span], None]
LapSource: TypeAlias = "Callable[[], list[Lap]]"
"""Returns what a backend's kernels did since the last call."""

_recorder: ContextVar[Recorder | None] = ContextVar("recorder", default=None)
_operator_traces: ContextVar[Path | None] = ContextVar("operator_traces", default=None)
_lap_sources: ContextVar[list[LapSource] | None] = ContextVar("lap_sources", default=None)


@contextlib.contextmanager
def recording(
    recorder: Recorder,
    *,
    operator_traces: Path | None = None,
    lap_sources: list[LapSource] | None = None,
) -> Iterator[None]:
    """Let every `StageClock` made in the block, by this thread, report its spans.

    Args:
        recorder: Called when a scope ends, on the thread it ran on.
        operator_traces: Folder for the operator traces of backends opened in the block, from
            those that can write them.
        lap_sources: Where backends opened and streams begun in the block put a function that tells
            what their kernels did, those that can.
    """
    tokens = (
        _recorder.set(recorder),
        _operator_traces.set(operator_traces),
        _lap_sources.set(lap_sources),
    )
    try:
        yield
    finally:
        _recorder.reset(tokens[0])
        _operator_traces.reset(tokens[1])
        _lap_sources.reset(tokens[2])


def operator_trace_folder() -> Path | None:
    """Return where a backend opened now should write its operator trace; mostly `None`."""
    return _operator_traces.get()


def lap_sources() -> list[LapSource] | None:
    """Return where what is opened now should say how to ask its kernels; mostly `None`."""
    return _lap_sources.get()


class StageClock:
    """Adds up wall time by stage name.

    Scopes do not nest into one another's totals: time inside an inner scope is taken off the
    outer one, so the totals sum to the time measured.
    """

    def __init__(self) -> None:
        self._totals_ms: dict[str, float] = {}
        self._inner_ms = [0.0]
        self._recorder = _recorder.get()

    @contextlib.contextmanager
    def scope(self, stage: str, **args: int) -> Iterator[dict[str, int]]:
        """Add the block's own time to `stage`; `args` go into the span, if it is recorded.

        The block is given `args` and may add to them.
        """
        self._inner_ms.append(0.0)
        start = time.perf_counter()
        try:
            yield args
        finally:
            end = time.perf_counter()
            took = 1e3 * (end - start)
            own = took - self._inner_ms.pop()
            self._inner_ms[-1] += took
            self._totals_ms[stage] = self.total_ms(stage) + own
            if self._recorder is not None:
                self._recorder(Span(stage, start, end, own, args))

    def total_ms(self, stage: str) -> float:
        """Return the milliseconds spent in `stage` so far."""
        return self._totals_ms.get(stage, 0.0)

    def totals_ms(self) -> dict[str, float]:
        """Return the milliseconds spent in each stage so far."""
        return dict(self._totals_ms)
