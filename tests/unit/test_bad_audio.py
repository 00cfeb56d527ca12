"""Sound that cannot be read: every bad input is named, and nothing crashes."""

from __future__ import annotations

import io
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from audio_samples import RATE_HZ, converted, cut, encoded, noise, speech, with_data_bytes

from asa_engine.audio import (
    ChunkConverter,
    open_audio,
    read_audio,
)
from asa_engine.errors import AudioError, UsageError


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
        lambda: with_data_bytes(encoded(noise(1.0)), 5 * 3600 * 32_000),
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
    assert error.hint
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
    assert len(read_audio(untagged)) == pytest.approx(len(samples), abs=4 * 576)


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
def test_a_named_pipe_is_waited_for_and_read(tmp_path: Path) -> None:
    fifo = tmp_path / "pipe.wav"
    os.mkfifo(fifo)
    data = encoded(speech(1.0))
    writer = threading.Thread(target=fifo.write_bytes, args=(data,))
    writer.start()
    np.testing.assert_array_equal(read_audio(fifo), read_audio(data))
    writer.join()


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no /dev/zero")
def test_device_is_refused() -> None:
    with pytest.raises(AudioError, match="is a device"):
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
