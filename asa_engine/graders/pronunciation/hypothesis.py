"""What was said where no text is known: the likeliest run of phones, each held for a while."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["SWITCH", "phone_run"]

SWITCH = 2.0
"""What a change of phone costs, nats."""


def phone_run(
    heard: NDArray[np.float32], switch: float = SWITCH
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the likeliest phones and their frames.

    Viterbi over a loop of all classes: staying is free, every change costs `switch`.

    Args:
        heard: Log-probabilities of silence and the phones, float32 [T, C].
        switch: In nats.

    Returns:
        Spans int64 [P, 2] and classes int64 [P], silence left out.
    """
    length, count = heard.shape
    best = heard[0].astype(np.float64)
    comes_from = np.empty((length, count), np.int64)
    stay = np.arange(count)
    for frame in range(1, length):
        top = int(best.argmax())
        changed = best[top] - switch
        comes_from[frame] = np.where(best >= changed, stay, top)
        best = np.maximum(best, changed) + heard[frame]
    path = np.empty(length, np.int64)
    state = int(best.argmax())
    for frame in range(length - 1, -1, -1):
        path[frame] = state
        state = int(comes_from[frame, state])
    starts = np.flatnonzero(np.diff(path, prepend=-1))
    spans = np.stack((starts, np.append(starts[1:], length)), 1)
    classes = path[starts]
    spoken = classes != 0
    return spans[spoken], classes[spoken]
