"""FLAC: joined files are told apart, and a header that counts too few samples is not believed.

Layout: RFC 9639, sections 8 (metadata) and 8.2 (streaminfo).
"""

from __future__ import annotations

from typing import Final

from asa_engine.audio.containers.source import Part, Source
from asa_engine.audio.containers.tags import end_of_sound
from asa_engine.errors import AudioError

__all__ = ["flac_parts"]

_MAGIC: Final = b"fLaC"
_STREAMINFO_BYTES: Final = 34
_MAX_METADATA_BLOCKS: Final = 1024
_BLOCK_BYTES: Final = 2**20


def flac_parts(source: Source, start: int) -> list[Part]:
    """Return what to decode, whole: a part for each of the files joined in it.

    Raises:
        AudioError: Its metadata are damaged or cut short.
    """
    end = end_of_sound(source, start)
    parts = []
    while start < end:
        info, frames = _metadata(source, start, end)
        after = _next_stream(source, frames, end)
        declared = (info[13] & 0x0F) << 32 | int.from_bytes(info[14:18], "big")
        # Zero samples mean "not known": the decoder then goes on to the last frame.
        unknown = info[:13] + bytes([info[13] & 0xF0]) + bytes(4) + info[18:]
        head = _MAGIC + bytes([0x80, 0, 0, _STREAMINFO_BYTES]) + unknown
        parts.append(Part((head, (frames, after)), declared=declared))
        start = after
    return parts


def _metadata(source: Source, start: int, end: int) -> tuple[bytes, int]:
    """Return the STREAMINFO block and where the frames begin."""
    at, info = start + len(_MAGIC), b""
    for _ in range(_MAX_METADATA_BLOCKS):
        head = source.read(at, 4)
        length = int.from_bytes(head[1:4], "big")
        if len(head) < 4 or at + 4 + length > end:
            break
        if head[0] & 0x7F == 0 and length == _STREAMINFO_BYTES:
            info = source.read(at + 4, length)
        at += 4 + length
        if head[0] & 0x80:
            if info:
                return info, at
            break
    raise AudioError(
        f"{source.name}: damaged or cut short: the FLAC header is not whole",
        hint="copy or record it again",
    )


def _next_stream(source: Source, at: int, end: int) -> int:
    """Return where another FLAC file begins behind the frames, or the end.

    A frame cannot be skipped without decoding it, so the marker is looked for; with the block
    header behind it, it is 62 bits long.
    """
    while at < end:
        block = source.read(at, _BLOCK_BYTES)
        found = block.find(_MAGIC)
        while found >= 0:
            header = source.read(at + found + 4, 4)
            if header in (b"\0\0\0\x22", b"\x80\0\0\x22"):
                return at + found
            found = block.find(_MAGIC, found + 1)
        at += max(1, len(block) - 3)
    return end
