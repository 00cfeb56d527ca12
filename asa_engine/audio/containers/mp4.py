"""MP4 and its kin: is every box there, and which codec does the sound track have?

Layout: ISO/IEC 14496-12, sections 4.2 (boxes) and 8.5.2 (sample descriptions).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from asa_engine.audio.containers.source import Source
from asa_engine.errors import AudioError

__all__ = ["check_mp4", "mp4_codec"]

_CODECS: Final = {
    b"mp4a": "AAC",
    b"alac": "ALAC",
    b"samr": "AMR",
    b"sawb": "AMR",
    b"Opus": "Opus",
    b"fLaC": "FLAC",
    b"ac-3": "AC-3",
    b"ec-3": "AC-3",
    b".mp3": "MP3",
    b"sowt": "PCM",
    b"twos": "PCM",
    b"lpcm": "PCM",
}
_PARENTS: Final = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
_MAX_BOXES: Final = 100_000


def mp4_codec(source: Source, start: int) -> str:
    """Return the codec of the sound, "" where the file does not get to say."""
    spans = [(start, source.size)]
    while spans:
        for kind, body, end in _boxes(source, *spans.pop()):
            if kind in _PARENTS:
                spans.append((body, end))
            elif kind == b"stsd":
                codec = _CODECS.get(source.read(body + 12, 4), "")
                if codec:
                    return codec
    return ""


def check_mp4(source: Source, start: int) -> None:
    """Refuse a file whose boxes are not all there, or that is two files in a row.

    Raises:
        AudioError: It is cut short, or has no index, as a recorder leaves it that was stopped.
    """
    kinds = []
    for kind, _, end in _boxes(source, start, source.size):
        kinds.append(kind)
        if end > source.size:
            raise AudioError(
                f"{source.name}: MP4/M4A, cut short: {end - source.size} bytes are missing",
                hint="copy or record it again",
            )
    if b"moov" not in kinds:
        raise AudioError(
            f"{source.name}: MP4/M4A, cut short: its index is missing",
            hint="copy or record it again; a recorder that is killed does not write it",
        )
    if kinds.count(b"moov") > 1:
        raise AudioError(
            f"{source.name}: several MP4 files in a row", hint="cut it, and score each part"
        )


def _boxes(source: Source, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, begin of the body and end of each box; the last one may pass `end`."""
    for _ in range(_MAX_BOXES):
        head = source.read(at, 16)
        if at >= end or len(head) < 8:
            return
        size, kind, body = int.from_bytes(head[:4], "big"), head[4:8], at + 8
        if size == 1 and len(head) == 16:
            size, body = int.from_bytes(head[8:16], "big"), at + 16
        elif size == 0:
            size = end - at
        if size < body - at:
            return
        yield kind, body, at + size
        at += size
