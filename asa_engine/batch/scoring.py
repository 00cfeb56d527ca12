"""Recordings to rows in this process, in their order."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any

from asa_engine.assessment import Assessment
from asa_engine.batch.recordings import Recording
from asa_engine.batch.rows import Row
from asa_engine.errors import AsaError

__all__ = ["score_here"]


def score_here(
    recordings: Iterable[Recording], assess: Callable[[Recording], Assessment]
) -> Generator[Row, None, None]:
    """Yield the row of each recording; one that fails has its error there."""
    for recording in recordings:
        try:
            outcome: Mapping[str, Any] = assess(recording).to_dict()
        except AsaError as error:
            outcome = error.to_dict()
        yield Row(recording, outcome)
