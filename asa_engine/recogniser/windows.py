"""Cut speech into windows at its pauses, while it comes in.

A window begins where the speech detector finds somebody speaking; from there on pauses are told by
level, which costs a tenth of the detector. Where a window ends follows from the samples up to a
bounded distance beyond its end, so the windows are the same however a recording is cut into chunks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from asa_engine.audio.vad import CONTEXT_SAMPLES, FRAME_SAMPLES, SpeechDetector

__all__ = ["MAX_WINDOW_SAMPLES", "SpeechWindow", "SpeechWindows"]

SAMPLE_RATE_HZ: Final = 16_000
FRAMES_PER_S: Final = SAMPLE_RATE_HZ / FRAME_SAMPLES  # 31.25

# Somebody speaks once so many of the last `LEAD_FRAMES` are more likely speech than not; less is
# no word. The lead stays in the window: the detector is late, and words have soft edges.
SPEECH_PROBABILITY: Final = 0.5
MIN_SPEECH_FRAMES: Final = 4
LEAD_FRAMES: Final = 32

# A pause of so many frames closes a window of at least so many. Fewer, longer windows cost less in
# all; what is open at the end is what the learner waits for. The longer a window has run, the
# shorter a pause will do; nothing is cut in mid sentence where there is a choice.
PAUSES: Final = (
    (1, round(2 * FRAMES_PER_S)),
    (round(14 * FRAMES_PER_S), 16),
    (round(18 * FRAMES_PER_S), 6),
)
# Before the second of these applies, pauses are looked for only so often.
PATIENCE_FRAMES: Final = 16
MAX_FRAMES: Final = round(28 * FRAMES_PER_S)
MAX_WINDOW_SAMPLES: Final = MAX_FRAMES * FRAME_SAMPLES
# Where there is no pause at all, the cut falls on the quietest frame of the last 10 s.
LAST_RESORT_FRAMES: Final = round(10 * FRAMES_PER_S)
# Quiet kept behind the speech.
MARGIN_FRAMES: Final = 16

# A frame is quiet 25 dB below the window's loudest frames, or, in noise, below two fifths of the
# way from its quietest tenth to them, but by 8 dB at least.
QUIET_BELOW_DB: Final = 25.0
QUIET_SHARE: Final = 0.4
QUIET_LEAST_DB: Final = 8.0
FLOOR_POWER: Final = 1e-8  # -80 dBFS


@dataclass(frozen=True, slots=True)
class SpeechWindow:
    """A stretch of audio with speech in it.

    Attributes:
        start: Its first sample, counted from the recording's first.
        samples: float32 [n], at most `MAX_WINDOW_SAMPLES` and a frame.
        speech_s: Seconds of it that are not quiet.
        speech_from_s: When the first of them begins.
    """

    start: int
    samples: NDArray[np.float32]
    speech_s: float
    speech_from_s: float


class SpeechWindows:
    """Cuts 16 kHz audio; holds at most one open window."""

    def __init__(self) -> None:
        self._buffer = np.zeros(CONTEXT_SAMPLES + MAX_WINDOW_SAMPLES + FRAME_SAMPLES, np.float32)
        self._levels = np.zeros(MAX_FRAMES)
        self._start = 0
        self._filled = 0  # samples of the open window, beyond the context before it
        self._frames = 0  # whole ones among them
        self._detector = SpeechDetector()
        self._speech: list[int] = []  # frames of the lead in which somebody speaks
        self._is_open = False

    def push(self, samples: NDArray[np.float32]) -> list[SpeechWindow]:
        """Take float32 samples [n]; return the windows that they close."""
        closed = []
        at = 0
        while at < len(samples):
            whole = (self._frames + 1) * FRAME_SAMPLES
            take = min(whole - self._filled, len(samples) - at)
            begin = CONTEXT_SAMPLES + self._filled
            self._buffer[begin : begin + take] = samples[at : at + take]
            self._filled += take
            at += take
            if self._filled == whole:
                self._take_frame()
                if self._is_open and (window := self._close_at_pause()) is not None:
                    closed.append(window)
        return closed

    def finish(self) -> SpeechWindow | None:
        """Return the open window, or `None` if nobody speaks in it."""
        return self._window(self._frames, self._filled) if self._is_open else None

    def _take_frame(self) -> None:
        """Measure the newest frame; while nobody speaks, ask the detector and forget the past."""
        end = CONTEXT_SAMPLES + (self._frames + 1) * FRAME_SAMPLES
        frame = self._buffer[end - FRAME_SAMPLES : end].astype(np.float64)
        power = float((frame * frame).sum()) / FRAME_SAMPLES
        self._levels[self._frames] = 10 * math.log10(max(power, FLOOR_POWER))
        self._frames += 1
        if self._is_open:
            return
        heard = self._buffer[end - FRAME_SAMPLES - CONTEXT_SAMPLES : end]
        if self._detector.probability(heard) >= SPEECH_PROBABILITY:
            self._speech.append(self._frames - 1)
        self._is_open = len(self._speech) >= MIN_SPEECH_FRAMES
        if not self._is_open and self._frames == LEAD_FRAMES:
            self._forget(1)
            self._speech = [frame - 1 for frame in self._speech if frame]

    def _close_at_pause(self) -> SpeechWindow | None:
        frames = self._frames
        if frames < PAUSES[1][0] and frames % PATIENCE_FRAMES:
            return None
        quiet = frames - 1 - int(self._loud(frames)[-1])
        if any(frames >= least and quiet >= pause for least, pause in PAUSES):
            cut = frames - quiet // 2
        elif frames == MAX_FRAMES:
            first = frames - LAST_RESORT_FRAMES
            cut = first + int(self._levels[first:frames].argmin()) + 1
        else:
            return None
        window = self._window(cut, cut * FRAME_SAMPLES)
        self._forget(cut)
        self._detector = SpeechDetector()
        self._speech = []
        self._is_open = False
        self._reopen()
        return window

    def _reopen(self) -> None:
        """Look for speech in the frames behind the cut, as if they came in now."""
        self._frames = 0
        while (self._frames + 1) * FRAME_SAMPLES <= self._filled:
            self._take_frame()

    def _loud(self, frames: int) -> NDArray[np.intp]:
        """Return which of the first frames are not quiet."""
        levels = self._levels[:frames]
        lowest, highest = frames // 10, frames - MIN_SPEECH_FRAMES
        ordered = np.partition(levels, (lowest, highest))
        floor, top = ordered[lowest], ordered[highest]
        quiet = max(top - QUIET_BELOW_DB, floor + QUIET_SHARE * (top - floor))
        quiet = min(quiet, top - QUIET_LEAST_DB)
        return np.flatnonzero(levels >= quiet)

    def _window(self, frames: int, samples: int) -> SpeechWindow:
        """Return the first frames as a window, without the quiet behind its speech."""
        loud = self._loud(frames)
        end = min(samples, (int(loud[-1]) + 1 + MARGIN_FRAMES) * FRAME_SAMPLES)
        audio = self._buffer[CONTEXT_SAMPLES : CONTEXT_SAMPLES + end].copy()
        from_s, heard_s = int(loud[0]) / FRAMES_PER_S, len(loud) / FRAMES_PER_S
        return SpeechWindow(self._start, audio, heard_s, from_s)

    def _forget(self, frames: int) -> None:
        """Let the open window begin so many frames later."""
        gone = frames * FRAME_SAMPLES
        kept = self._buffer[gone : CONTEXT_SAMPLES + self._filled].copy()
        self._buffer[: kept.size] = kept
        self._levels[: self._frames - frames] = self._levels[frames : self._frames].copy()
        self._filled -= gone
        self._frames -= frames
        self._start += gone
