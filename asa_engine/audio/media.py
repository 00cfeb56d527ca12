"""What FFmpeg reads, by way of PyAV: the extra [media]. WebM, MP4, AAC, AMR and more."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asa_engine.audio.containers.frames import check_adts, check_amr
from asa_engine.audio.containers.kinds import Kind, conversion
from asa_engine.audio.containers.mp4 import check_mp4
from asa_engine.audio.containers.ogg import ogg_links
from asa_engine.audio.containers.source import Source, View
from asa_engine.audio.containers.webm import webm_ends
from asa_engine.errors import AudioError

__all__ = ["media_chunks"]

_CHECKS: Final = {"mov": check_mp4, "aac": check_adts, "amr": check_amr}
# Formats whose header states the length of the sound; of the others FFmpeg guesses it.
_DECLARING: Final = ("mov", "aiff", "caf", "wav", "w64", "tta", "wv", "ape")
_LATE_S: Final = 0.5  # frames of padding, and what a decoder needs to begin
# FFmpeg's decoders of AMR refuse the frames that phones write in a pause.
_BETTER: Final = {"amrnb": "libopencore_amrnb", "amrwb": "libopencore_amrwb"}
_BLOCK_S: Final = 0.25
_MOST_PER_BYTE: Final = 2**16  # sample frames of any codec's shortest packet


def media_chunks(
    source: Source, kind: Kind, name: str | None
) -> Generator[tuple[int, NDArray[Any]], None, None]:
    """Yield (sample rate in Hz, [n, channels]) of a recording, in order.

    Args:
        source: The recording.
        kind: What it is.
        name: Its path, `None` for what has none.

    Raises:
        AudioError: PyAV is not installed; the recording is damaged, cut short or without sound.
    """
    try:
        import av
    except ImportError:
        raise AudioError(
            f"{source.name!r} is {kind.name}, which is read with the extra [media] only",
            hint=f"pip install 'asa-engine[media]', or convert it: {conversion(name or '')}",
        ) from None
    if kind.demuxer in _CHECKS:
        _CHECKS[kind.demuxer](source, kind.start)
    parts = [(kind.start, source.size)]
    if kind.demuxer == "matroska":
        parts = webm_ends(source, kind.start)
    elif kind.demuxer == "ogg":
        parts = [(link.start, link.end) for link in ogg_links(source, kind.start)]
    for part in parts:
        yield from _gathered(_decoded(av, source, kind, part))


def _decoded(
    av: Any, source: Source, kind: Kind, part: tuple[int, int]
) -> Iterator[tuple[int, NDArray[Any]]]:
    view = View(source, (part,))
    decoded_s, frames = 0.0, 0
    try:
        with av.open(view, format=kind.demuxer, metadata_errors="ignore", io_open=_refuse) as file:
            stream = file.streams.best("audio")
            if stream is None:
                raise AudioError(f"{source.name!r} is {kind.name} without sound", hint="record it")
            if stream.codec_context is None:
                raise _damaged(source, kind, 0.0, "its codec is not known")
            decoder = _decoder(av, stream.codec_context)
            declared_s = 0.0
            if kind.demuxer in _DECLARING and stream.duration and stream.time_base:
                late_s = 0.0 if decoder.name.startswith("pcm") else _LATE_S
                declared_s = float(stream.duration * stream.time_base) - late_s
            for packet in file.demux(stream):
                if packet.is_corrupt:
                    raise _damaged(source, kind, decoded_s, "a packet is not whole")
                for frame in decoder.decode(packet):
                    decoded_s += frame.samples / frame.sample_rate
                    frames += frame.samples
                    if frames > _MOST_PER_BYTE * source.size:
                        raise _damaged(source, kind, decoded_s, "it unfolds without end")
                    yield frame.sample_rate, _samples(frame)
    except av.FFmpegError as error:
        view.check()
        raise _damaged(source, kind, decoded_s, error.strerror or str(error)) from None
    except (ArithmeticError, LookupError, UnicodeError, ValueError) as error:  # from its wrappers
        raise _damaged(source, kind, decoded_s, str(error)) from None
    view.check()
    if decoded_s < declared_s:
        raise AudioError(
            f"{source.name}: cut short: its header promises {declared_s:.6g} s of sound, "
            f"{decoded_s:.6g} s could be decoded",
            hint="copy or record it again",
        )


def _decoder(av: Any, context: Any) -> Any:
    """Return the decoder of a stream: one that knows pauses, where FFmpeg's own does not."""
    better = _BETTER.get(context.name)
    if better is not None and better in av.codecs_available:
        rate_hz, layout = context.sample_rate, context.layout
        context = av.CodecContext.create(better, "r")
        context.sample_rate, context.layout = rate_hz, layout
    context.thread_count = 1
    return context


def _refuse(*_: Any) -> Any:
    """Keep a file from naming others to be opened."""
    raise ValueError("it refers to another file")


def _damaged(source: Source, kind: Kind, at_s: float, how: str) -> AudioError:
    return AudioError(
        f"{source.name}: {kind.name}, damaged or cut short after {at_s:.6g} s: {how}",
        hint="copy or record it again",
    )


def _samples(frame: Any) -> NDArray[Any]:
    """Return a frame's samples, [n, channels]."""
    values: NDArray[Any] = frame.to_ndarray()
    if values.dtype == np.int64:
        values = values * 2.0**-63
    if frame.format.is_planar:
        return values.T
    return values.reshape(-1, len(frame.layout.channels))


def _gathered(
    chunks: Iterator[tuple[int, NDArray[Any]]],
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Join the short frames of a codec to longer blocks."""
    for rate_hz, group in itertools.groupby(chunks, key=lambda chunk: chunk[0]):
        waiting: list[NDArray[Any]] = []
        for _, chunk in group:
            if waiting and (chunk.shape[1], chunk.dtype) != (waiting[0].shape[1], waiting[0].dtype):
                yield rate_hz, np.concatenate(waiting)
                waiting = []
            waiting.append(chunk)
            if sum(map(len, waiting)) >= _BLOCK_S * rate_hz:
                yield rate_hz, np.concatenate(waiting)
                waiting = []
        if waiting:
            yield rate_hz, np.concatenate(waiting)
