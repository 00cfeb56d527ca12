"""Cut speech into windows at its pauses, while it comes in.

Where a window ends follows from the samples up to a fixed distance beyond its end, so the windows
of a recording are the same however it is cut into chunks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from asa_engine.vad import CONTEXT_SAMPLES, FRAME_SAMPLES, SpeechDetector

__all__ = ["MAX_WINDOW_SAMPLES", "SpeechWindow", "SpeechWindows"]

SAMPLE_RATE_HZ: Final = 16_000
FRAMES_PER_S: Final = SAMPLE_RATE_HZ / FRAME_SAMPLES  # 31.25

SPEECH_PROBABILITY: Final = 0.5
PAUSE_PROBABILITY: Final = 0.35

# A pause of so many frames closes a window of at least so many. The longer a window has run, the
# shorter a pause will do; nothing is cut in mid sentence where there is a choice.
PAUSES: Final = (
    (1, round(2 * FRAMES_PER_S)),
    (round(8 * FRAMES_PER_S), 16),
    (round(15 * FRAMES_PER_S), 6),
)
MAX_FRAMES: Final = round(28 * FRAMES_PER_S)
MAX_WINDOW_SAMPLES: Final = MAX_FRAMES * FRAME_SAMPLES
# Where there is no pause at all, the cut falls on the least likely speech of the last 10 s.
LAST_RESORT_FRAMES: Final = round(10 * FRAMES_PER_S)

# Less speech than this is no word.
MIN_SPEECH_FRAMES: Final = 4
# Silence kept at either side of the speech: the detector is late, and words have soft edges.
MARGIN_FRAMES: Final = 16


@dataclass(frozen=True, slots=True)
class SpeechWindow:
    """A stretch of audio with speech in it.

    Attributes:
        start: Its first sample, counted from the recording's first.
        samples: float32 [n], at most `MAX_WINDOW_SAMPLES` and a frame.
        speech_s: Seconds of it that are speech.
        speech_from_s: When the first speech in it begins.
    """

    start: int
    samples: NDArray[np.float32]
    speech_s: float
    speech_from_s: float


class SpeechWindows:
    """Cuts 16 kHz audio; holds at most one open window."""

    def __init__(self) -> None:
        self._detector = SpeechDetector()
        self._buffer = np.zeros(CONTEXT_SAMPLES + MAX_WINDOW_SAMPLES + FRAME_SAMPLES, np.float32)
        self._filled = 0  # samples of the open window, beyond the context before it
        self._start = 0
        self._probabilities: list[float] = []

    def push(self, samples: NDArray[np.float32]) -> list[SpeechWindow]:
        """Take float32 samples [n]; return the windows that they close."""
        closed = []
        at = 0
        while at < len(samples):
            whole = (len(self._probabilities) + 1) * FRAME_SAMPLES
            take = min(whole - self._filled, len(samples) - at)
            begin = CONTEXT_SAMPLES + self._filled
            self._buffer[begin : begin + take] = samples[at : at + take]
            self._filled += take
            at += take
            if self._filled == whole:
                frame = self._buffer[whole - FRAME_SAMPLES : whole + CONTEXT_SAMPLES]
                self._probabilities.append(self._detector.probability(frame))
                if (window := self._advance()) is not None:
                    closed.append(window)
        return closed

    def finish(self) -> SpeechWindow | None:
        """Return the open window, or `None` if nobody speaks in it."""
        return self._take(len(self._probabilities), self._filled)

    def _advance(self) -> SpeechWindow | None:
        """Close the open window if the newest frame says so, or forget silence before speech."""
        frames = len(self._probabilities)
        quiet = 0
        while quiet < frames and self._probabilities[-1 - quiet] < PAUSE_PROBABILITY:
            quiet += 1
        if quiet == frames:
            if frames > 2 * MARGIN_FRAMES:
                self._forget(frames - MARGIN_FRAMES)
            return None
        if any(frames >= least and quiet >= pause for least, pause in PAUSES):
            return self._close(frames - quiet // 2)
        if frames == MAX_FRAMES:
            first = frames - LAST_RESORT_FRAMES
            recent = self._probabilities[first:]
            return self._close(first + min(range(len(recent)), key=recent.__getitem__) + 1)
        return None

    def _close(self, frames: int) -> SpeechWindow | None:
        window = self._take(frames, frames * FRAME_SAMPLES)
        self._forget(frames)
        return window

    def _take(self, frames: int, samples: int) -> SpeechWindow | None:
        """Return the first frames as a window without the silence after its speech."""
        speech = [i for i in range(frames) if self._probabilities[i] >= SPEECH_PROBABILITY]
        if len(speech) < MIN_SPEECH_FRAMES:
            return None
        end = min(samples, (speech[-1] + 1 + MARGIN_FRAMES) * FRAME_SAMPLES)
        audio = self._buffer[CONTEXT_SAMPLES : CONTEXT_SAMPLES + end].copy()
        heard_s, from_s = len(speech) / FRAMES_PER_S, speech[0] / FRAMES_PER_S
        return SpeechWindow(self._start, audio, heard_s, from_s)

    def _forget(self, frames: int) -> None:
        """Let the open window begin so many frames later."""
        gone = frames * FRAME_SAMPLES
        kept = self._buffer[gone : CONTEXT_SAMPLES + self._filled].copy()
        self._buffer[: kept.size] = kept
        self._filled -= gone
        self._start += gone
        del self._probabilities[:frames]
