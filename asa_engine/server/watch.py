"""Time as clients are judged by it: that in which this process was awake to hear them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Self

__all__ = ["Patience", "Watch"]


class Watch:
    """A clock that stands still while the process does: stopped, swapped out, or overloaded.

    Args:
        interval_s: How often it looks; a longer pause between two looks counts as two of these.
        on_look: Called with (seconds awake, seconds late) at every look.

    Attributes:
        awake_s: Seconds awake since the start.
    """

    def __init__(
        self, interval_s: float, on_look: Callable[[float, float], None] = lambda awake, late: None
    ) -> None:
        self.awake_s = 0.0
        self._interval_s = interval_s
        self._on_look = on_look
        self._waiting: set[Patience] = set()

    async def run(self) -> None:
        """Look, again and again, until cancelled."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(self._interval_s)
            passed_s = time.monotonic() - before
            self.awake_s += min(passed_s, 2 * self._interval_s)
            self._on_look(self.awake_s, passed_s - self._interval_s)
            for patience in tuple(self._waiting):
                patience.look()

    def add(self, patience: Patience) -> None:
        """Look at this one, too."""
        self._waiting.add(patience)

    def discard(self, patience: Patience) -> None:
        """Look at it no longer."""
        self._waiting.discard(patience)


class Patience:
    """How long one client is waited for: no long silence, and no trickle either.

    Args:
        watch: The clock.
        idle_s: Longest silence; also what a slow client may be behind.
        expire: Called, once, when the client has been waited for too long.
    """

    def __init__(self, watch: Watch, idle_s: float, expire: Callable[[], None]) -> None:
        self._watch = watch
        self._idle_s = idle_s
        self._expire = expire
        self._last_s = watch.awake_s
        self._due_s = watch.awake_s + idle_s
        self._is_held = False

    def __enter__(self) -> Self:
        """Start to wait."""
        self._watch.add(self)
        return self

    def __exit__(self, *ended: object) -> None:
        """Wait no longer."""
        self.stop()

    def stop(self) -> None:
        """Wait no longer."""
        self._watch.discard(self)

    def heard(self, worth_s: float) -> None:
        """Take note that something came, for which another `worth_s` seconds may pass."""
        self._last_s = self._watch.awake_s
        self._due_s += worth_s

    def rest(self, seconds: float) -> None:
        """Wait so long for the next thing to come, if that is more than the longest silence."""
        self._last_s = self._watch.awake_s + max(0.0, seconds - self._idle_s)
        self._due_s = max(self._due_s, self._last_s + self._idle_s)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Do not wait for the client while the server itself does not read."""
        start_s = self._watch.awake_s
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
            self._last_s = self._watch.awake_s
            self._due_s += self._watch.awake_s - start_s

    def look(self) -> None:
        """Let the patience end where it must."""
        now_s = self._watch.awake_s
        if self._is_held or (now_s - self._last_s <= self._idle_s and now_s <= self._due_s):
            return
        self.stop()
        self._expire()
