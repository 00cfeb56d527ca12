"""The pitch kernel: tones, silence, noise, pieces; real speech against an independent YIN."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asa_engine.audio import read_audio
from asa_engine.kernels.pitch import PitchTracker, track_pitch

RATE = 16_000
EDGE = 8
"""Frames whose window reaches past the end of the sound."""


def voice(f0_hz: np.ndarray) -> np.ndarray:
    """Return a buzz of ten decaying harmonics that follows f0_hz, one value a sample."""
    phase = 2 * np.pi * np.cumsum(f0_hz) / RATE
    return sum(0.3 / k * np.sin(k * phase) for k in range(1, 11)).astype(np.float32)


@pytest.mark.parametrize("f0_hz", [70.0, 98.7, 131.0, 220.0, 333.3, 510.0, 900.0])
def test_a_steady_voice_is_tracked_within_a_few_cents(f0_hz):
    track = track_pitch(voice(np.full(RATE, f0_hz)))
    assert track.f0_hz.shape == track.voiced.shape == (101,)
    cents = 1200 * np.log2(track.f0_hz[EDGE:-EDGE] / f0_hz)
    # A parabola through a difference function sampled at whole lags: 16 cents at lag 17.
    assert np.abs(cents).max() < (4 if f0_hz < 400 else 16)
    assert track.voiced[EDGE:-EDGE].min() > 0.9


def test_a_glide_is_followed_without_octave_jumps():
    f0_hz = np.geomspace(110, 280, 2 * RATE)
    track = track_pitch(voice(f0_hz))
    wanted = f0_hz[np.minimum(np.arange(201) * 160, f0_hz.size - 1)]
    cents = 1200 * np.log2(track.f0_hz[EDGE:-EDGE] / wanted[EDGE:-EDGE])
    # The glide moves 8 cents a frame, and the window is twelve frames long.
    assert np.abs(cents).max() < 20


def test_silence_and_noise_are_unvoiced():
    assert not track_pitch(np.zeros(RATE, np.float32)).f0_hz.any()
    noise = np.random.default_rng(5).normal(0, 0.1, 2 * RATE).astype(np.float32)
    assert np.mean(track_pitch(noise).f0_hz > 0) < 0.05


def test_the_track_does_not_depend_on_gain():
    sound = voice(np.geomspace(120, 180, RATE))
    # A power of two changes no mantissa.
    np.testing.assert_array_equal(track_pitch(sound).f0_hz, track_pitch(sound / 64).f0_hz)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3000), max_size=8))
def test_pieces_of_any_size_give_the_same_track(cuts):
    sound = voice(np.linspace(100, 240, 9000)) + np.random.default_rng(1).normal(
        0, 0.02, 9000
    ).astype(np.float32)
    tracker = PitchTracker()
    at = 0
    for cut in [*cuts, sound.size]:
        tracker.push(sound[at : at + cut])
        at = min(at + cut, sound.size)
    tracker.push(sound[at:])
    found, whole = tracker.finish(), track_pitch(sound)
    np.testing.assert_array_equal(found.f0_hz, whole.f0_hz)
    np.testing.assert_array_equal(found.voiced, whole.voiced)


@pytest.mark.parametrize("samples", [0, 1, 159, 160, 161, 2000])
def test_short_recordings_have_a_frame_for_every_hop_begun(samples):
    assert track_pitch(np.zeros(samples, np.float32)).f0_hz.shape == (samples // 160 + 1,)


def test_a_finished_tracker_starts_anew():
    tracker, sound = PitchTracker(), voice(np.full(8000, 150.0))
    tracker.push(sound)
    first = tracker.finish()
    tracker.push(sound)
    np.testing.assert_array_equal(tracker.finish().f0_hz, first.f0_hz)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_refused_and_nothing_is_taken(bad):
    tracker, sound = PitchTracker(), voice(np.full(8000, 150.0))
    with pytest.raises(ValueError, match="finite"):
        tracker.push(np.array([0.0, bad], np.float32))
    tracker.push(sound)
    np.testing.assert_array_equal(tracker.finish().f0_hz, track_pitch(sound).f0_hz)


def test_real_speech_agrees_with_plain_yin_where_both_are_sure(corpus):
    """YIN by its paper's steps, in NumPy, frame by frame: threshold 0.1, no smoothing."""
    sound = read_audio(sorted((corpus / "audio").glob("*.flac"))[7])
    track = track_pitch(sound)
    padded = np.pad(sound.astype(np.float64), 2000)
    ratios = []
    for t in np.flatnonzero((track.f0_hz > 0) & (track.voiced > 0.5)):
        x = padded[2000 + 160 * t - 960 : 2000 + 160 * t + 960 + 300]
        d = np.array([np.sum((x[:1920] - x[lag : 1920 + lag]) ** 2) for lag in range(260)])
        normal = d[1:] * np.arange(1, 260) / np.maximum(np.cumsum(d[1:]), 1e-12)
        under = np.flatnonzero(normal[6:] < 0.1) + 6
        if under.size:
            lag = under[0]
            while lag + 1 < normal.size and normal[lag + 1] < normal[lag]:
                lag += 1
            ratios.append(track.f0_hz[t] * (lag + 1) / RATE)
    assert len(ratios) > 20
    assert np.mean(np.abs(np.log2(ratios)) < 0.05) > 0.98
