"""Numbers too small for full precision: kept by everybody, flushed while a grader is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["flushed_subnormals"]

_SUBNORMAL = 2.0**-140


@contextmanager
def flushed_subnormals() -> Iterator[None]:
    """Take subnormal numbers for zero, then what was before.

    Moments that fade to them slow every step many times over; but the CPU's switch is the whole
    thread's, and others there count on them.
    """
    before = bool(torch.tensor(_SUBNORMAL) == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
