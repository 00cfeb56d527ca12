"""Delivery: how each word was spoken, in 16 numbers, and what a teacher can read of the whole.

Pitch comes from the compiled probabilistic YIN, energy from the samples. Both are collected as
samples arrive; the pitch path and the reference of the energy are those of the whole recording, so
nothing here is final before the speech has ended.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from asa_engine.assessment import Word
from asa_engine.kernels.pitch import FRAMES_PER_S, PitchTracker

__all__ = [
    "NAMES",
    "DeliveryTracker",
    "TimedWord",
    "Track",
    "mend_times",
    "summarise",
    "word_features",
]

STATISTICS = ("mean", "sd", "median", "mad", "sum", "max", "min")
NAMES = (
    *(f"f0_hz_{name}" for name in STATISTICS),
    *(f"energy_{name}" for name in STATISTICS),
    "duration_s",
    "confidence",
)
"""The 16 features of a word, in order."""

HOP_SAMPLES = 160
LOUD_PERCENTILE = 95.0


@dataclass(frozen=True, slots=True)
class Track:
    """Pitch and energy of a recording, 100 frames a second; frame t is centred on t / 100 s.

    Attributes:
        f0_hz: 0 where unvoiced, float32 [T].
        energy: Root mean square over 20 ms, relative to the recording's loud parts (the 95th
            percentile of its frames), so that a microphone's gain does not matter; float32 [T].
    """

    f0_hz: NDArray[np.float32]
    energy: NDArray[np.float32]


class TimedWord(NamedTuple):
    """A word whose times can be used: finite, in order, inside the recording.

    Attributes:
        text: The word.
        start_s: When it begins, seconds of the recording.
        end_s: When it ends, not before `start_s`.
        probability: The recogniser's probability of it, 0 to 1.
    """

    text: str
    start_s: float
    end_s: float
    probability: float


class DeliveryTracker:
    """Collects the pitch and energy of one recording; the track is the same for all chunkings."""

    def __init__(self) -> None:
        self._pitch = PitchTracker()
        self._rest = np.empty(0, dtype=np.float32)
        self._powers: list[NDArray[np.float64]] = []

    def push(self, samples: NDArray[np.float32]) -> None:
        """Take float32 mono samples at 16 kHz [n].

        Raises:
            ValueError: A sample is NaN or infinite.
        """
        self._pitch.push(samples)
        joined = np.concatenate((self._rest, samples))
        whole = joined.size // HOP_SAMPLES * HOP_SAMPLES
        self._powers.append(_powers(joined[:whole]))
        self._rest = joined[whole:]

    def finish(self) -> Track:
        """Return the track of all samples; the tracker is used up."""
        last = np.pad(self._rest, (0, HOP_SAMPLES - self._rest.size))
        powers = np.concatenate([[0.0], *self._powers, _powers(last)])
        energy = np.sqrt((powers[:-1] + powers[1:]) / (2 * HOP_SAMPLES))
        loud = float(np.percentile(energy, LOUD_PERCENTILE))
        relative = energy / loud if loud > 0 else np.zeros_like(energy)
        return Track(self._pitch.finish().f0_hz, relative.astype(np.float32))


def mend_times(words: Sequence[Word], duration_s: float) -> tuple[tuple[TimedWord, ...], bool]:
    """Return words whose times can be used, in the order given, and whether any was changed.

    Words without finite times are dropped. Times are held to the recording; a word that ends
    before it starts is turned round; one that starts before its predecessor has ended starts
    where that one ends, which may leave it empty. A word without a probability has 0.
    """
    mended: list[TimedWord] = []
    changed, latest = False, 0.0
    for word in words:
        times = word.start_s, word.end_s
        if any(time is None or not math.isfinite(time) for time in times):
            changed = True
            continue
        start, end = sorted(min(max(time or 0.0, latest), duration_s) for time in times)
        start, end = max(start, latest), max(end, latest)
        latest = end
        changed |= (start, end) != times
        mended.append(TimedWord(word.text, start, end, word.probability or 0.0))
    return tuple(mended), changed


def word_features(track: Track, words: Sequence[TimedWord]) -> NDArray[np.float32]:
    """Return the 16 delivery features of each word, float32 [W, 16], named by `NAMES`.

    Statistics go over the word's frames that are not zero: voiced ones for the pitch, not silent
    ones for the energy; a word without any has zeros there. Never NaN.

    Args:
        track: Of the recording.
        words: With times as `mend_times` returns them.
    """
    rows = np.zeros((len(words), len(NAMES)), dtype=np.float32)
    for row, word in zip(rows, words, strict=True):
        span = slice(round(word.start_s * FRAMES_PER_S), round(word.end_s * FRAMES_PER_S))
        count = len(STATISTICS)
        row[:count] = _statistics(track.f0_hz[span])
        row[count : 2 * count] = _statistics(track.energy[span])
        row[2 * count :] = word.end_s - word.start_s, word.probability
    return rows


PAUSE_S = 0.2
"""Shorter gaps between words are not counted as pauses: stops and junctures last as long."""
UNSURE = 0.5


def summarise(track: Track, words: Sequence[TimedWord]) -> dict[str, float]:
    """Return features of a whole recording under names that a teacher can read.

    Args:
        track: Of the recording.
        words: With times as `mend_times` returns them; may be empty.
    """
    if not words:
        return {"words": 0.0, "pitch_found": float(bool(track.f0_hz.any()))}
    gaps = [after.start_s - before.end_s for before, after in itertools.pairwise(words)]
    pauses = [gap for gap in gaps if gap >= PAUSE_S]
    span_s = max(words[-1].end_s - words[0].start_s, 1.0 / FRAMES_PER_S)
    spoken_s = max(span_s - sum(pauses), 1.0 / FRAMES_PER_S)
    sure = [word.probability for word in words]
    inside = slice(round(words[0].start_s * FRAMES_PER_S), round(words[-1].end_s * FRAMES_PER_S))
    f0 = track.f0_hz[inside]
    voiced = f0[f0 > 0]
    features = {
        "words": float(len(words)),
        "words_per_minute": 60.0 * len(words) / span_s,
        "words_per_minute_without_pauses": 60.0 * len(words) / spoken_s,
        "pauses": float(len(pauses)),
        "pause_share": sum(pauses) / span_s,
        "longest_pause_s": max(pauses, default=0.0),
        "word_duration_s_mean": float(np.mean([word.end_s - word.start_s for word in words])),
        "confidence_mean": float(np.mean(sure)),
        "confidence_min": float(min(sure)),
        "unsure_word_share": float(np.mean([value < UNSURE for value in sure])),
        "energy_sd": float(track.energy[inside].std()) if track.energy[inside].size else 0.0,
        "pitch_found": float(voiced.size > 0),
        "voiced_share": voiced.size / max(f0.size, 1),
    }
    if voiced.size:
        low, middle, high = np.percentile(voiced, (5, 50, 95))
        features |= {
            "pitch_median_hz": float(middle),
            "pitch_range_semitones": float(12 * np.log2(high / low)),
            "pitch_sd_semitones": float(np.std(12 * np.log2(voiced / middle))),
        }
    return features


def _powers(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the sum of squares of each hop."""
    hops = np.square(samples, dtype=np.float64).reshape(-1, HOP_SAMPLES)
    return np.asarray(hops.sum(axis=1))


def _statistics(values: NDArray[np.float32]) -> tuple[float, ...]:
    """Return `STATISTICS` over the values above zero; zeros where there are none."""
    values = values[values > 0].astype(np.float64)
    if not values.size:
        return (0.0,) * len(STATISTICS)
    median = float(np.median(values))
    return (
        float(values.mean()),
        float(values.std()),
        median,
        float(np.median(np.abs(values - median))),
        float(values.sum()),
        float(values.max()),
        float(values.min()),
    )
