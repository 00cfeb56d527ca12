"""What a long run does: which bundle, which step, how long it took and how long it will."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Self, TypeVar

__all__ = ["Progress", "duration"]

T = TypeVar("T")
USUAL_S = 75.0
"""What a bundle takes on two idle cores, where none was timed here."""
_REDRAWN_S = 0.5
_TOLD_SHARE = 0.25


def duration(seconds: float) -> str:
    """Return a duration in minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


class Progress(logging.Handler):
    """Shows the steps that a logger tells of: on a terminal in one line, elsewhere a line a step.

    Args:
        logger: What it listens to inside a `with` block.
        expected_s: What is to be made, in order -> seconds that it took the last time, if known.
    """

    def __init__(self, logger: logging.Logger, expected_s: Mapping[str, float | None]) -> None:
        super().__init__(logging.INFO)
        known = [value for value in expected_s.values() if value is not None]
        usual = sum(known) / len(known) if known else USUAL_S
        self._expected = {name: value or usual for name, value in expected_s.items()}
        self._logger = logger
        self._start = self._began = time.monotonic()
        self._done: dict[str, float] = {}
        self._name = ""
        self._step = ""
        self._drawn = 0.0
        self._counted_s = 0.0
        self._redraws = sys.stdout.isatty()

    def __enter__(self) -> Self:
        self._logger.addHandler(self)
        return self

    def __exit__(self, *failure: object) -> None:
        self._logger.removeHandler(self)
        self._clear()

    def begin(self, name: str) -> None:
        """Begin one of what is to be made; the one before is done."""
        now = time.monotonic()
        if self._name:
            self._done[self._name] = now - self._began
        self._name, self._began = name, now

    def emit(self, record: logging.LogRecord) -> None:
        """Show the step that has begun."""
        self._step = record.getMessage()
        self._show(self._step)

    def count(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items, showing how many are done."""
        listed = list(items)
        start, told = time.monotonic(), 0.0
        for index, item in enumerate(listed):
            share = index / len(listed)
            if share:
                self._counted_s = (time.monotonic() - start) * (1 - share) / share
            if self._redraws or share - told >= _TOLD_SHARE:
                told = share
                self._show(f"{self._step}: {index} done", every_s=_REDRAWN_S * self._redraws)
            yield item
        self._counted_s = 0.0

    def say(self, text: str) -> None:
        """Print lines that stay."""
        self._clear()
        print(text, flush=True)

    def left_s(self) -> float:
        """Return how long the rest will take, by what the runs before and this one took.

        What is counted takes at least as long as its pace so far says.
        """
        took, meant = sum(self._done.values()), sum(self._expected[name] for name in self._done)
        pace = took / meant if took else 1.0
        waiting = [name for name in self._expected if name not in (*self._done, self._name)]
        current = pace * self._expected.get(self._name, 0.0) - (time.monotonic() - self._began)
        return max(0.0, current, self._counted_s) + pace * sum(
            self._expected[name] for name in waiting
        )

    def _show(self, what: str, every_s: float = 0.0) -> None:
        now = time.monotonic()
        if now - self._drawn < every_s:
            return
        self._drawn = now
        place = f"{len(self._done) + 1}/{len(self._expected)} {self._name}"
        times = f"{duration(now - self._start)} gone, about {duration(self.left_s())} left"
        line = f"[{times}] {place}: {what}"
        if self._redraws:
            print(f"\r\x1b[K{line}", end="", flush=True)
        else:
            print(line, flush=True)

    def _clear(self) -> None:
        if self._redraws:
            print("\r\x1b[K", end="", flush=True)
