"""Progress of long work, on standard error, only where a person watches."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

__all__ = ["Progress", "progress"]

T = TypeVar("T")
_EVERY_S = 0.2
_BAR = 20


class Progress:
    """A line with a bar, the count, the rate and the time left.

    Args:
        total: How many there are.
        what: What they are.
        done: How many of them were done before; they tell nothing of the rate.
    """

    def __init__(self, total: int, *, what: str = "recordings", done: int = 0) -> None:
        self._total = total
        self._what = what
        self._done = self._before = done
        self._show = total > 1 and sys.stderr.isatty()
        self._start = self._shown = time.monotonic()

    def step(self) -> None:
        """Count one more, and show it if the last time was a while ago."""
        self._done += 1
        now = time.monotonic()
        if self._show and now - self._shown > _EVERY_S and self._done < self._total:
            self._shown = now
            self._write(f"\r\x1b[K{self.line(now - self._start)}")

    def line(self, elapsed_s: float) -> str:
        """Return what is shown after a time."""
        rate = (self._done - self._before) / max(elapsed_s, 1e-9)
        left_s = (self._total - self._done) / rate if rate else 0.0
        full = _BAR * self._done // max(self._total, 1)
        left = f"{left_s:.0f} s" if left_s < 100 else f"{left_s / 60:.0f} min"
        left = left if left_s < 6000 else f"{left_s / 3600:.1f} h"
        return (
            f"[{'#' * full}{'.' * (_BAR - full)}] {self._done}/{self._total} {self._what}, "
            f"{rate:.1f}/s, {left} left"
        )

    def clear(self) -> None:
        """Remove the line, so that something else can be written."""
        if self._show:
            self._write("\r\x1b[K")
            self._shown = 0.0

    def _write(self, text: str) -> None:
        print(text, end="", file=sys.stderr, flush=True)


def progress(items: Iterable[T], *, what: str = "recordings") -> Iterator[T]:
    """Yield the items, showing how far the work is on a terminal."""
    listed = list(items)
    shown = Progress(len(listed), what=what)
    for item in listed:
        yield item
        shown.step()
    shown.clear()
