"""Fundamental frequency on the compiled kernel."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from asa_engine import _kernels

__all__ = ["FRAMES_PER_S", "PitchTrack", "PitchTracker", "track_pitch"]

FRAMES_PER_S = 100


class PitchTrack(NamedTuple):
    """The fundamental frequency of a recording; frame t is centred on sample 160 t.

    Attributes:
        f0_hz: 65 to 2093 Hz, 0 where unvoiced, float32 [n // 160 + 1].
        voiced: Probability that the frame is voiced, float32 of the same shape.
    """

    f0_hz: NDArray[np.float32]
    voiced: NDArray[np.float32]


class PitchTracker:
    """Tracks the pitch of one recording whose samples arrive in pieces.

    Probabilistic YIN (Mauch and Dixon 2014, "pYIN: a fundamental frequency estimator using
    probabilistic threshold distributions"). Candidates are found as samples arrive; the path
    through them is global, so no frame is final before `finish`. The track is bit-equal for all
    pieces and instruction sets.
    """

    def __init__(self) -> None:
        self._tracker = _kernels.PitchTracker()

    def push(self, samples: NDArray[np.float32]) -> None:
        """Take float32 mono samples at 16 kHz [n].

        Raises:
            ValueError: A sample is NaN or infinite; none is taken.
        """
        self._tracker.push(np.ascontiguousarray(samples))

    def finish(self) -> PitchTrack:
        """Return the track of all samples, and start the next recording."""
        return PitchTrack(*self._tracker.finish())


def track_pitch(samples: ArrayLike) -> PitchTrack:
    """Return the pitch track of a whole recording, float32 [n] at 16 kHz.

    Raises:
        ValueError: A sample is NaN or infinite.
    """
    tracker = PitchTracker()
    tracker.push(np.asarray(samples, dtype=np.float32))
    return tracker.finish()
