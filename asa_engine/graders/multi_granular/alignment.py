"""Which frames are whose: the read text's phones laid over the frames of a recording.

One left-to-right path: every phone has at least one frame, and between words, before the first and
after the last there may be silence (Rabiner 1989, section III B, Viterbi).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["SILENCE", "Alignment", "align"]

SILENCE = 0
"""Class of frames that hold no phone."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """Phones and their frames.

    Attributes:
        spans: First frame, and the frame after the last, of each phone, int64 [P, 2].
        fit: Mean over the phones' frames of log p(phone) - max log p: 0 where the text's phones
            are everywhere the likeliest, the lower the less the recording sounds like the text.
    """

    spans: NDArray[np.int64]
    fit: float


def align(
    log_probabilities: NDArray[np.float32], phones: Sequence[int], words: Sequence[int]
) -> Alignment | None:
    """Lay phones over frames.

    Args:
        log_probabilities: Of the classes at each frame, float32 [T, C].
        phones: Class of each phone, in order, P of them.
        words: Which word each is of, ascending.

    Returns:
        The likeliest path, or `None` where there are fewer frames than phones.
    """
    length, count = len(log_probabilities), len(phones)
    if not count or length < count:
        return None
    classes, owners = [SILENCE], [-1]
    for index, (phone, word) in enumerate(zip(phones, words, strict=True)):
        if index and word != words[index - 1]:
            classes.append(SILENCE)
            owners.append(-1)
        classes.append(phone)
        owners.append(index)
    classes.append(SILENCE)
    owners.append(-1)
    states = np.array(owners)
    emitted = log_probabilities[:, classes].astype(np.float64)
    # A silence may be passed over, the phones beside it may not.
    skips = np.full(len(states), -np.inf)
    skips[2:][states[1:-1] < 0] = 0.0
    best = np.full(len(states), -np.inf)
    best[:2] = emitted[0, :2]
    steps = np.zeros((length, len(states)), np.int8)
    ways = np.full((3, len(states)), -np.inf)
    columns = np.arange(len(states))
    for frame in range(1, length):
        ways[0] = best
        ways[1, 1:] = best[:-1]
        ways[2, 2:] = best[:-2] + skips[2:]
        steps[frame] = ways.argmax(0)
        best = ways[steps[frame], columns] + emitted[frame]
    state = len(states) - 1 if best[-1] >= best[-2] else len(states) - 2
    path = np.empty(length, np.int64)
    for frame in range(length - 1, -1, -1):
        path[frame] = state
        state -= int(steps[frame, state])
    owner = states[path]
    firsts = np.searchsorted(path, np.flatnonzero(states >= 0), side="left")
    lasts = np.searchsorted(path, np.flatnonzero(states >= 0), side="right")
    spoken = owner >= 0
    lost = emitted[spoken, path[spoken]] - log_probabilities[spoken].max(1)
    return Alignment(np.stack((firsts, lasts), 1), float(lost.mean()))
