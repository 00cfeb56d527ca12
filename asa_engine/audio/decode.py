"""Open WAV, FLAC, OGG and MP3 from a path, bytes, a file object or an array, block by block."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Any, BinaryIO, Final, Self, TypeAlias

import numpy as np
import soundfile
from numpy.typing import NDArray

from asa_engine.audio.convert import (
    MAX_CHANNELS,
    MAX_DURATION_S,
    AudioChunk,
    ChunkConverter,
    check_sample_rate,
)
from asa_engine.errors import AudioError

AudioSource: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | tuple[NDArray[Any], int]
)

# What is given as bytes is held in memory whole; longer recordings go by path.
MAX_BYTES: Final = 512 * 2**20
BLOCK_S: Final = 0.5
MAX_BLOCK_SAMPLES: Final = 2**19

# libsndfile opens more formats than these; each one is attack surface that nobody asked for.
_CONTAINERS: Final = {
    b"RIFF": "WAV",
    b"RF64": "WAV",
    b"fLaC": "FLAC",
    b"OggS": "OGG",
    b"ID3": "MP3",
}
_HEAD_BYTES: Final = 64 * 1024
_MEND: Final = "use WAV, FLAC, OGG/Vorbis or MP3"

# WAV writers that cannot seek back leave these as the length of the data (ffmpeg, sox).
_UNKNOWN_DATA_BYTES: Final = 0xFFFFFFFF
_UNKNOWN_DATA_BYTES_SOX: Final = 0x7FFFF000
# Some writers count the header in; no more than that is forgiven.
_DATA_BYTES_SLACK: Final = 64
_MAX_RIFF_CHUNKS: Final = 64
# What may be left of an MP3 after its last frame: an ID3v1 tag and padding.
_MP3_TAIL_BYTES: Final = 1024


class _ForwardOnlyFile(soundfile.SoundFile):  # type: ignore[misc]
    """A SoundFile that is only read forward.

    soundfile seeks after every read of a seekable file, which fails on FLAC of undeclared length.
    """

    def seekable(self) -> bool:
        return False


class AudioReader:
    """One opened recording, read once, from its beginning; a context manager.

    Attributes:
        name: What to call the recording in a message.
        sample_rate_hz: Rate of its blocks.
        channels: Channels of its blocks.
    """

    def __init__(
        self,
        name: str,
        sample_rate_hz: int,
        channels: int,
        blocks: Iterator[AudioChunk],
        resources: contextlib.ExitStack | None = None,
    ) -> None:
        self.name = name
        self.sample_rate_hz = sample_rate_hz
        self.channels = channels
        self._blocks = blocks
        self._resources = resources or contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def blocks(self) -> Iterator[AudioChunk]:
        """Return the iterator over its blocks: [n] or [n, channels] at its own rate, in order."""
        return self._blocks

    def converter(self, *, max_duration_s: float = MAX_DURATION_S) -> ChunkConverter:
        """Return a converter for its blocks."""
        return ChunkConverter(self.sample_rate_hz, max_duration_s=max_duration_s)

    def close(self) -> None:
        """Close the file behind it, if there is one."""
        self._resources.close()


def open_audio(source: AudioSource) -> AudioReader:
    """Open a recording without reading it whole.

    Args:
        source: A path; the bytes of a file; a binary file object (read whole, from where it
            stands); or (samples [n] or [n, channels], sample_rate_hz).

    Returns:
        A reader whose blocks are at most half a second long.

    Raises:
        AudioError: It does not exist, is not a regular file, cannot be read or is not audio;
            while iterating: it is damaged, or ends before the length in its header.
    """
    if isinstance(source, tuple):
        return _open_array(source)
    resources = contextlib.ExitStack()
    try:
        if isinstance(source, (str, os.PathLike)):
            name = os.fspath(source)
            handle: io.RawIOBase | io.BytesIO = resources.enter_context(_open_regular(name))
        else:
            data, name = _read_bytes(source)
            handle = io.BytesIO(data)
        return _open_handle(handle, name, resources)
    except BaseException:
        resources.close()
        raise


def read_blocks(
    source: AudioSource, *, max_duration_s: float = MAX_DURATION_S
) -> Iterator[NDArray[np.float32]]:
    """Yield a recording as float32 mono blocks at 16 kHz, in memory that its length cannot grow.

    Args:
        source: As for `open_audio`.
        max_duration_s: Longest recording taken.

    Raises:
        AudioError: As for `open_audio` and `ChunkConverter`, naming the recording.
    """
    with open_audio(source) as audio:
        converter = audio.converter(max_duration_s=max_duration_s)
        try:
            for chunk in audio.blocks():
                block = converter.push(chunk)
                if block.size:
                    yield block
            block = converter.close()
        except AudioError as error:
            raise named(error, audio.name) from None
        if block.size:
            yield block


def read_audio(
    source: AudioSource, *, max_duration_s: float = MAX_DURATION_S
) -> NDArray[np.float32]:
    """Return a whole recording as float32 mono at 16 kHz, [n]; for short ones."""
    return np.concatenate(list(read_blocks(source, max_duration_s=max_duration_s)))


def named(error: AudioError, name: str) -> AudioError:
    """Return the error with the recording's name in front, unless it is there already."""
    if name in error.message:
        return error
    return AudioError(f"{name}: {error.message}", mend=error.mend)


def _open_array(source: tuple[NDArray[Any], int]) -> AudioReader:
    if len(source) != 2:
        raise AudioError(
            f"a tuple of {len(source)} is not audio",
            mend="use (samples, sample_rate_hz)",
        )
    samples, rate = source
    sample_rate_hz = check_sample_rate(rate)
    if not isinstance(samples, np.ndarray) or samples.ndim not in (1, 2):
        raise AudioError(
            "the samples must be a NumPy array [samples] or [samples, channels]",
            mend="use (samples, sample_rate_hz)",
        )
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    step = _block_frames(sample_rate_hz, channels)
    blocks = (samples[start : start + step] for start in range(0, len(samples), step))
    return AudioReader("the audio", sample_rate_hz, channels, blocks)


def _open_regular(name: str) -> io.FileIO:
    """Open a path that must be a regular file; a FIFO must not block, a device not be read."""
    try:
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(name, flags)
    except FileNotFoundError:
        mend = "check the path"
        if "://" in name:
            mend = "addresses are not fetched: download the file first"
        raise AudioError(f"{name!r} does not exist", mend=mend) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AudioError(f"{name!r} cannot be opened: {reason}", mend="check the path") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(mode) else "a device or pipe"
        raise AudioError(f"{name!r} is {kind}, not an audio file", mend="name a regular file")
    return io.FileIO(descriptor, "rb")


def _read_bytes(source: Any) -> tuple[bytes, str]:
    name = "the audio"
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source) if len(source) <= MAX_BYTES else None
    elif callable(getattr(source, "read", None)):
        name = str(getattr(source, "name", name))
        try:
            data = source.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:
            raise AudioError(f"{name}: reading failed: {error}", mend="open it again") from None
        if not isinstance(data, bytes):
            raise AudioError(f"{name}: a file object must give bytes", mend='open it with "rb"')
        data = data if len(data) <= MAX_BYTES else None
    else:
        raise AudioError(
            f"audio cannot be read from {type(source).__name__}",
            mend="use a path, bytes, a binary file object or (samples, sample_rate_hz)",
        )
    if data is None:
        raise AudioError(
            f"{name}: more than {MAX_BYTES // 2**20} MiB at once",
            mend="save it and pass its path",
        )
    return data, name


def _open_handle(
    handle: io.RawIOBase | io.BytesIO, name: str, resources: contextlib.ExitStack
) -> AudioReader:
    try:
        head = handle.read(_HEAD_BYTES) or b""
        size = handle.seek(0, io.SEEK_END)
        container = _sniff(head, name)
        if container == "WAV" and head[:4] == b"RIFF":
            _check_data_bytes(handle, name, size)
        handle.seek(0)
    except OSError as error:
        raise AudioError(f"{name!r} cannot be read: {error.strerror}") from None
    target = handle.fileno() if isinstance(handle, io.FileIO) else handle
    try:
        file = resources.enter_context(_ForwardOnlyFile(target, closefd=False))
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{name}: damaged, or not the {container} it begins as: {error.error_string}",
            mend=_MEND,
        ) from None
    sample_rate_hz = check_sample_rate(file.samplerate, name)
    if file.channels > MAX_CHANNELS:
        raise AudioError(
            f"{name}: {file.channels} channels; at most {MAX_CHANNELS} are taken",
            mend="mix it down",
        )
    declared = _declared_frames(file, container, head)
    blocks = _read_blocks(file, name, declared)
    if container == "MP3" and not declared:
        blocks = _checked_to_the_end(blocks, handle, size, name)
    return AudioReader(name, sample_rate_hz, file.channels, blocks, resources)


def _sniff(head: bytes, name: str) -> str:
    """Name the container from its first bytes."""
    if not head:
        raise AudioError(f"{name!r} is empty", mend="record it again")
    for magic, container in _CONTAINERS.items():
        if head.startswith(magic):
            return container
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return "MP3"
    kind = "not audio that is known here"
    if head[4:8] == b"ftyp":
        kind = "MP4/M4A (AAC), which is not taken"
    elif head.startswith(b"\x1a\x45\xdf\xa3"):
        kind = "WebM/Matroska, which is not taken"
    elif all(byte >= 0x20 or byte in b"\t\r\n\f\b" for byte in head[:1024]):
        kind = "text, not audio"
    raise AudioError(f"{name!r} is {kind}", mend=_MEND)


def _check_data_bytes(handle: io.RawIOBase | io.BytesIO, name: str, size: int) -> None:
    """Refuse a WAV whose header promises more sound than the file holds.

    libsndfile plays what is there and says nothing, so half an answer would be scored as whole.
    """
    position, align, bytes_per_s = 12, 1, 0
    for _ in range(_MAX_RIFF_CHUNKS):
        handle.seek(position)
        header = handle.read(8) or b""
        if len(header) < 8:
            return
        tag, length = struct.unpack("<4sI", header)
        if tag == b"fmt " and length >= 16:
            body = (handle.read(16) or b"").ljust(16, b"\0")
            bytes_per_s, align = struct.unpack("<8xIH2x", body)
        if tag == b"data":
            break
        position += 8 + length + length % 2
    else:
        return
    held = size - position - 8
    sox_length = _UNKNOWN_DATA_BYTES_SOX - _UNKNOWN_DATA_BYTES_SOX % max(align, 1)
    if length in (_UNKNOWN_DATA_BYTES, sox_length) or length <= held + _DATA_BYTES_SLACK:
        return
    promise = f"{length / bytes_per_s:.6g} s" if bytes_per_s else f"{length} bytes"
    there = f"{held / bytes_per_s:.6g} s" if bytes_per_s else f"{held} bytes"
    raise AudioError(
        f"{name}: cut short: its header promises {promise} of sound, the file holds {there}",
        mend="copy or record it again",
    )


def _declared_frames(file: soundfile.SoundFile, container: str, head: bytes) -> int:
    """Frames that the header vouches for, 0 where it does not say.

    An MP3 says so only in a Xing/Info frame (libsndfile guesses otherwise), an OGG never; WAV is
    checked before opening.
    """
    if container == "MP3" and b"Xing" not in head and b"Info" not in head:
        return 0
    if container not in ("FLAC", "MP3") or file.frames >= 2**62:
        return 0
    return int(file.frames)


def _read_blocks(
    file: soundfile.SoundFile, name: str, declared: int
) -> Iterator[NDArray[np.float32]]:
    step = _block_frames(file.samplerate, file.channels)
    decoded = 0
    while True:
        try:
            chunk = file.read(step, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            at_s = decoded / file.samplerate
            raise AudioError(
                f"{name}: damaged or cut short after {at_s:.6g} s: {error.error_string}",
                mend="copy or record it again",
            ) from None
        if not len(chunk):
            break
        decoded += len(chunk)
        yield chunk
    if decoded < declared:
        raise AudioError(
            f"{name}: cut short: its header promises {declared / file.samplerate:.6g} s of sound, "
            f"{decoded / file.samplerate:.6g} s could be decoded",
            mend="copy or record it again",
        )


def _checked_to_the_end(
    blocks: Iterator[NDArray[np.float32]], handle: io.RawIOBase | io.BytesIO, size: int, name: str
) -> Iterator[NDArray[np.float32]]:
    """Pass blocks on, then refuse an MP3 of which libsndfile left a part unread.

    Without a Xing/Info frame it takes the first frame's bit rate for that of all, and stops where
    the file would end then: too early if the bit rate varies.
    """
    yield from blocks
    left = size - handle.tell()
    rest = handle.read(_HEAD_BYTES) or b""
    if left > _MP3_TAIL_BYTES and b"APETAGEX" not in rest:
        raise AudioError(
            f"{name}: an MP3 of varying bit rate that does not declare its length",
            mend="convert it to WAV or FLAC",
        )


def _block_frames(sample_rate_hz: int, channels: int) -> int:
    return max(1, min(int(BLOCK_S * sample_rate_hz), MAX_BLOCK_SAMPLES // max(channels, 1)))
