"""WAV: the length of the data is believed only where it can be true.

Writers into a pipe, and those that crash, leave a placeholder as the length; past 4 GiB it wraps.
What lies behind the data then tells: chunks, or more sound.

Layout: Microsoft's and IBM's "Multimedia Programming Interface and Data Specifications 1.0" (RIFF),
EBU Tech 3306 (RF64).
"""

from __future__ import annotations

import struct
from typing import Final

from asa_engine.audio.containers.source import Part, Source
from asa_engine.audio.containers.tags import end_of_sound
from asa_engine.errors import AudioError

__all__ = ["WAV_MAGICS", "wav_codec", "wav_parts"]

WAV_MAGICS: Final = (b"RIFF", b"RF64", b"BW64")

# Format tags that libsndfile decodes; the others, by name.
_READ: Final = {0x0001, 0x0002, 0x0003, 0x0006, 0x0007, 0x0011, 0x0031, 0xFFFE}
_NAMES: Final = {
    0x0050: "MPEG",
    0x0055: "MP3",
    0x0161: "WMA",
    0x0162: "WMA",
    0x00FF: "AAC",
    0x1600: "AAC",
    0x1610: "AAC",
    0x0045: "G.726",
    0x0064: "G.726",
    0x0028: "G.722",
    0x0083: "G.729",
    0x0022: "TrueSpeech",
    0x0038: "AMR",
    0x0057: "AMR",
    0xF1AC: "FLAC",
    0x2000: "AC-3",
    0x704F: "Opus",
}
_EXTENSIBLE: Final = 0xFFFE

# No writer counts to more than this by itself: lengths from here on stand for "not known". arecord
# leaves 0x80000000, ffmpeg 0xFFFFFFFF, sox 0x7FFFF000 less what does not fill a frame.
_PLACEHOLDER_BYTES: Final = 0x7FFF0000
# Some writers count the header in; no more than that is forgiven.
_SLACK_BYTES: Final = 64
_MAX_CHUNKS: Final = 4096
_FMT_BYTES, _MAX_FMT_BYTES = 16, 4096
_UNKNOWN: Final = 0xFFFFFFFF


def wav_codec(source: Source, start: int) -> str:
    """Return the name of a codec that libsndfile does not read; "" for one that it does."""
    at = start + 12
    for _ in range(_MAX_CHUNKS):
        tag, length = _head(source, at)
        if tag == b"fmt ":
            fmt = source.read(at + 8, min(length, _MAX_FMT_BYTES))
            found = _tag(fmt)
            is_read = len(fmt) < _FMT_BYTES or found in _READ
            return "" if is_read else _NAMES.get(found, f"format {found:04X}h")
        if len(tag) < 4:
            break
        at += 8 + length + length % 2
    return ""


def wav_parts(source: Source, start: int) -> list[Part]:
    """Return what to decode: a header that tells the truth, then the data to their end.

    Raises:
        AudioError: It has no sound, or promises more than the file holds.
    """
    parts: list[Part] = []
    at, fmt, fact, long_length = start, b"", b"", 0
    for _ in range(_MAX_CHUNKS):
        tag, length = _head(source, at)
        if len(tag) < 4:
            break
        if tag in WAV_MAGICS:  # the first, or another file that was joined to it
            at, fmt, fact, long_length = at + 12, b"", b"", 0
            continue
        if tag == b"ds64":
            long_length = int.from_bytes(source.read(at + 16, 8), "little")
        elif tag == b"fmt ":
            fmt = source.read(at + 8, min(length, _MAX_FMT_BYTES))
        elif tag == b"fact":
            fact = source.read(at + 8, min(length, 4))
        elif tag == b"data":
            if len(fmt) < _FMT_BYTES:
                break
            is_long = long_length and length == _UNKNOWN
            end = _end_of_data(source, at + 8, long_length if is_long else length, fmt)
            parts.append(_part(fmt, fact, at + 8, end))
            length = end - at - 8
        elif parts and not _is_tag(tag):
            break
        at += 8 + length + length % 2
    if not parts:
        raise AudioError(
            f"{source.name}: damaged or cut short: the WAV header is not whole",
            hint="copy or record it again",
        )
    return parts


def _part(fmt: bytes, fact: bytes, at: int, end: int) -> Part:
    chunks = _chunk(b"fmt ", fmt) + (_chunk(b"fact", fact) if fact else b"")
    length = end - at
    riff_length = 4 + len(chunks) + 8 + length
    magic = b"RIFF"
    if riff_length >= _UNKNOWN:
        chunks = _chunk(b"ds64", struct.pack("<QQQI", riff_length, length, 0, 0)) + chunks
        magic, riff_length, length = b"RF64", _UNKNOWN, _UNKNOWN
    head = struct.pack("<4sI4s", magic, riff_length, b"WAVE") + chunks
    return Part((head + struct.pack("<4sI", b"data", length), (at, end)))


def _end_of_data(source: Source, at: int, length: int, fmt: bytes) -> int:
    """Return where the sound ends: where the header says, or at the end of the file."""
    held = source.size - at
    if length > held + _SLACK_BYTES:
        if _PLACEHOLDER_BYTES <= length <= _UNKNOWN or length >= 2**63:
            return end_of_sound(source, at)
        bytes_per_s = int.from_bytes(fmt[8:12], "little")
        promise = f"{length / bytes_per_s:.6g} s" if bytes_per_s else f"{length} bytes"
        there = f"{held / bytes_per_s:.6g} s" if bytes_per_s else f"{held} bytes"
        raise AudioError(
            f"{source.name}: cut short: its header promises {promise} of sound, "
            f"the file holds {there}",
            hint="copy or record it again",
        )
    for end in range(at + min(length, held), source.size, 2**32):  # a length that wrapped
        if _chunks_follow(source, end):
            return end
    return end_of_sound(source, at)


def _chunks_follow(source: Source, at: int) -> bool:
    """Tell whether chunks, and nothing else but padding, follow to the end of the file."""
    at += at % 2
    for _ in range(_MAX_CHUNKS):
        left = source.size - at
        tag, length = _head(source, at)
        if left <= 8:
            return not source.read(at, 8).strip(b"\0")
        if tag == b"data" or (tag in WAV_MAGICS and source.read(at + 8, 4) == b"WAVE"):
            return True
        if not _is_tag(tag) or length > left - 8:
            return left <= _SLACK_BYTES and not source.read(at, left).strip(b"\0")
        at += 8 + length + length % 2
        if at >= source.size:
            return True
    return False


def _head(source: Source, at: int) -> tuple[bytes, int]:
    head = source.read(at, 8)
    return head[:4] if len(head) == 8 else b"", int.from_bytes(head[4:], "little")


def _is_tag(tag: bytes) -> bool:
    return len(tag) == 4 and all(0x20 <= byte < 0x7F for byte in tag)


def _tag(fmt: bytes) -> int:
    """Return the format tag, also from behind the extensible one."""
    tag = int.from_bytes(fmt[:2], "little")
    if tag == _EXTENSIBLE and len(fmt) >= 26:
        return int.from_bytes(fmt[24:26], "little")
    return tag


def _chunk(tag: bytes, body: bytes) -> bytes:
    return struct.pack("<4sI", tag, len(body)) + body + bytes(len(body) % 2)
