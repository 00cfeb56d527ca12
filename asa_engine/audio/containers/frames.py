"""ADTS (AAC as it is streamed) and AMR: files of nothing but frames that state their length.

Layouts: ISO/IEC 13818-7, section 6.2 (ADTS); RFC 4867, section 5.3 (AMR).
"""

from __future__ import annotations

from typing import Final

from asa_engine.audio.containers.source import Source
from asa_engine.audio.containers.tags import end_of_sound
from asa_engine.errors import AudioError

__all__ = ["check_adts", "check_amr", "is_adts"]

_AMR_BYTES: Final = (12, 13, 15, 17, 19, 20, 26, 31, 5, 0, 0, 0, 0, 0, 0, 0)
_AMR_WIDE_BYTES: Final = (17, 23, 32, 36, 40, 46, 50, 58, 60, 5, 0, 0, 0, 0, 0, 0)
_CHAIN: Final = 4


def is_adts(source: Source, at: int) -> bool:
    """Tell whether ADTS frames follow one another here."""
    end = end_of_sound(source, at)
    for _ in range(_CHAIN):
        length = _adts_length(source.read(at, 6))
        if not length:
            return False
        at += length
        if at >= end:
            return True
    return True


def check_adts(source: Source, at: int) -> None:
    """Refuse ADTS that ends inside a frame, or holds something else.

    Raises:
        AudioError: As said.
    """
    end = end_of_sound(source, at)
    while at < end:
        length = _adts_length(source.read(at, 6))
        if not length:
            if not source.read(at, end - at).strip(b"\0"):
                return
            raise AudioError(
                f"{source.name}: damaged: no AAC frame begins at byte {at}",
                hint="copy or record it again",
            )
        at += length
    _check_end(source, at, end)


def check_amr(source: Source, at: int) -> None:
    """Refuse AMR that ends inside a frame.

    Raises:
        AudioError: As said.
    """
    is_wide = source.read(at, 9) == b"#!AMR-WB\n"
    lengths, at = (_AMR_WIDE_BYTES, at + 9) if is_wide else (_AMR_BYTES, at + 6)
    while at < source.size:
        at += 1 + lengths[source.read(at, 1)[0] >> 3 & 15]
    _check_end(source, at, source.size)


def _check_end(source: Source, at: int, end: int) -> None:
    if at > end:
        raise AudioError(
            f"{source.name}: cut short: it ends inside a frame", hint="copy or record it again"
        )


def _adts_length(head: bytes) -> int:
    """Return the length of the frame with this header, 0 if it is none."""
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or (head[2] >> 2 & 15) > 12:
        return 0
    length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return length if length >= 7 else 0
