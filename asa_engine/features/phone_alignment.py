"""Which frames are whose: the read text's phones aligned with the frames of a recording.

One left-to-right path: every phone has at least one frame, and between words, before the first and
after the last there may be silence (Rabiner 1989, section III B, Viterbi).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asa_engine.kernels.viterbi import best_path

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
        score: Log-probability of the whole path.
    """

    spans: NDArray[np.int64]
    fit: float
    score: float


def align(
    log_probabilities: NDArray[np.float32],
    phones: Sequence[int],
    words: Sequence[int],
    *,
    whole: bool = True,
) -> Alignment | None:
    """Lay phones over frames.

    Args:
        log_probabilities: Of the classes at each frame, float32 [T, C].
        phones: Class of each phone, in order, P of them.
        words: Which word each is of, ascending.
        whole: Whether the recording holds all of the text. If not, the path may end with any phone,
            and the spans are those of the phones before it.

    Returns:
        The likeliest path, or `None` where there are fewer frames than phones of a whole text.
    """
    length, count = len(log_probabilities), len(phones)
    if not count or not length or (whole and length < count):
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
    # A silence may be passed over, the phones beside it may not.
    path, score = best_path(
        np.ascontiguousarray(log_probabilities, np.float32),
        classes,
        (states < 0).tolist(),
        whole=whole,
    )
    if not len(path):
        return None
    begun = states[: path[-1] + 1] >= 0
    owner = states[path]
    firsts = np.searchsorted(path, np.flatnonzero(begun), side="left")
    lasts = np.searchsorted(path, np.flatnonzero(begun), side="right")
    spoken = owner >= 0
    if not spoken.any():
        return None
    emitted = log_probabilities[spoken, np.asarray(classes)[path[spoken]]].astype(np.float64)
    lost = emitted - log_probabilities[spoken].max(1)
    return Alignment(np.stack((firsts, lasts), 1), float(lost.mean()), score)
