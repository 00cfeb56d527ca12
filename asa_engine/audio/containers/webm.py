"""WebM and Matroska: is every element there?

Browsers write them as they record: segments and clusters of unknown length, then the blocks.
Layout: RFC 8794 (EBML) and RFC 9559 (Matroska).
"""

from __future__ import annotations

from typing import Final

from asa_engine.audio.containers.source import Source
from asa_engine.errors import AudioError

__all__ = ["webm_ends"]

_EBML: Final = 0x1A45DFA3
_SEGMENT: Final = 0x18538067
_CLUSTER: Final = 0x1F43B675
_OPENED: Final = (_SEGMENT, _CLUSTER)  # their children are walked
_MAX_ELEMENTS: Final = 50_000_000


def webm_ends(source: Source, start: int) -> list[tuple[int, int]]:
    """Return [start, end) of each of the files joined in it.

    Raises:
        AudioError: It ends inside an element.
    """
    starts: list[int] = []
    at = start
    for _ in range(_MAX_ELEMENTS):
        if at >= source.size:
            break
        head = source.read(at, 12)
        element, id_length = _number(head, marker=True)
        size, size_length = _number(head[id_length:], marker=False)
        if not id_length or not size_length:
            if not head.strip(b"\0") and starts:  # padding
                break
            raise _broken(source)
        if element == _EBML:
            starts.append(at)
        at += id_length + size_length
        is_unknown = size == (1 << 7 * size_length) - 1
        if element in _OPENED:
            if not is_unknown and at + size > source.size:
                raise _broken(source)
            continue
        if is_unknown or at + size > source.size:
            raise _broken(source)
        at += size
    return list(zip(starts, [*starts[1:], source.size], strict=True))


def _number(head: bytes, *, marker: bool) -> tuple[int, int]:
    """Return an EBML number, with or without its length marker, and its length; 0 for neither."""
    if not head or not head[0]:
        return 0, 0
    length = 9 - head[0].bit_length()
    if len(head) < length or (marker and length > 4):
        return 0, 0
    value = int.from_bytes(head[:length], "big")
    return value if marker else value & ((1 << 7 * length) - 1), length


def _broken(source: Source) -> AudioError:
    return AudioError(
        f"{source.name}: WebM/Matroska, damaged or cut short: it ends inside an element",
        hint="copy or record it again",
    )
