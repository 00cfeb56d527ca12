"""Delivery features: statistics against NumPy, times that cannot be, whispers, chunks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from asa_engine.assessment import Word
from asa_engine.features.delivery import (
    NAMES,
    DeliveryTracker,
    TimedWord,
    Track,
    mend_times,
    summarise,
    word_features,
)

RATE = 16_000


def spoken(*times: tuple[float | None, float | None]) -> list[Word]:
    return [Word(f"w{i}", start, end, 0.5) for i, (start, end) in enumerate(times)]


def tracked(samples: np.ndarray) -> Track:
    tracker = DeliveryTracker()
    tracker.push(samples.astype(np.float32))
    return tracker.finish()


def test_a_word_has_sixteen_named_features():
    f0 = np.array([0, 100, 110, 0, 130, 0], np.float32)
    energy = np.array([0.1, 0.5, 0.7, 0.0, 0.9, 0.2], np.float32)
    (row,) = word_features(Track(f0, energy), [TimedWord("so", 0.0, 0.05, 0.8)])
    found = dict(zip(NAMES, row.tolist(), strict=True))
    for name, values in (
        ("f0_hz", np.array([100.0, 110, 130])),
        ("energy", np.array([0.1, 0.5, 0.7, 0.9])),
    ):
        median = np.median(values)
        wanted = {
            "mean": values.mean(),
            "sd": np.sqrt(np.mean((values - values.mean()) ** 2)),
            "median": median,
            "mad": np.median(np.abs(values - median)),
            "sum": values.sum(),
            "max": values.max(),
            "min": values.min(),
        }
        for statistic, value in wanted.items():
            # float32 storage of numbers up to a few hundred
            assert found[f"{name}_{statistic}"] == pytest.approx(value, rel=1e-6), statistic
    assert found["duration_s"] == pytest.approx(0.05)
    assert found["confidence"] == pytest.approx(0.8)
    assert len(found) == 16


def test_whispered_speech_has_zeros_and_says_so():
    noise = np.random.default_rng(2).normal(0, 0.05, RATE)
    track = Track(np.zeros(101, np.float32), tracked(noise).energy)
    words = [TimedWord("hush", 0.1, 0.6, 0.9)]
    (row,) = word_features(track, words)
    assert not row[:7].any()
    assert (row[7:] > 0).all()
    named = summarise(track, words)
    assert named["pitch_found"] == 0
    assert "pitch_median_hz" not in named
    assert all(math.isfinite(value) for value in named.values())


def test_silence_gives_zeros_never_nan():
    track = tracked(np.zeros(RATE))
    assert not track.energy.any()
    words = [TimedWord("what", 0.0, 1.0, 0.1), TimedWord("ever", 1.0, 1.0, 0.1)]
    rows = word_features(track, words)
    assert np.isfinite(rows).all()
    assert all(math.isfinite(value) for value in summarise(track, words).values())
    assert summarise(track, []) == {"words": 0.0, "pitch_found": 0.0}


@pytest.mark.parametrize(
    ("times", "wanted"),
    [
        ([(0.0, 0.5), (0.5, 1.0)], [(0.0, 0.5), (0.5, 1.0)]),
        ([(0.0, 0.7), (0.4, 1.0)], [(0.0, 0.7), (0.7, 1.0)]),  # overlap
        ([(0.6, 1.0), (0.0, 0.4)], [(0.6, 1.0), (1.0, 1.0)]),  # backwards
        ([(0.8, 0.2)], [(0.2, 0.8)]),  # ends before it starts
        ([(-3.0, 0.2), (1.5, 99.0)], [(0.0, 0.2), (1.5, 2.0)]),  # outside
        ([(5.0, 6.0)], [(2.0, 2.0)]),
        ([(0.0, 0.1), (math.nan, 0.3), (None, None), (0.4, math.inf)], [(0.0, 0.1)]),
    ],
)
def test_times_that_cannot_be_are_mended_or_dropped_and_it_is_said(times, wanted):
    mended, changed = mend_times(spoken(*times), 2.0)
    assert [(word.start_s, word.end_s) for word in mended] == wanted
    assert changed == (wanted != times)


def test_mended_times_run_forward_whatever_was_given():
    rng = np.random.default_rng(4)
    words = spoken(*rng.uniform(-1, 4, (200, 2)).tolist())
    mended, _ = mend_times(words, 2.5)
    flat = [time for word in mended for time in (word.start_s, word.end_s)]
    assert len(mended) == 200
    assert flat == sorted(flat)
    assert 0 <= flat[0] <= flat[-1] <= 2.5


def test_pauses_and_rates_are_those_of_the_words():
    track = Track(np.full(501, 200.0, np.float32), np.ones(501, np.float32))
    words = [
        TimedWord("one", 0.5, 1.0, 0.9),
        TimedWord("two", 1.1, 1.5, 0.3),
        TimedWord("three", 2.5, 3.5, 0.6),
    ]
    named = summarise(track, words)
    assert named["words_per_minute"] == pytest.approx(60)
    assert named["pauses"] == 1
    assert named["longest_pause_s"] == pytest.approx(1.0)
    assert named["pause_share"] == pytest.approx(1 / 3)
    assert named["words_per_minute_without_pauses"] == pytest.approx(90)
    assert named["unsure_word_share"] == pytest.approx(1 / 3)
    assert named["pitch_range_semitones"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("size", [1, 37, 160, 4000])
def test_chunks_of_any_size_give_the_same_track(size):
    samples = np.random.default_rng(8).normal(0, 0.1, 5555).astype(np.float32)
    tracker = DeliveryTracker()
    for start in range(0, samples.size, size):
        tracker.push(samples[start : start + size])
    found, whole = tracker.finish(), tracked(samples)
    np.testing.assert_array_equal(found.energy, whole.energy)
    np.testing.assert_array_equal(found.f0_hz, whole.f0_hz)
    assert found.energy.shape == found.f0_hz.shape == (5555 // 160 + 1,)


def test_a_microphones_gain_does_not_matter():
    samples = np.random.default_rng(9).normal(0, 0.1, RATE)
    # A power of two changes no mantissa.
    np.testing.assert_array_equal(tracked(samples).energy, tracked(samples / 32).energy)
