"""Whether a recording can be judged at all: silence, no speech, too short, too noisy, clipped.

The thresholds come from 2,500 recordings of learners, from the same made worse, and from sounds
that are no speech: docs/audio.md has the figures, benchmarks/validity.py makes them.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asa_engine.audio import SAMPLE_RATE_HZ, ChunkConverter, InputLevels
from asa_engine.audio.convert import FIRST_LEVEL_BIN, LEVEL_BINS
from asa_engine.audio.vad import FRAME_SAMPLES

__all__ = ["REASONS", "Validity", "ValidityMonitor"]

REASONS: Final = (
    "silence",
    "too_short",
    "no_speech",
    "too_little_speech",
    "too_noisy",
    "clipping",
)

FRAME_S: Final = FRAME_SAMPLES / SAMPLE_RATE_HZ  # 0.032 s

# Levels are RMS of a frame without its mean; 0 dBFS is an RMS of 1.0.
# Learners' recordings lie between -43 and -14 dBFS as a whole; 0.2 % of the frames that the
# detector takes for speech lie below -60.
ACTIVE_DBFS: Final = -60.0
ACTIVE_FRAMES: Final = 3  # fewer are silence
DIGITAL_SILENCE_DBFS: Final = -90.0  # 16-bit dither lies near -96
FLOOR_DBFS: Final = -120.0
_TOP_DBFS: Final = 30.0
_BIN_DB: Final = 0.5

# Less cannot hold SPEECH_FRAMES and what surrounds them; the shortest recording lasts 1.6 s.
MIN_DURATION_S: Final = 0.3

# Speech is there once SPEECH_FRAMES of the last SPEECH_SPAN_FRAMES frames are speech: a word as
# short as "dog". Where the front has opened for less, there is too little of it.
SPEECH_FRAMES: Final = 8  # 0.26 s
SPEECH_SPAN_FRAMES: Final = 63  # 2 s

# Learners' recordings measure 16 dB and more. White noise at a true SNR of 5 dB measures 9.5, at
# 0 dB 4.5; pink noise 1 dB more.
NOISY_SNR_DB: Final = 12.0
HOPELESS_SNR_DB: Final = 6.0
MIN_NOISE_SAMPLES: Final = 2 * SAMPLE_RATE_HZ  # less may hold no pause to find the floor in
NOISE_FLOOR_SHARE: Final = 0.1
SPEECH_RANGE_DB: Final = 20.0

# No learner's recording has a clipped sample. A gain 6 dB too high clips 1 % of the samples, 18 dB
# too high 20 %.
CLIPPED_SHARE: Final = 0.001
GROSSLY_CLIPPED_SHARE: Final = 0.2
# Flat tops below full scale: this many times more samples in the top bins than in those below.
FLAT_TOP_RATIO: Final = 5.0
_TOP_BINS: Final = 2
_BELOW_BINS: Final = 8

# Work is done in whole segments counted from the first sample, so chunking cannot matter.
_SEGMENT_FRAMES: Final = 16
_SEGMENT_SAMPLES: Final = _SEGMENT_FRAMES * FRAME_SAMPLES


@dataclass(frozen=True, slots=True)
class Validity:
    """Whether a recording could be judged, and why it should not be.

    Attributes:
        scorable: False when scores would mean nothing.
        reasons: Members of `REASONS` that apply, in that order; "too_noisy" and "clipping" may
            stand beside `scorable=True`, as a warning.
        peak_dbfs: Largest sample of the input, before mixing and resampling; at least -120.
        rms_dbfs: RMS of the whole recording; at least -120.
        clipped_share: Share of the input's samples on flat tops, 0 to 1.
        speech_s: Seconds of speech: all frames within 20 dB of the speech's level.
        snr_db: Level of the speech over the noise floor; None where no speech was found.
    """

    scorable: bool
    reasons: tuple[str, ...] = ()
    peak_dbfs: float | None = None
    rms_dbfs: float | None = None
    clipped_share: float | None = None
    speech_s: float | None = None
    snr_db: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the validity as JSON values, without what was not measured."""
        values = {name: getattr(self, name) for name in self.__slots__}
        values["reasons"] = list(self.reasons)
        return {name: value for name, value in values.items() if value is not None}


class ValidityMonitor:
    """Judge a recording while it comes in, in bounded memory.

    The result depends on the samples alone, never on how they were cut into blocks.

    Attributes:
        is_certain: Whether somebody speaks for sure; what is heard after that changes nothing.
    """

    def __init__(self) -> None:
        self.is_certain = False
        self._segment = np.zeros(_SEGMENT_SAMPLES, np.float32)
        self._filled = 0
        self._samples = 0
        self._power_sum = 0.0
        self._frames_at = np.zeros(round((_TOP_DBFS - FLOOR_DBFS) / _BIN_DB), np.int64)
        self._power_at = np.zeros(len(self._frames_at))
        self._recent: deque[int] = deque(maxlen=SPEECH_SPAN_FRAMES)
        self._speech_frames = 0

    def push(self, samples: NDArray[np.float32]) -> None:
        """Take the next samples, float32 [n], 16 kHz mono; n may be 0."""
        start = 0
        while start < len(samples):
            n = min(len(samples) - start, _SEGMENT_SAMPLES - self._filled)
            at = self._filled
            self._segment[at : at + n] = samples[start : start + n]
            self._filled += n
            start += n
            if self._filled == _SEGMENT_SAMPLES:
                self._take_segment()

    def hear(self, speech_frames: int) -> None:
        """Take what the front says of the next frame: how many frames it makes speech."""
        if not self.is_certain:
            self._recent.append(speech_frames)
            self._speech_frames += speech_frames
            self.is_certain = sum(self._recent) >= SPEECH_FRAMES

    def finish(self, converter: ChunkConverter, speech_s: float | None = None) -> Validity:
        """Return the verdict.

        Args:
            converter: The one that all the samples came from.
            speech_s: Seconds of speech, where they were counted; else they are told by level.
        """
        self._take_segment()
        levels = converter.levels
        clipped_share = _clipped_share(levels)
        speech_dbfs, noise_dbfs = self._speech_and_noise_dbfs()
        snr_db = speech_dbfs - noise_dbfs
        reasons, hard = self._judge(snr_db, clipped_share)
        return Validity(
            scorable=not hard,
            reasons=tuple(reason for reason in REASONS if reason in reasons),
            peak_dbfs=_dbfs(levels.peak**2),
            rms_dbfs=_dbfs(self._power_sum / max(self._samples, 1)),
            clipped_share=clipped_share,
            speech_s=self._speech_s(speech_dbfs) if speech_s is None else speech_s,
            snr_db=snr_db if self.is_certain else None,
        )

    def _judge(self, snr_db: float, clipped_share: float) -> tuple[set[str], bool]:
        reasons: set[str] = set()
        hard: set[str] = set()
        if self._samples < MIN_DURATION_S * SAMPLE_RATE_HZ:
            hard.add("too_short")
        elif not self.is_certain and self._speech_frames:
            hard.add("too_little_speech")
        elif not self.is_certain:
            hard.add("silence" if self._active_frames() < ACTIVE_FRAMES else "no_speech")
        if self.is_certain and snr_db < NOISY_SNR_DB and self._samples >= MIN_NOISE_SAMPLES:
            (hard if snr_db < HOPELESS_SNR_DB else reasons).add("too_noisy")
        if clipped_share > CLIPPED_SHARE:
            (hard if clipped_share > GROSSLY_CLIPPED_SHARE else reasons).add("clipping")
        return reasons | hard, bool(hard)

    def _take_segment(self) -> None:
        """Measure the whole frames of the segment; it is full, or the last one."""
        n = self._filled
        body = self._segment[:n]
        self._samples += n
        self._power_sum += float(np.square(body).sum(dtype=np.float64))
        n_frames = n // FRAME_SAMPLES
        if n_frames:
            frames = body[: n_frames * FRAME_SAMPLES].reshape(n_frames, FRAME_SAMPLES)
            frames = frames - frames.mean(axis=1, keepdims=True)
            powers = np.einsum("ij,ij->i", frames, frames).astype(np.float64) / FRAME_SAMPLES
            levels = 10 * np.log10(np.maximum(powers, 10 ** (FLOOR_DBFS / 10)))
            bins = ((levels - FLOOR_DBFS) / _BIN_DB).astype(np.intp)
            bins = np.minimum(bins, len(self._frames_at) - 1)
            np.add.at(self._frames_at, bins, 1)
            np.add.at(self._power_at, bins, powers)
        self._filled = 0

    def _active_frames(self) -> int:
        return int(self._frames_at[round((ACTIVE_DBFS - FLOOR_DBFS) / _BIN_DB) :].sum())

    def _speech_and_noise_dbfs(self) -> tuple[float, float]:
        """Return the level of speech and the noise floor.

        Speech: half of the recording's energy lies in frames louder than this; unlike a mean, it
        does not sink with the length of the pauses. Noise: a tenth of the frames that are not
        digital silence are quieter than this.
        """
        energy = np.cumsum(self._power_at)
        speech_bin = int(np.searchsorted(energy, energy[-1] / 2))
        counts = self._frames_at.copy()
        counts[: round((DIGITAL_SILENCE_DBFS - FLOOR_DBFS) / _BIN_DB)] = 0
        below = np.cumsum(counts)
        noise_bin = int(np.searchsorted(below, below[-1] * NOISE_FLOOR_SHARE, side="right"))
        noise_bin = min(noise_bin, len(counts) - 1)
        return FLOOR_DBFS + speech_bin * _BIN_DB, FLOOR_DBFS + noise_bin * _BIN_DB

    def _speech_s(self, speech_dbfs: float) -> float:
        if not self.is_certain:
            return self._speech_frames * FRAME_S
        quietest = max(speech_dbfs - SPEECH_RANGE_DB, ACTIVE_DBFS)
        return float(self._frames_at[round((quietest - FLOOR_DBFS) / _BIN_DB) :].sum()) * FRAME_S


def _clipped_share(levels: InputLevels) -> float:
    """Return the share of samples on the rail, or on a flat top below it.

    A recording clipped before its gain was lowered has its flat tops in the highest levels that
    occur; those levels are the rarest ones in any other recording.
    """
    counts = levels.counts
    total = max(levels.n_samples, 1)
    rail_share = float(counts[LEVEL_BINS]) / total
    occupied = np.flatnonzero(counts)
    top = int(occupied[-1]) if occupied.size else 0
    first_below = top - _TOP_BINS - _BELOW_BINS + 1
    if top == LEVEL_BINS or first_below < FIRST_LEVEL_BIN:
        return rail_share
    in_top = float(counts[top - _TOP_BINS + 1 : top + 1].sum())
    below = float(counts[first_below : top - _TOP_BINS + 1].sum()) * _TOP_BINS / _BELOW_BINS
    return in_top / total if in_top > FLAT_TOP_RATIO * max(below, 4.0) else rail_share


def _dbfs(power: float) -> float:
    return max(10 * math.log10(power), FLOOR_DBFS) if power > 0 else FLOOR_DBFS
