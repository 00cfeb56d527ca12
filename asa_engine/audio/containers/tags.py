"""Tags around sound: ID3 in front; ID3v1, Lyrics3 and APE behind. Their lengths are parsed.

Layouts: id3.org (ID3v1, ID3v2.4.0 section 3, Lyrics3 v2.00) and wiki.hydrogenaud.io (APEv2).
"""

from __future__ import annotations

import struct
from typing import Final

from asa_engine.audio.containers.source import Source
from asa_engine.errors import AudioError

__all__ = ["ID3_BYTES", "end_of_sound", "id3_length", "skip_id3"]

ID3_BYTES: Final = 10
_ID3V1_BYTES: Final = 128
_LYRICS_TAIL: Final = 15  # six digits of length and "LYRICS200"
_LYRICS1_MOST: Final = 5100 + 20
_APE_BYTES: Final = 32
_APE_HAS_HEADER: Final = 0x80000000
_MAX_TAGS: Final = 64


def id3_length(head: bytes) -> int:
    """Return the length of the ID3v2 tag that these bytes begin with; 0 if they do not."""
    if len(head) < ID3_BYTES or head[:3] != b"ID3" or head[3] == 0xFF or head[4] == 0xFF:
        return 0
    if any(byte & 0x80 for byte in head[6:10]):
        return 0
    size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
    has_footer = head[5] & 0x10
    return ID3_BYTES + size + (ID3_BYTES if has_footer else 0)


def skip_id3(source: Source, at: int = 0) -> int:
    """Return where the ID3v2 tags that begin at `at` end.

    Raises:
        AudioError: A tag is longer than the file.
    """
    for _ in range(_MAX_TAGS):
        length = id3_length(source.read(at, ID3_BYTES))
        if not length:
            break
        if at + length > source.size:
            raise AudioError(
                f"{source.name}: cut short: its ID3 tag alone is {length} bytes long, "
                f"the file holds {source.size - at}",
                hint="copy or record it again",
            )
        at += length
    return at


def end_of_sound(source: Source, start: int = 0) -> int:
    """Return where the tags at the end of a file begin: what lies before may be sound."""
    end = source.size
    for _ in range(_MAX_TAGS):
        length = _tail_length(source, start, end)
        if not length:
            break
        end -= length
    return end


def _tail_length(source: Source, start: int, end: int) -> int:
    """Return the length of the tag that ends at `end`, 0 if none does."""
    room = end - start
    if room >= _ID3V1_BYTES and source.read(end - _ID3V1_BYTES, 3) == b"TAG":
        return _ID3V1_BYTES
    tail = source.read(max(start, end - _APE_BYTES), min(room, _APE_BYTES))
    if tail.startswith(b"APETAGEX") and len(tail) == _APE_BYTES:
        size, flags = struct.unpack("<12xI4xI8x", tail)
        length = int(size) + (_APE_BYTES if flags & _APE_HAS_HEADER else 0)
        return length if length <= room else 0
    if tail[-9:] == b"LYRICS200" and tail[-15:-9].isdigit():
        length = int(tail[-15:-9]) + _LYRICS_TAIL
        begins = length <= room and source.read(end - length, 11) == b"LYRICSBEGIN"
        return length if begins else 0
    if tail[-9:] == b"LYRICSEND":  # Lyrics3 v1 does not say how long it is
        text = source.read(max(start, end - _LYRICS1_MOST), min(room, _LYRICS1_MOST))
        begin = text.rfind(b"LYRICSBEGIN")
        return len(text) - begin if begin >= 0 else 0
    return 0
