"""The likeliest path through states from left to right, on a compiled kernel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from asa_engine import _kernels

__all__ = ["best_path"]


def best_path(
    log_probabilities: NDArray[np.float32],
    emits: Sequence[int],
    optional: Sequence[bool],
    *,
    whole: bool = True,
) -> tuple[NDArray[np.int32], float]:
    """Find the likeliest path (Rabiner 1989, section III B, Viterbi).

    A path begins in one of the first two states, stays or goes on by one state a frame, or by two
    where the one between is optional, and ends in one of the last two. Of equals it stays.

    Args:
        log_probabilities: Of the classes at each frame, float32 [T, C].
        emits: Class that each state emits, S of them, S at least 2.
        optional: Whether each state may be passed over, S of them.
        whole: Whether it must reach the end; if not, it may end in any state.

    Returns:
        The state at each frame, int32 [T], and the path's log-probability; no state and -infinity
        where no path reaches the end.

    Raises:
        ValueError: No frames, NaN, fewer than two states, a class that there is not, or unequal
            lengths.
        TypeError: `log_probabilities` is not contiguous float32 [T, C].
    """
    return _kernels.viterbi(log_probabilities, list(emits), list(map(bool, optional)), whole)
