"""Sound in: formats, conversion that cannot depend on chunking."""

from __future__ import annotations

import hashlib
import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from audio_samples import RATE_HZ, converted, cut, encoded, noise, speech, tone, with_data_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from asa_engine.audio import (
    ChunkConverter,
    InputLevels,
    read_audio,
    read_blocks,
)
from asa_engine.audio.convert import LEVEL_BINS
from asa_engine.errors import AudioError

# Formats and sources


@pytest.mark.parametrize(
    ("kind", "subtype", "tolerance"),
    [
        ("WAV", "FLOAT", 0.0),
        ("WAV", "PCM_16", 1 / 32768),  # libsndfile truncates: one step
        ("WAV", "PCM_U8", 1 / 128),
        ("FLAC", "PCM_16", 1 / 32768),
    ],
)
def test_lossless_formats_give_the_samples_back(kind: str, subtype: str, tolerance: float) -> None:
    samples = speech(1.5)
    read = read_audio(encoded(samples, kind, subtype))
    assert read.dtype == np.float32
    assert read.shape == samples.shape
    assert np.abs(read - samples).max() <= tolerance


@pytest.mark.parametrize(("kind", "subtype"), [("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")])
def test_lossy_formats_keep_the_sound(kind: str, subtype: str) -> None:
    samples = tone(2.0, 440.0)
    read = read_audio(encoded(samples, kind, subtype))
    spectrum = np.abs(np.fft.rfft(read[4000:20000]))
    assert np.argmax(spectrum) * RATE_HZ / 16000 == pytest.approx(440, abs=1)
    assert np.sqrt(np.mean(read[4000:20000] ** 2)) == pytest.approx(0.1, rel=0.05)


def test_every_way_in_gives_the_same_samples(tmp_path: Path) -> None:
    data = encoded(speech(1.0), "FLAC", "PCM_16")
    path = tmp_path / "answer.flac"
    path.write_bytes(data)
    from_path = read_audio(str(path))
    with path.open("rb") as file:
        sources = [path, data, bytearray(data), memoryview(data), io.BytesIO(data), file]
        for source in sources:
            np.testing.assert_array_equal(read_audio(source), from_path)
    np.testing.assert_array_equal(read_audio((from_path, RATE_HZ)), from_path)


def test_flac_of_undeclared_length_is_read() -> None:
    """Encoders that write to a pipe leave the number of samples at 0: unknown."""
    samples = speech(1.0)
    data = bytearray(encoded(samples, "FLAC", "PCM_16"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    assert len(read_audio(bytes(data))) == len(samples)


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFF000])
def test_wav_of_undeclared_length_is_read(length: int) -> None:
    samples = speech(1.0)
    assert len(read_audio(with_data_bytes(encoded(samples), length))) == len(samples)


def test_blocks_are_float32_mono_and_join_to_the_whole() -> None:
    data = encoded(noise(2.0), "WAV", rate_hz=44_100)
    blocks = list(read_blocks(data))
    assert all(block.dtype == np.float32 and block.ndim == 1 and block.size for block in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks), read_audio(data))


# Conversion


def test_16_khz_mono_float_passes_bit_for_bit() -> None:
    samples = noise(1.0, -3.0)
    np.testing.assert_array_equal(converted([samples], RATE_HZ), samples)


def test_returned_samples_are_a_copy() -> None:
    buffer = noise(0.1)
    kept = ChunkConverter(RATE_HZ).push(buffer)
    before = kept.copy()
    buffer[:] = 0
    np.testing.assert_array_equal(kept, before)


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("int16", [-32768, 0, 16384, 32767], [-1.0, 0.0, 0.5, 32767 / 32768]),
        (">i2", [-32768, 0, 16384, 32767], [-1.0, 0.0, 0.5, 32767 / 32768]),
        ("int32", [-(2**31), 0, 2**30], [-1.0, 0.0, 0.5]),
        ("uint8", [0, 128, 192], [-1.0, 0.0, 0.5]),
        ("float64", [-1.0, 0.25, 1.5], [-1.0, 0.25, 1.5]),
    ],
)
def test_dtypes_are_scaled_to_full_scale(dtype: str, values: list, expected: list) -> None:
    out = ChunkConverter(RATE_HZ).push(np.array(values, dtype))
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, np.array(expected, np.float32))


@pytest.mark.parametrize("channels", [1, 2, 3, 8, 32])
def test_channels_that_agree_are_averaged(channels: int) -> None:
    rng = np.random.default_rng(channels)
    shares = rng.uniform(0.8, 1.0, channels)
    frames = (rng.uniform(-1, 1, (1000, 1)) * shares).astype(np.float32)
    out = converted(cut(frames, [7, 100]), RATE_HZ)
    # float32 sums of up to 32 values below 1, each rounded to 2^-24 of at most 32
    np.testing.assert_allclose(out, frames.astype(np.float64).mean(axis=1), atol=32 * 2.0**-24)


@pytest.mark.parametrize("rate_hz", [4_000, 8_000, 11_025, 22_050, 44_100, 48_000, 192_000])
def test_resampling_keeps_length_and_tone(rate_hz: int) -> None:
    t = np.arange(rate_hz) / rate_hz
    out = converted(cut((0.5 * np.sin(2 * np.pi * 1000 * t)).astype(np.float32), [999]), rate_hz)
    assert len(out) == RATE_HZ
    inner = slice(2000, 14000)  # the filter rings at the ends
    wanted = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(RATE_HZ) / RATE_HZ)
    # soxr HQ is a 20-bit filter; 1e-4 is 80 dB below full scale
    np.testing.assert_allclose(out[inner], wanted[inner], atol=1e-4)


def test_resampling_down_removes_what_would_alias() -> None:
    t = np.arange(48_000) / 48_000
    out = converted([np.sin(2 * np.pi * 12_000 * t).astype(np.float32)], 48_000)
    assert np.abs(out[2000:14000]).max() < 1e-4  # 12 kHz would fold to 4 kHz


@settings(deadline=None, max_examples=40)
@given(
    rate_hz=st.sampled_from([4_000, 8_000, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000]),
    channels=st.integers(1, 8),
    integer=st.booleans(),
    sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=8),
)
def test_chunking_cannot_matter(
    rate_hz: int, channels: int, integer: bool, sizes: list[int]
) -> None:
    frames = np.random.default_rng(rate_hz + channels).uniform(-1, 1, (6000, channels))
    whole = (frames * 32767).astype(np.int16) if integer else frames.astype(np.float32)
    one, many = ChunkConverter(rate_hz), ChunkConverter(rate_hz)
    expected = np.concatenate([one.push(whole), one.close()])
    empty = whole[:0]
    pieces = [many.push(piece) for chunk in cut(whole, sizes) for piece in (empty, chunk)]
    np.testing.assert_array_equal(np.concatenate([*pieces, many.close()]), expected)
    assert many.sha256() == one.sha256()
    assert many.samples_out == len(expected)
    assert many.duration_s == one.duration_s == 6000 / rate_hz
    np.testing.assert_array_equal(many.levels.counts, one.levels.counts)
    assert many.levels.peak == one.levels.peak


def test_single_samples_and_long_chunks_agree() -> None:
    samples = noise(0.5)
    for rate_hz in (8_000, RATE_HZ, 48_000):
        np.testing.assert_array_equal(
            converted(cut(samples, [1]), rate_hz), converted([samples], rate_hz)
        )


def test_hash_is_of_little_endian_float32_samples() -> None:
    samples = noise(0.3)
    converter = ChunkConverter(RATE_HZ)
    converter.push(samples)
    converter.close()
    assert converter.sha256() == hashlib.sha256(samples.astype("<f4").tobytes()).hexdigest()


def test_levels_count_rails_and_flat_tops() -> None:
    levels = InputLevels()
    levels.push(np.array([0.0, 0.1, 0.5, 0.9979, 0.998, 1.0, 1.4], np.float32))
    assert levels.n_samples == 7
    assert levels.peak == pytest.approx(1.4)
    assert levels.counts[LEVEL_BINS] == 3
    assert levels.counts[LEVEL_BINS - 1] == 1
    assert levels.counts[int(0.5 * LEVEL_BINS / 0.998)] == 1
    assert levels.counts.sum() == 5  # 0 and 0.1 lie below what is looked at


# Memory


def test_long_audio_passes_in_bounded_memory(tmp_path: Path) -> None:
    """25 minutes at 8 kHz, 96 MB as float32 at 16 kHz, in a few MB."""
    path = tmp_path / "long.flac"
    second = noise(0.5)  # 8,000 samples
    with soundfile.SoundFile(path, "w", 8_000, 1, format="FLAC") as file:
        for _ in range(25 * 60):
            file.write(second)
    tracemalloc.start()
    try:
        n = sum(len(block) for block in read_blocks(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert n == 25 * 60 * RATE_HZ
    assert peak < 4e6


def test_longer_than_the_limit_is_refused() -> None:
    with pytest.raises(AudioError, match="longer than 2 s"):
        list(read_blocks((noise(2.1), RATE_HZ), max_duration_s=2.0))


# Bad input: one line, exit code 3, and a hint
