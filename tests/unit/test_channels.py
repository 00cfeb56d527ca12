"""Channels are looked at before they are mixed, the same for every way of cutting the input."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from audio_samples import RATE_HZ, cut, hum, noise, silence, speech
from hypothesis import given, settings
from hypothesis import strategies as st

from asa_engine.audio import Channels, ChunkConverter

S = 4.0
VOICE = speech(S)
OTHER = speech(S, seed=7)


def converted(frames: np.ndarray, sizes: list[int] | None = None) -> tuple[np.ndarray, Channels]:
    converter = ChunkConverter(RATE_HZ)
    blocks = [converter.push(chunk) for chunk in cut(frames, sizes or [len(frames)])]
    return np.concatenate([*blocks, converter.close()]), converter.channels


def columns(*signals: np.ndarray) -> np.ndarray:
    return np.column_stack(signals).astype(np.float32)


CASES: dict[str, tuple[Callable[[], np.ndarray], str]] = {
    "equal": (lambda: columns(VOICE, VOICE), "mean"),
    "quieter": (lambda: columns(VOICE, 0.6 * VOICE), "mean"),
    "antiphase": (lambda: columns(VOICE, -VOICE), "1"),
    "nearly antiphase": (lambda: columns(VOICE, -0.95 * VOICE), "1"),
    "antiphase by a step of 16 bits": (lambda: columns(VOICE, -VOICE + 2.0**-15), "1"),
    "left": (lambda: columns(VOICE, silence(S)), "1"),
    "right": (lambda: columns(silence(S), VOICE), "2"),
    "right beside an offset": (lambda: columns(silence(S) + 0.3, VOICE), "2"),
    "beside louder hum": (lambda: columns(hum(S, rms_dbfs=-15), VOICE), "2"),
    "beside louder noise": (lambda: columns(VOICE, noise(S, -18.0)), "1"),
    "centre of six": (lambda: columns(*[silence(S)] * 2, VOICE, *[silence(S)] * 3), "3"),
    "array of four": (lambda: columns(*[VOICE] * 4), "mean"),
    "array of which one is inverted": (lambda: columns(VOICE, VOICE, VOICE, -VOICE), "1"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_voice_is_heard(name: str) -> None:
    make, expected = CASES[name]
    out, channels = converted(make())
    assert channels == Channels(make().shape[1], {expected: S})
    if expected != "mean":
        np.testing.assert_array_equal(out, make()[:, int(expected) - 1])


def test_two_people_on_a_channel_each_are_both_heard() -> None:
    frames = columns(np.concatenate([VOICE, silence(S)]), np.concatenate([silence(S), OTHER]))
    out, channels = converted(frames)
    assert set(channels.used_s) == {"1", "2"}
    wanted = np.concatenate([VOICE, OTHER])
    # The choice follows within a segment; the other channel is silent until then.
    assert float(np.sum((out - wanted) ** 2)) < 0.1 * float(np.sum(wanted**2))
    assert np.abs(np.diff(out)).max() <= 1.1 * np.abs(np.diff(wanted)).max()  # it fades


def test_mono_is_one_channel() -> None:
    out, channels = converted(VOICE)
    assert channels == Channels(1, {"1": S})
    np.testing.assert_array_equal(out, VOICE)


@settings(deadline=None, max_examples=30)
@given(
    name=st.sampled_from(sorted(CASES)),
    sizes=st.lists(st.integers(1, 20_000), min_size=1, max_size=6),
    rate_hz=st.sampled_from([8_000, 16_000, 44_100]),
)
def test_cutting_cannot_matter(name: str, sizes: list[int], rate_hz: int) -> None:
    frames = CASES[name][0]()[:30_011]
    one, many = ChunkConverter(rate_hz), ChunkConverter(rate_hz)
    expected = np.concatenate([one.push(frames), one.close()])
    pieces = [many.push(piece) for piece in cut(frames, sizes)]
    np.testing.assert_array_equal(np.concatenate([*pieces, many.close()]), expected)
    assert many.channels == one.channels
    assert many.sha256() == one.sha256()


def test_what_is_held_back_is_bounded() -> None:
    converter = ChunkConverter(RATE_HZ)
    given_ = returned = 0
    for chunk in cut(columns(VOICE, OTHER), [160]):
        given_ += len(chunk)
        returned += len(converter.push(chunk))
        assert given_ - returned < 0.512 * RATE_HZ
