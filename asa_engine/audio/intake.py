"""One recording on its way to a grader: converted, judged, and cut to its speech."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from operator import attrgetter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from asa_engine.audio.convert import SAMPLE_RATE_HZ, AudioChunk, ChunkConverter
from asa_engine.audio.front import Kept, SpeechFront
from asa_engine.audio.validity import Validity, ValidityMonitor
from asa_engine.profiling import StageClock

__all__ = ["GATED", "LEVELLED", "WHOLE", "Intake", "heard_samples", "source_time_s"]

WHOLE: Final = 0
"""A grader hears the recording as it is."""
LEVELLED: Final = 1
"""It hears speech and its surroundings alone, behind the high-pass and at one level."""
GATED: Final = 2
"""It hears speech and its surroundings alone, as they are but for an offset."""


class Intake:
    """Takes chunks; gives what the grader is to hear. The detector runs once for all.

    Args:
        sample_rate_hz: Rate of the chunks.
        front: The grader's `front`: `WHOLE`, `LEVELLED` or `GATED`.
        clock: Collects `decode` and `validity` times.

    Attributes:
        converter: What the samples come from.
        kept: Which stretches of the recording the grader has heard; empty without a front.
    """

    def __init__(self, sample_rate_hz: int, front: int, clock: StageClock | None = None) -> None:
        self.converter = ChunkConverter(sample_rate_hz)
        self._clock = clock or StageClock()
        self._monitor = ValidityMonitor()
        is_gated = front == GATED
        self._front = SpeechFront(self._monitor.hear, level=not is_gated, as_is=is_gated)
        self._has_front = bool(front)
        self.kept: Sequence[Kept] = self._front.kept if front else ()

    def push(self, chunk: AudioChunk) -> NDArray[np.float32]:
        """Take the next chunk; return the samples that the grader is to hear now.

        Returns:
            float32 [n] at 16 kHz, n may be 0.

        Raises:
            AudioError: Wrong dtype or shape, NaN or infinity.
        """
        with self._clock.scope("decode"):
            samples = self.converter.push(chunk)
        with self._clock.scope("validity"):
            return self._hear(samples)

    @property
    def asked(self) -> int:
        """Frames that the detector was asked about."""
        return self._front.asked

    def missing_s(self, samples: int) -> float:
        """Return the seconds that must come, at least, before the grader hears so many more.

        Args:
            samples: At 16 kHz.
        """
        if self._has_front:
            samples = self._front.missing(samples)
        return samples / SAMPLE_RATE_HZ

    def close(self) -> NDArray[np.float32]:
        """End the recording; return the last samples that the grader is to hear.

        Raises:
            AudioError: No audio was pushed at all.
        """
        with self._clock.scope("decode"):
            rest = self.converter.close()
        with self._clock.scope("validity"):
            samples = self._hear(rest)
            if self._monitor.is_certain and not self._has_front:
                return samples
            last = self._front.finish()
            return np.concatenate((samples, last)) if self._has_front else samples

    def validity(self) -> Validity:
        """Return whether the recording, now closed, could be judged."""
        with self._clock.scope("validity"):
            speech_s = self._front.speech_s if self._has_front else None
            return self._monitor.finish(self.converter, speech_s)

    def _hear(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        self._monitor.push(samples)
        if self._monitor.is_certain and not self._has_front:
            return samples  # the detector has done its work
        heard = self._front.push(samples)
        return heard if self._has_front else samples


def heard_samples(samples: NDArray[np.float32], front: int) -> NDArray[np.float32]:
    """Return what a grader hears of a whole recording, float32 [n] at 16 kHz."""
    if not front:
        return samples
    is_gated = front == GATED
    speech = SpeechFront(level=not is_gated, as_is=is_gated)
    return np.concatenate((speech.push(samples), speech.finish()))


def source_time_s(kept: Sequence[Kept], time_s: float) -> float:
    """Return where in the recording something lies that the grader heard at a time.

    Args:
        kept: Of an `Intake`; where it is empty, the grader heard the recording as it is.
        time_s: Seconds of what the grader heard.
    """
    if not kept:
        return time_s
    at = bisect.bisect_right(kept, time_s * SAMPLE_RATE_HZ, key=attrgetter("start")) - 1
    span = kept[max(at, 0)]
    return time_s + (span.source - span.start) / SAMPLE_RATE_HZ
