"""How far scores err by how much was said: what a grader's configuration keeps of its dev side."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from asa_engine.evaluation.metrics import rmse
from asa_engine.graders.aspects import AspectConfig

__all__ = ["DURATION_BINS", "error_by_duration", "errors_by_duration"]

DURATION_BINS = 4
MIN_BIN = 20


def error_by_duration(
    seconds: NDArray[np.float64],
    predicted: NDArray[np.float64],
    expected: NDArray[np.float64],
    bins: int | None = None,
) -> tuple[tuple[float, float], ...]:
    """Return the expected error by seconds of speech, for `AspectConfig.sd`.

    Each bin of recordings, alike in duration, contributes its median duration and the root of its
    mean squared error.

    Args:
        seconds: Durations [n].
        predicted: Scores [n].
        expected: The experts', [n].
        bins: How many; by default quarters, or one where a quarter has fewer than 20 recordings.
    """
    if bins is None:
        bins = DURATION_BINS if len(seconds) >= DURATION_BINS * MIN_BIN else 1
    table = {
        round(float(np.median(seconds[part])), 2): round(rmse(predicted[part], expected[part]), 3)
        for part in np.array_split(np.argsort(seconds, kind="stable"), bins)
        if len(part)
    }
    return tuple(sorted(table.items()))


def errors_by_duration(
    aspects: Sequence[AspectConfig],
    seconds: NDArray[np.float64],
    predicted: NDArray[np.float64],
    expected: NDArray[np.float64],
) -> tuple[AspectConfig, ...]:
    """Return the aspects with their `error_by_duration`; scores are [n, A]."""
    return tuple(
        dataclasses.replace(aspect, sd=error_by_duration(seconds, predicted[:, a], expected[:, a]))
        for a, aspect in enumerate(aspects)
    )
