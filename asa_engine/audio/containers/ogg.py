"""Ogg: every page is accounted for; what follows a chain's first link is heard too.

Layout: RFC 3533, section 6. The codecs name themselves in the first packet of a link.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Final

from asa_engine.audio.containers.source import Part, Piece, Source
from asa_engine.errors import AudioError

__all__ = ["CODECS", "OggLink", "ogg_links"]

CODECS: Final = {
    b"\x01vorbis": "Vorbis",
    b"OpusHead": "Opus",
    b"Speex   ": "Speex",
    b"\x7fFLAC": "FLAC",
    b"\x80theora": "Theora video",
    b"fishead\0": "several streams",
}
_MAGIC: Final = b"OggS"
_HEAD_BYTES: Final = 27
_CONTINUED, _FIRST, _LAST = 1, 2, 4
_NO_GRANULE: Final = 2**64 - 1
_REVERSED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class _SideBySide(Exception):
    """Two streams run at the same time."""


@dataclass(slots=True)
class OggLink:
    """One link of a chain: a whole Ogg stream.

    Attributes:
        codec: A name of `CODECS`, or "an unknown codec".
        start: Where its first page begins.
        end: Where its last page ends.
        last: Where its last page begins.
        serial: Number of the stream.
        granule_rate_hz: What a page's time stamp counts, where it is known.
        sequence: Number of its last page.
        has_ended: Whether that page says that it is the last one.
        granules: Time stamps of its first and last page of sound.
    """

    codec: str
    start: int
    end: int
    serial: int
    granule_rate_hz: int = 0
    sequence: int = 0
    has_ended: bool = False
    granules: list[int] = field(default_factory=list)
    last: int = 0

    def part(self, source: Source) -> Part:
        """Return what to decode; a last page that does not say so is told to.

        Recorders that are stopped leave it out, and libsndfile calls the end damaged then.
        """
        at_least_s = 0.0
        if self.granule_rate_hz and len(self.granules) > 1:
            at_least_s = (self.granules[-1] - self.granules[0]) / self.granule_rate_hz
        pieces: tuple[Piece, ...] = ((self.start, self.end),)
        if not self.has_ended:
            page = bytearray(source.read(self.last, self.end - self.last))
            page[5] |= _LAST
            page[22:26] = bytes(4)
            page[22:26] = _crc(bytes(page)).to_bytes(4, "little")
            pieces = ((self.start, self.last), bytes(page))
        return Part(pieces, at_least_s=at_least_s)


def ogg_links(source: Source, start: int) -> list[OggLink]:
    """Return the links of a chain, in order.

    Raises:
        AudioError: A page is damaged, missing or cut short.
    """
    links: list[OggLink] = []
    at = start
    while at < source.size:
        head = source.read(at, _HEAD_BYTES)
        if head[:4] != _MAGIC:
            _check_rest(source, at, links)
            break
        try:
            at = _take_page(source, at, head, links)
        except _SideBySide:
            return [OggLink("several streams", start, source.size, 0)]
    return links


def _take_page(source: Source, at: int, head: bytes, links: list[OggLink]) -> int:
    """Add a page to its link; return where it ends."""
    lacing = source.read(at + _HEAD_BYTES, head[26]) if len(head) == _HEAD_BYTES else b""
    end = at + _HEAD_BYTES + len(lacing) + sum(lacing)
    if len(head) < _HEAD_BYTES or len(lacing) < head[26] or end > source.size:
        raise _broken(source, "cut short: it ends inside a page")
    page = source.read(at, end - at)
    if _crc(page[:22] + bytes(4) + page[26:]) != int.from_bytes(page[22:26], "little"):
        raise _broken(source, f"damaged: the page at byte {at} has a wrong checksum")
    granule = int.from_bytes(page[6:14], "little")
    serial = int.from_bytes(page[14:18], "little")
    sequence = int.from_bytes(page[18:22], "little")
    if page[5] & _FIRST:
        body = page[_HEAD_BYTES + len(lacing) :]
        if links and not links[-1].granules and not links[-1].has_ended:
            raise _SideBySide
        codec = next((name for magic, name in CODECS.items() if body.startswith(magic)), "")
        rate_hz = {"Opus": 48_000, "Vorbis": int.from_bytes(body[12:16], "little")}.get(codec, 0)
        links.append(
            OggLink(codec or "an unknown codec", at, end, serial, rate_hz, sequence, last=at)
        )
        return end
    if not links or links[-1].serial != serial:
        raise _broken(source, "damaged: a page belongs to no stream")
    link = links[-1]
    if sequence != (link.sequence + 1) & 0xFFFFFFFF:
        raise _broken(source, f"damaged: pages are missing before byte {at}")
    if granule not in (0, _NO_GRANULE):
        if link.granules and granule < link.granules[-1]:
            raise _broken(source, f"damaged: time runs backwards at byte {at}")
        link.granules = [*link.granules[:1], granule]
    link.sequence, link.last, link.end = sequence, at, end
    link.has_ended = bool(page[5] & _LAST)
    return end


def _check_rest(source: Source, at: int, links: list[OggLink]) -> None:
    """Refuse what follows the last page unless the stream had ended, or it is nothing."""
    if links and links[-1].has_ended and _next_page(source, at) is None:
        return
    step = 2**20
    if not any(source.read(i, step).strip(b"\0") for i in range(at, source.size, step)):
        return
    raise _broken(source, f"damaged: no Ogg page begins at byte {at}")


def _next_page(source: Source, at: int) -> int | None:
    step = 2**20
    for begin in range(at, source.size, step - 3):
        found = source.read(begin, step).find(_MAGIC)
        if found >= 0:
            return begin + found
    return None


def _broken(source: Source, how: str) -> AudioError:
    return AudioError(f"{source.name}: {how}", hint="copy or record it again")


def _crc(page: bytes) -> int:
    """Return Ogg's CRC-32 (polynomial 0x04C11DB7, most significant bit first, from zero).

    zlib's has the bits the other way round, and is inverted before and after.
    """
    mirrored = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
