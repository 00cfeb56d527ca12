"""Open a recording from a path, a pipe, bytes, a file object or an array, block by block."""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from asa_engine.audio.containers.flac import flac_parts
from asa_engine.audio.containers.kinds import FLAC, MP3, OGG, WAV, Kind, kind_of
from asa_engine.audio.containers.mp3 import mp3_parts
from asa_engine.audio.containers.ogg import ogg_links
from asa_engine.audio.containers.source import Part, Source
from asa_engine.audio.containers.wav import wav_parts
from asa_engine.audio.convert import (
    MAX_CHANNELS,
    MAX_DURATION_S,
    AudioChunk,
    ChunkConverter,
    check_sample_rate,
)
from asa_engine.audio.libsndfile import block_frames, libsndfile_chunks
from asa_engine.audio.media import media_chunks
from asa_engine.errors import AudioError

AudioSource: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | tuple[NDArray[Any], int]
)

# What is given as bytes is held in memory whole; longer recordings go by path.
MAX_BYTES: Final = 512 * 2**20

_OGG_CODECS: Final = ("Vorbis", "Opus")


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

    def __exit__(self, *failure: object) -> None:
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
    resources, path, name = contextlib.ExitStack(), None, ""
    try:
        if isinstance(source, (str, os.PathLike)):
            path = os.fspath(source)
            opened: bytes | int = _open_path(path, resources)
        else:
            opened, name = _read_bytes(source)
        return _open_source(Source(opened, path or name), path, resources)
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
    return AudioError(f"{name}: {error.message}", hint=error.hint)


def _open_array(source: tuple[NDArray[Any], int]) -> AudioReader:
    if len(source) != 2:
        raise AudioError(
            f"a tuple of {len(source)} is not audio",
            hint="use (samples, sample_rate_hz)",
        )
    samples, rate = source
    sample_rate_hz = check_sample_rate(rate)
    if not isinstance(samples, np.ndarray) or samples.ndim not in (1, 2):
        raise AudioError(
            "the samples must be a NumPy array [samples] or [samples, channels]",
            hint="use (samples, sample_rate_hz)",
        )
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    step = block_frames(sample_rate_hz, channels)
    blocks = (samples[start : start + step] for start in range(0, len(samples), step))
    return AudioReader("the audio", sample_rate_hz, channels, blocks)


def _open_path(name: str, resources: contextlib.ExitStack) -> bytes | int:
    """Open a path: the descriptor of a regular file, or what a pipe gave; no device is read.

    A named pipe that nobody writes to yet is waited for.
    """
    try:
        is_pipe = stat.S_ISFIFO(os.stat(name).st_mode)
        flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
        flags |= 0 if is_pipe else getattr(os, "O_NONBLOCK", 0)
        descriptor = os.open(name, flags)
    except FileNotFoundError:
        hint = "check the path"
        if "://" in name:
            hint = "addresses are not fetched: download the file first"
        raise AudioError(f"{name!r} does not exist", hint=hint) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AudioError(f"{name!r} cannot be opened: {reason}", hint="check the path") from None
    resources.callback(os.close, descriptor)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    if stat.S_ISFIFO(mode) and is_pipe:
        with open(descriptor, "rb", closefd=False) as pipe:
            return _read_bytes(pipe, name)[0]
    kind = "a folder" if stat.S_ISDIR(mode) else "a device"
    kind = "a terminal" if os.isatty(descriptor) else kind
    raise AudioError(f"{name!r} is {kind}, not an audio file", hint="name a file or a pipe")


def _read_bytes(source: Any, name: str = "") -> tuple[bytes, str]:
    if isinstance(source, (bytes, bytearray, memoryview)):
        name = "the audio"
        data = bytes(source) if len(source) <= MAX_BYTES else None
    elif callable(getattr(source, "read", None)):
        name = name or _name_of(source)
        try:
            data = source.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise AudioError(f"{name}: reading failed: {reason}", hint="open it again") from None
        if not isinstance(data, bytes):
            raise AudioError(f"{name}: a file object must give bytes", hint='open it with "rb"')
        data = data if len(data) <= MAX_BYTES else None
    else:
        raise AudioError(
            f"audio cannot be read from {type(source).__name__}",
            hint="use a path, bytes, a binary file object or (samples, sample_rate_hz)",
        )
    if data is None:
        raise AudioError(
            f"{name}: more than {MAX_BYTES // 2**20} MiB at once",
            hint="save it and pass its path",
        )
    return data, name


def _name_of(file: Any) -> str:
    name = getattr(file, "name", "the audio")
    return "standard input" if name in (0, "<stdin>") else str(name)


def _open_source(source: Source, path: str | None, resources: contextlib.ExitStack) -> AudioReader:
    try:
        kind = kind_of(source)
        if not kind.demuxer:
            kind, parts = _parts(source, kind)
        if kind.demuxer:
            chunks = media_chunks(source, kind, path)
        else:
            chunks = (chunk for part in parts for chunk in libsndfile_chunks(source, kind, part))
        resources.callback(chunks.close)
        first = next(chunks, None)
    except OSError as error:
        raise AudioError(
            f"{source.name}: reading failed: {error.strerror}", hint="copy it again"
        ) from None
    if first is None:
        raise AudioError(f"{source.name}: the audio holds 0 samples", hint="record it again")
    sample_rate_hz, channels = check_sample_rate(first[0], source.name), first[1].shape[1]
    if channels > MAX_CHANNELS:
        raise AudioError(
            f"{source.name}: {channels} channels; at most {MAX_CHANNELS} are taken",
            hint="mix it down",
        )
    blocks = _of_one_rate(itertools.chain([first], chunks), sample_rate_hz, source.name)
    return AudioReader(source.name, sample_rate_hz, channels, blocks, resources)


def _parts(source: Source, kind: Kind) -> tuple[Kind, list[Part]]:
    """Return what libsndfile is to decode; a kind with a demuxer if it cannot."""
    if kind.name == OGG:
        links = ogg_links(source, kind.start)
        foreign = next((link.codec for link in links if link.codec not in _OGG_CODECS), None)
        if foreign is not None:
            return Kind(f"Ogg ({foreign})", "ogg", kind.start), []
        return kind, [link.part(source) for link in links]
    make = {WAV: wav_parts, FLAC: flac_parts, MP3: mp3_parts}[kind.name]
    return kind, make(source, kind.start)


def _of_one_rate(
    chunks: Iterator[tuple[int, NDArray[Any]]], sample_rate_hz: int, name: str
) -> Iterator[NDArray[Any]]:
    for rate_hz, chunk in chunks:
        if rate_hz != sample_rate_hz:
            raise AudioError(
                f"{name}: its sample rate changes from {sample_rate_hz} to {rate_hz} Hz",
                hint="cut it there, and score each part",
            )
        yield chunk
