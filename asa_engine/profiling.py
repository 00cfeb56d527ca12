"""Per-stage timings: named scopes that add up."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

__all__ = ["StageClock"]


class StageClock:
    """Adds up wall time by stage name.

    Scopes do not nest into one another's totals: time inside an inner scope is taken off the
    outer one, so the totals sum to the time measured.
    """

    def __init__(self) -> None:
        self._totals_ms: dict[str, float] = {}
        self._inner_ms = [0.0]

    @contextlib.contextmanager
    def scope(self, stage: str) -> Iterator[None]:
        """Add the block's own time to `stage`."""
        self._inner_ms.append(0.0)
        start = time.perf_counter()
        try:
            yield
        finally:
            took = 1e3 * (time.perf_counter() - start)
            inner = self._inner_ms.pop()
            self._inner_ms[-1] += took
            self._totals_ms[stage] = self.total_ms(stage) + took - inner

    def total_ms(self, stage: str) -> float:
        """Return the milliseconds spent in `stage` so far."""
        return self._totals_ms.get(stage, 0.0)

    def sum_ms(self) -> float:
        """Return the milliseconds spent in all stages."""
        return sum(self._totals_ms.values())
