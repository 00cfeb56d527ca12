"""Progress of long work, on standard error, only where a person watches."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

__all__ = ["progress"]

T = TypeVar("T")
_EVERY_S = 0.2


def progress(items: Iterable[T], *, what: str = "recordings") -> Iterator[T]:
    """Yield the items, showing count and time left on a terminal."""
    listed = list(items)
    show = sys.stderr.isatty()
    start = shown = time.monotonic()
    for done, item in enumerate(listed):
        now = time.monotonic()
        if show and done and now - shown > _EVERY_S:
            left_s = (now - start) / done * (len(listed) - done)
            print(
                f"\r\x1b[K{done}/{len(listed)} {what}, {left_s:.0f} s left",
                end="",
                file=sys.stderr,
                flush=True,
            )
            shown = now
        yield item
    if show:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
