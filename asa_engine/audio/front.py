"""What graders hear: speech and its near surroundings, at one level, without offset and hum.

Between the 16 kHz samples and every grader's features stand

    samples -> high-pass -> level -> detector -> gate -> gain

all of it compiled (`kernels/audio`), the same that libasa runs. It works on whole frames counted
from the first sample, in float64, so what comes out is bit for bit the same however the recording
was cut into chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asa_engine.audio.vad import FRAME_SAMPLES, speech_kernel

__all__ = ["FRAME_S", "Kept", "SpeechFront"]

SAMPLE_RATE_HZ: Final = 16_000
FRAME_S: Final = FRAME_SAMPLES / SAMPLE_RATE_HZ

Samples = NDArray[np.float32]


class Kept(NamedTuple):
    """A stretch of the recording that the grader hears, in samples at 16 kHz.

    Attributes:
        start: Where it begins in what the grader hears.
        source: Where it begins in the recording.
        samples: How long it is.
    """

    start: int
    source: int
    samples: int


class SpeechFront:
    """Keeps the speech of a recording, its pauses and its near surroundings, at one level.

    What is kept depends on the frames so far alone, so it works in a stream; a pause comes out when
    the speech goes on, or not at all. Frames come out 0.6 to 0.7 s after their last sample: the
    half second that the detector's level looks ahead, the filter's delay and the rest of a block.

    Args:
        listener: Called for every frame with the number of frames that it makes speech: some at
            once where the gate opens.
        level: Bring speech to -26 dBFS; else its level stays as it is.
        as_is: Give the recording as it is but for its offset, not what the high-pass leaves.

    Raises:
        BackendError: The speech detector's weights are missing, or not those that are known.

    Attributes:
        kept: What has come out, stretch by stretch; the same list from first to last.
    """

    def __init__(
        self,
        listener: Callable[[int], None] | None = None,
        *,
        level: bool = True,
        as_is: bool = False,
    ) -> None:
        self._listener = listener
        self._speech = speech_kernel(as_is=as_is, level=level)
        self.kept: list[Kept] = []

    @property
    def speech_s(self) -> float:
        """Seconds of the frames that are speech."""
        return self._speech.speech_s

    @property
    def asked(self) -> int:
        """Frames that the detector was asked about: not those of digital silence."""
        return self._speech.asked

    def push(self, samples: Samples) -> Samples:
        """Take float32 samples [n] at 16 kHz; return the kept ones that are due, float32 [m]."""
        return self._told(*self._speech.push(samples))

    def missing(self, samples: int) -> int:
        """Return how many samples must come, at least, before so many are due."""
        return self._speech.missing(samples)

    def finish(self) -> Samples:
        """End the recording; return the kept samples that are left, float32 [m]."""
        return self._told(*self._speech.finish())

    def _told(self, samples: Samples, speech_frames: NDArray[np.int32]) -> Samples:
        if self._listener is not None:
            for count in speech_frames.tolist():
                self._listener(count)
        if samples.size:
            newest = max(0, len(self.kept) - 1)  # which may have grown
            self.kept[newest:] = [Kept(*stretch) for stretch in self._speech.kept(newest)]
        return samples
