"""Sound in: formats, conversion that cannot depend on chunking, and every bad input."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from audio_samples import RATE_HZ, cut, encoded, noise, speech, tone
from hypothesis import given, settings
from hypothesis import strategies as st

from asa_engine.audio import (
    ChunkConverter,
    InputLevels,
    open_audio,
    read_audio,
    read_blocks,
)
from asa_engine.audio.convert import LEVEL_BINS
from asa_engine.errors import AudioError, UsageError


def converted(chunks: Any, rate_hz: int) -> np.ndarray:
    converter = ChunkConverter(rate_hz)
    blocks = [converter.push(chunk) for chunk in chunks]
    return np.concatenate([*blocks, converter.close()])


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
    assert len(read_audio(_with_data_bytes(encoded(samples), length))) == len(samples)


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
def test_channels_are_averaged(channels: int) -> None:
    frames = np.random.default_rng(channels).uniform(-1, 1, (1000, channels)).astype(np.float32)
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


# Bad input: one line, exit code 3, and a mend


def _with_data_bytes(wav: bytes, length: int) -> bytes:
    at = wav.index(b"data") + 4
    return wav[:at] + struct.pack("<I", length) + wav[at + 4 :]


def _wav_header(rate_hz: int, channels: int) -> bytes:
    block = channels * 2
    fmt = struct.pack("<HHIIHH", 1, channels, rate_hz, rate_hz * block, block, 16)
    data = bytes(block * 100)
    body = b"WAVEfmt " + struct.pack("<I", 16) + fmt + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _flac() -> bytes:
    return encoded(noise(3.0), "FLAC", "PCM_16")


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


def _mp3_cut_short() -> bytes:
    data = encoded(noise(3.0), "MP3", "MPEG_LAYER_III")
    return data[: len(data) // 2]


BAD_BYTES: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "is empty"),
    "text": (lambda: b"Dear teacher, here is my answer.\n" * 40, "is text, not audio"),
    "binary": (lambda: bytes(range(256)) * 8, "not audio that is known here"),
    "mp4": (lambda: b"\0\0\0\x20ftypM4A " + bytes(100), "MP4/M4A"),
    "webm": (lambda: b"\x1a\x45\xdf\xa3" + bytes(100), "WebM"),
    "wav-without-samples": (lambda: encoded(np.zeros(0, np.float32)), "0 samples"),
    "wav-cut-short": (lambda: encoded(noise(2.0))[:32044], "promises 2 s .* holds 1 s"),
    "wav-claiming-hours": (
        lambda: _with_data_bytes(encoded(noise(1.0)), 5 * 3600 * 32_000),
        "promises 18000 s of sound, the file holds 1 s",
    ),
    "wav-header-only": (lambda: encoded(noise(1.0))[:20], "damaged"),
    "flac-cut-in-a-frame": (lambda: _flac()[: len(_flac()) * 6 // 10], "cut short"),
    "flac-header-only": (lambda: _flac()[:60], "damaged|cut short"),
    "flac-flipped-bits": (lambda: _flipped(_flac()), "damaged"),
    "rate-too-low": (lambda: _wav_header(3_999, 1), "3999 Hz is not taken"),
    "rate-absurd": (lambda: _wav_header(4_000_000, 1), "4000000 Hz is not taken"),
    "too-many-channels": (lambda: _wav_header(16_000, 33), "33 channels"),
    "nan": (lambda: encoded(_spoilt(np.nan), "WAV", "FLOAT"), r"NaN at 0\.75 s"),
    "infinity": (lambda: encoded(_spoilt(-np.inf), "WAV", "FLOAT"), r"infinity at 0\.75 s"),
}


def _spoilt(value: float) -> np.ndarray:
    samples = noise(1.0)
    samples[12_000] = value
    samples[13_000] = np.nan
    return samples


def check(error: AudioError) -> None:
    assert error.exit_code == 3
    assert error.mend
    assert "\n" not in str(error)
    assert "0x" not in str(error)  # no repr of an object


@pytest.mark.parametrize("name", BAD_BYTES)
def test_bad_bytes(name: str, tmp_path: Path) -> None:
    make, message = BAD_BYTES[name]
    with pytest.raises(AudioError, match=message) as from_bytes:
        read_audio(make())
    check(from_bytes.value)
    path = tmp_path / "answer.wav"
    path.write_bytes(make())
    with pytest.raises(AudioError, match=message) as from_path:
        read_audio(path)
    check(from_path.value)
    assert "answer.wav" in from_path.value.message


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")],
)
def test_random_damage_is_read_or_refused(kind: str, subtype: str) -> None:
    """Whatever bytes change, in the header above all: samples, or an AudioError, nothing else."""
    rng = np.random.default_rng(0)
    whole = encoded(speech(1.0), kind, subtype)
    refused = 0
    for turn in range(40):
        data = bytearray(whole)
        reach = 100 if turn % 2 else len(data)
        for at in rng.integers(0, reach, 4):
            data[at] = rng.integers(0, 256)
        try:
            samples = read_audio(bytes(data[: len(data) - int(rng.integers(0, 2) * 500)]))
        except AudioError as error:
            check(error)
            refused += 1
        else:
            assert np.isfinite(samples).all()
    assert refused


def test_flac_that_ends_between_frames_is_noticed() -> None:
    """Nothing is damaged then: only the header's count tells that the end is missing."""
    data = bytearray(encoded(noise(1.0), "FLAC", "PCM_16"))
    data[22:26] = struct.pack(">I", 4 * RATE_HZ)
    with pytest.raises(AudioError, match=r"damaged or cut short|promises 4 s"):
        read_audio(bytes(data))


@pytest.mark.filterwarnings("ignore")
def test_mp3_cut_short_is_noticed() -> None:
    with pytest.raises(AudioError, match="cut short"):
        read_audio(_mp3_cut_short())


@pytest.mark.parametrize("bitrate_mode", ["CONSTANT", "VARIABLE"])
def test_mp3_without_its_length(bitrate_mode: str) -> None:
    """libsndfile would play a part of the second one and say nothing."""
    buffer = io.BytesIO()
    samples = np.concatenate([speech(8.0), noise(8.0, -80.0), speech(8.0)])
    with soundfile.SoundFile(
        buffer, "w", RATE_HZ, 1, format="MP3", bitrate_mode=bitrate_mode, compression_level=0.5
    ) as file:
        file.write(samples)
    data = buffer.getvalue()
    assert b"Xing" in data[:64] or b"Info" in data[:64]
    kbps = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)[data[2] >> 4]  # MPEG-2
    untagged = data[72 * kbps * 1000 // RATE_HZ :]
    if bitrate_mode == "CONSTANT":
        assert len(read_audio(untagged)) == pytest.approx(len(samples), abs=4 * 576)
    else:
        with pytest.raises(AudioError, match="does not declare its length"):
            read_audio(untagged)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="does not exist") as caught:
        open_audio(tmp_path / "none.wav")
    check(caught.value)


def test_address_is_not_fetched() -> None:
    with pytest.raises(AudioError, match="not fetched: download"):
        open_audio("https://example.org/answer.wav")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="is a folder"):
        open_audio(tmp_path)


def test_path_with_a_null_byte() -> None:
    with pytest.raises(AudioError, match="cannot be opened"):
        open_audio("a\0b.wav")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    fifo = tmp_path / "pipe.wav"
    os.mkfifo(fifo)
    with pytest.raises(AudioError, match="a device or pipe"):
        open_audio(fifo)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no /dev/zero")
def test_device_is_refused() -> None:
    with pytest.raises(AudioError, match="a device or pipe"):
        open_audio("/dev/zero")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no permissions to take")
def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "locked.wav"
    path.write_bytes(encoded(noise(0.1)))

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # root may read what is locked
    with pytest.raises(AudioError, match="cannot be opened: Permission denied"):
        open_audio(path)


def test_more_bytes_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asa_engine.audio.decode.MAX_BYTES", 1000)
    for source in (encoded(noise(0.1)), io.BytesIO(encoded(noise(0.1)))):
        with pytest.raises(AudioError, match="MiB at once"):
            open_audio(source)


def test_file_open_as_text() -> None:
    with pytest.raises(AudioError, match="must give bytes"):
        open_audio(io.StringIO("RIFF"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "source", [None, 3, [0.1, 0.2], (np.zeros(4, np.float32),), ([0.1], 16000)]
)
def test_what_is_not_a_source(source: Any) -> None:
    with pytest.raises(AudioError) as caught:
        open_audio(source)
    check(caught.value)


@pytest.mark.parametrize(
    "rate_hz", [0, -16_000, 3_999, 384_001, 16_000.5, float("nan"), "16000", True]
)
def test_bad_sample_rates(rate_hz: Any) -> None:
    with pytest.raises(AudioError, match="is not taken"):
        ChunkConverter(rate_hz)
    with pytest.raises(AudioError, match="is not taken"):
        open_audio((noise(0.1), rate_hz))


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        ([0.1, 0.2], "must be a NumPy array, not list"),
        (b"\0\0", "must be a NumPy array, not bytes"),
        (np.zeros(4, np.float16), "float16 is not taken"),
        (np.zeros(4, np.int64), "int64 is not taken"),
        (np.zeros(4, np.complex64), "complex64 is not taken"),
        (np.zeros(4, bool), "bool is not taken"),
        (np.array(["a"]), "is not taken"),
        (np.array([None]), "object is not taken"),
        (np.array(0.5, np.float32), r"shape \[\] is not taken"),
        (np.zeros((2, 2, 2), np.float32), r"shape \[2, 2, 2\] is not taken"),
        (np.zeros((2, 16_000), np.float32), "16000 channels"),
        (np.zeros((4, 0), np.float32), "0 channels"),
        (np.full(4, 12_000, np.float32), "full scale is 1"),
        (np.full(4, 1e300), "infinity at 0 s"),
    ],
)
def test_bad_chunks(chunk: Any, message: str) -> None:
    with pytest.raises(AudioError, match=message) as caught:
        ChunkConverter(RATE_HZ).push(chunk)
    check(caught.value)


@pytest.mark.parametrize("chunk_size", [1, 160, 48_000])
def test_first_bad_sample_is_named_for_any_chunking(chunk_size: int) -> None:
    samples = np.repeat(_spoilt(np.nan), 3)
    with pytest.raises(AudioError, match=r"NaN at 0\.75 s"):
        converted(cut(samples, [chunk_size]), 48_000)


def test_channels_may_not_change() -> None:
    converter = ChunkConverter(RATE_HZ)
    converter.push(np.zeros((10, 2), np.int16))
    converter.push(np.zeros(0, np.int16))
    with pytest.raises(AudioError, match="1 channels, those before it had 2"):
        converter.push(np.zeros(10, np.int16))


def test_nothing_pushed() -> None:
    converter = ChunkConverter(RATE_HZ)
    assert converter.push(np.zeros(0, np.float32)).shape == (0,)
    with pytest.raises(AudioError, match="0 samples"):
        converter.close()


def test_closed_converter() -> None:
    converter = ChunkConverter(RATE_HZ)
    converter.push(noise(0.1))
    converter.close()
    for late in (lambda: converter.push(noise(0.1)), converter.close):
        with pytest.raises(UsageError, match="already closed"):
            late()


def test_files_are_closed_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "short.flac"
    path.write_bytes(_flac()[:30_000])
    open_before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    for _ in range(5):
        with pytest.raises(AudioError):
            read_audio(path)
    open_after = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    assert open_after == open_before
