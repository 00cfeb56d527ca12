"""What graders hear: speech and its near surroundings, at one level, without offset and hum.

Between the 16 kHz samples and every grader's features stand

    samples -> high-pass -> level -> detector (`SpeechTrack`) -> gate -> gain (`SpeechFront`)

All of it works on whole frames counted from the first sample, in float64, so what comes out is bit
for bit the same however the recording was cut into chunks.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asa_engine.audio.vad import CONTEXT_SAMPLES, FRAME_SAMPLES, SpeechDetector

__all__ = ["Frame", "Kept", "SpeechFront", "SpeechTrack"]

SAMPLE_RATE_HZ: Final = 16_000
FRAME_S: Final = FRAME_SAMPLES / SAMPLE_RATE_HZ
BLOCK_SAMPLES: Final = 4 * FRAME_SAMPLES

# A linear-phase high-pass, windowed sinc: 66 dB down at 50 and 60 Hz, 0.4 dB at 85 Hz. The mains
# fall below any room; the lowest voices stay.
CUTOFF_HZ: Final = 75.0
OFFSET_HZ: Final = 20.0  # cutoff of what takes the offset alone
TAPS: Final = BLOCK_SAMPLES + 1
KAISER_BETA: Final = 5.9
DELAY_SAMPLES: Final = TAPS // 2

# The detector hears every frame as if the loudest lay at the first level: the loudest of those so
# far, which fade by half in a second, and of the next half second. So noise before speech is not
# raised to the level of speech; and where something much louder begins, it starts afresh.
HEARD_DBFS: Final = -16.0
QUIETEST_DBFS: Final = -73.0  # below, nothing is raised further, nor heard
HEARD_FADE: Final = 0.5**FRAME_S
AHEAD_FRAMES: Final = 16
AFRESH_DB: Final = 6.0

# The floor is the lowest level of the last two seconds and the next half. A sound that stays within
# so much of it is a hum or a tone, whatever the detector says: voices move.
FLOOR_FRAMES: Final = 63
STEADY_DB: Final = 2.0

# Speech begins at the first probability and goes on at the second; or while the level lies within
# a range of the speech so far, and so far over the floor: the detector doubts some speakers whom
# everybody hears.
SPEECH_PROBABILITY: Final = 0.5
STILL_SPEECH_PROBABILITY: Final = 0.35
SPEECH_RANGE_DB: Final = 20.0
OVER_FLOOR_DB: Final = 12.0

# The gate opens once so many of the last frames are speech: a click is one, a short word three.
OPEN_FRAMES: Final = 3
OPEN_SPAN_FRAMES: Final = 8
LEAD_FRAMES: Final = 10  # kept before speech, 0.32 s: the detector is late, words begin softly
TAIL_FRAMES: Final = 10  # kept behind it
GATED_AROUND_FRAMES: Final = 13  # both, of graders trained on whole recordings: nearer to those
PAUSE_FRAMES: Final = 47  # 1.5 s; longer pauses are shortened to it

# Speech leaves at this level, which is measured over speech alone and fades by half in 10 s. The
# first second of speech waits until its level is known.
SPEECH_DBFS: Final = -26.0
LEVEL_FRAMES: Final = 31
LEVEL_FADE: Final = 0.5 ** (FRAME_S / 10.0)
GREATEST_GAIN: Final = 10 ** (50.0 / 20)

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


@dataclass(frozen=True, slots=True)
class Frame:
    """32 ms of a recording.

    Attributes:
        index: Its place, counted from the recording's first frame.
        samples: What the grader is to hear, float64 [FRAME_SAMPLES], fewer at the recording's end.
        power: Mean square behind the high-pass.
        floor: The least power of a frame nearby.
        probability: That it holds speech; 0 for a frame that is not whole.
    """

    index: int
    samples: NDArray[np.float64]
    power: float
    floor: float
    probability: float


class SpeechTrack:
    """High-passes a recording and asks the detector about every frame of it.

    Frames come out 0.6 to 0.7 s after their last sample: `AHEAD_FRAMES`, the filter's delay and
    what completes a block.

    Args:
        as_is: Frames hold the recording as it is but for its offset, not what the high-pass leaves.

    Raises:
        BackendError: The speech detector's package is missing or not the pinned one.
    """

    def __init__(self, *, as_is: bool = False) -> None:
        self._as_is = as_is
        self._detector = SpeechDetector()
        self._source = np.zeros(2 * BLOCK_SAMPLES)  # of it, the first half has been filtered
        self._filled = 0
        self._samples = 0
        self._filtered = np.zeros(CONTEXT_SAMPLES)  # the last of it, what goes before a frame
        self._skip = DELAY_SAMPLES
        self._ahead: deque[_Filtered] = deque()
        self._frames = 0
        self._loudest = 0.0
        self._powers: deque[float] = deque([math.inf], maxlen=FLOOR_FRAMES)

    def push(self, samples: Samples) -> list[Frame]:
        """Take float32 samples [n] at 16 kHz; return the frames that they complete."""
        if samples.size and not self._samples:
            # As if the first sample had always been there: an offset is no step.
            self._source[:BLOCK_SAMPLES] = samples[0]
        self._samples += samples.size
        return self._take(samples)

    def finish(self) -> list[Frame]:
        """Return the last frames; the very last may be shorter than the others."""
        if not self._samples:
            return []
        last = self._source[BLOCK_SAMPLES + self._filled - 1]
        frames = self._take(np.full(DELAY_SAMPLES + BLOCK_SAMPLES, last))
        beyond = self._frames + len(self._ahead) - self._samples // FRAME_SAMPLES
        for _ in range(beyond - 1):
            self._ahead.pop()
        rest = self._ahead.pop().samples[: self._samples % FRAME_SAMPLES]
        while self._ahead:
            frames.append(self._next())
        if rest.size:
            power = float(np.mean(rest * rest))
            frames.append(Frame(self._frames, rest, power, power, 0.0))
        return frames

    def _take(self, samples: NDArray[np.floating]) -> list[Frame]:
        frames = []
        at = 0
        while at < samples.size:
            n = min(samples.size - at, BLOCK_SAMPLES - self._filled)
            begin = BLOCK_SAMPLES + self._filled
            self._source[begin : begin + n] = samples[at : at + n]
            self._filled += n
            at += n
            if self._filled == BLOCK_SAMPLES:
                self._filter_block()
                while len(self._ahead) > AHEAD_FRAMES:
                    frames.append(self._next())
        return frames

    def _filter_block(self) -> None:
        spectrum = np.fft.rfft(self._source)
        begin = BLOCK_SAMPLES + self._skip
        self._skip = 0
        block = np.fft.irfft(spectrum * _high_pass(CUTOFF_HZ), self._source.size)[begin:]
        if self._as_is:
            source = np.fft.irfft(spectrum * _high_pass(OFFSET_HZ), self._source.size)[begin:]
        self._source[:BLOCK_SAMPLES] = self._source[BLOCK_SAMPLES:]
        self._filled = 0
        filtered = np.concatenate((self._filtered, block))
        for at in range(0, block.size, FRAME_SAMPLES):
            heard = filtered[at : at + CONTEXT_SAMPLES + FRAME_SAMPLES]
            samples = heard[CONTEXT_SAMPLES:]
            power = float(np.dot(samples, samples)) / FRAME_SAMPLES
            if self._as_is:
                samples = source[at : at + FRAME_SAMPLES]
            self._ahead.append(_Filtered(heard, samples, power))
        self._filtered = filtered[-CONTEXT_SAMPLES:]

    def _next(self) -> Frame:
        """Ask the detector about the oldest frame of those ahead."""
        ahead = [filtered.power for filtered in self._ahead]
        heard, samples, power = self._ahead.popleft()
        loudest = max(_QUIETEST, self._loudest * HEARD_FADE, *ahead)
        floor = min(*ahead, *self._powers)
        if loudest > self._loudest * 10 ** (AFRESH_DB / 10):
            self._detector = SpeechDetector()
        self._loudest = loudest
        self._powers.append(power)
        probability = 0.0
        if loudest > _QUIETEST:
            gain = (10 ** (HEARD_DBFS / 10) / loudest) ** 0.5
            probability = self._detector.probability((heard * gain).astype(np.float32))
            probability *= power > floor * 10 ** (STEADY_DB / 10)
        self._frames += 1
        return Frame(self._frames - 1, samples, power, floor, probability)


class _Filtered(NamedTuple):
    """A frame behind the high-pass.

    Attributes:
        heard: With the context before it.
        samples: What the grader is to hear of it.
        power: Its mean square.
    """

    heard: NDArray[np.float64]
    samples: NDArray[np.float64]
    power: float


class SpeechFront:
    """Keeps the speech of a recording, its pauses and its near surroundings, at one level.

    What is kept depends on the frames so far alone, so it works in a stream; a pause comes out when
    the speech goes on, or not at all.

    Args:
        listener: Called for every frame with the number of frames that it makes speech: some at
            once where the gate opens.
        level: Bring speech to `SPEECH_DBFS`; else its level stays as it is.

    Attributes:
        kept: What has come out, stretch by stretch.
        speech_s: Seconds of the frames that are speech.
    """

    def __init__(
        self, listener: Callable[[int], None] | None = None, *, level: bool = True
    ) -> None:
        self._listener = listener
        self._levels = level
        self._lead = LEAD_FRAMES if level else GATED_AROUND_FRAMES
        self._tail = TAIL_FRAMES if level else GATED_AROUND_FRAMES
        self.kept: list[Kept] = []
        self.speech_s = 0.0
        self._is_open = False
        self._quiet_frames = 0  # since speech, while the gate is open
        self._shut_frames = 0
        self._behind: list[Frame] = []  # the beginning of a pause
        self._before: deque[Frame] = deque(maxlen=self._lead + OPEN_SPAN_FRAMES)  # its end
        self._waiting: list[Frame] = []
        self._level = _SpeechLevel()
        self._gain: float | None = None
        self._samples_out = 0

    def push(self, frames: Iterable[Frame]) -> Samples:
        """Take the next frames; return the kept samples that are due, float32 [n] at 16 kHz."""
        due = []
        for frame in frames:
            speech_frames = self._take(frame)
            self.speech_s += speech_frames * FRAME_S
            if self._listener is not None:
                self._listener(speech_frames)
            if self._waiting and (self._level.is_known or not self._levels):
                due.append(self._leave())
        return np.concatenate(due) if due else _NOTHING

    def finish(self) -> Samples:
        """Return the kept samples that are left, float32 [n]."""
        return self._leave() if self._waiting else _NOTHING

    def _take(self, frame: Frame) -> int:
        """Keep a frame, or hold it back; return how many frames it makes speech."""
        if self._is_open:
            self._waiting.append(frame)
            is_likely = frame.probability >= STILL_SPEECH_PROBABILITY
            if is_likely:
                self._level.hear(frame.power)
            if is_likely or self._is_loud(frame):
                self._quiet_frames = 0
                return 1
            self._quiet_frames += 1
            self._is_open = self._quiet_frames < self._tail
            return 0
        self._shut_frames += 1
        has_spoken = self._level.frames > 0
        if has_spoken and len(self._behind) < PAUSE_FRAMES - self._tail - self._lead:
            self._behind.append(frame)
        else:
            self._before.append(frame)
        newest = [*self._behind, *self._before][-OPEN_SPAN_FRAMES:]
        speech = [frame for frame in newest if frame.probability >= SPEECH_PROBABILITY]
        if len(speech) < OPEN_FRAMES:
            return 0
        self._open(speech)
        return len(speech)

    def _open(self, speech: list[Frame]) -> None:
        """Let out the pause, or what is kept of it, up to the newest frame."""
        is_short = self._level.frames > 0 and self._shut_frames <= PAUSE_FRAMES - self._tail
        lead = 0 if is_short else speech[0].index - self._lead
        self._waiting += self._behind
        self._waiting += (frame for frame in self._before if frame.index >= lead)
        self._behind.clear()
        self._before.clear()
        self._shut_frames = self._quiet_frames = 0
        self._is_open = True
        for frame in speech:
            self._level.hear(frame.power)

    def _is_loud(self, frame: Frame) -> bool:
        least = self._level.power * 10 ** (-SPEECH_RANGE_DB / 10)
        return frame.power >= max(least, frame.floor * 10 ** (OVER_FLOOR_DB / 10))

    def _leave(self) -> Samples:
        """Bring what waits to its level; the gain moves over a frame, without a step."""
        gain = self._level.gain() if self._levels else 1.0
        before = gain if self._gain is None else self._gain
        first, *others = self._waiting
        ramp = before + (gain - before) * _RAMP[: first.samples.size]
        parts = [first.samples * ramp, *(frame.samples * gain for frame in others)]
        for frame in self._waiting:
            self._note(frame)
        self._gain = gain
        self._waiting.clear()
        return np.concatenate(parts).astype(np.float32)

    def _note(self, frame: Frame) -> None:
        start, source, samples = self._samples_out, frame.index * FRAME_SAMPLES, frame.samples.size
        self._samples_out += samples
        if self.kept and self.kept[-1].source + self.kept[-1].samples == source:
            last = self.kept.pop()
            self.kept.append(Kept(last.start, last.source, last.samples + samples))
        else:
            self.kept.append(Kept(start, source, samples))


class _SpeechLevel:
    """Mean power of the speech so far, the newest weighing most."""

    def __init__(self) -> None:
        self.frames = 0
        self._sum = self._weight = 0.0

    @property
    def is_known(self) -> bool:
        return self.frames >= LEVEL_FRAMES

    @property
    def power(self) -> float:
        return self._sum / self._weight

    def hear(self, power: float) -> None:
        self.frames += 1
        self._sum = self._sum * LEVEL_FADE + power
        self._weight = self._weight * LEVEL_FADE + 1.0

    def gain(self) -> float:
        """Return what brings speech to `SPEECH_DBFS`."""
        power = max(self.power, 1e-20)
        return float(min((10 ** (SPEECH_DBFS / 10) / power) ** 0.5, GREATEST_GAIN))


_QUIETEST: Final = 10 ** (QUIETEST_DBFS / 10)
_NOTHING: Final = np.zeros(0, np.float32)
_RAMP: Final = np.arange(1, FRAME_SAMPLES + 1) / FRAME_SAMPLES


@functools.cache
def _high_pass(cutoff_hz: float) -> NDArray[np.complex128]:
    """Return the filter's spectrum, [BLOCK_SAMPLES + 1]; its gain at 0 Hz is zero."""
    n = np.arange(TAPS) - DELAY_SAMPLES
    low = np.sinc(2 * cutoff_hz / SAMPLE_RATE_HZ * n) * np.kaiser(TAPS, KAISER_BETA)
    taps = -low / low.sum()
    taps[DELAY_SAMPLES] += 1.0
    return np.fft.rfft(taps, 2 * BLOCK_SAMPLES)
