"""MPEG audio (MP3 and its older layers): every frame is found by the length of the one before.

A decoder that guesses the length from the first frame, or believes a Xing header that counts the
first of two joined files, plays a part and says nothing. So frames are counted here, and the
decoder gets them with a header that states their true number.

Layouts: ISO/IEC 11172-3 section 2.4.2.3 (header), ISO/IEC 13818-3 (lower rates), and the LAME
project's description of the Xing/Info frame.
"""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from asa_engine.audio.containers.source import Part, Piece, Source
from asa_engine.audio.containers.tags import ID3_BYTES, end_of_sound, id3_length
from asa_engine.errors import AudioError

__all__ = ["find_mp3", "has_free_rate", "mp3_parts"]

_CHAIN: Final = 4  # frames in a row that are no accident
_SCAN_BYTES: Final = 2**20  # as far as a first frame is looked for behind what is no sound
_BLOCK_BYTES: Final = 2**20
# What may follow the last frame without a header that says how many there are.
_JUNK_BYTES: Final = 16 * 1024

# kbit/s by bit rate index, for (MPEG 1, layer) and the lower rates of MPEG 2 and 2.5.
_KBPS: Final = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES_HZ: Final = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_INFO_BYTES: Final = 192  # of a frame that can hold every field of a Xing header
_HAS_FRAMES, _HAS_BYTES = 1, 2
_MAX_GAPLESS: Final = 2 * 4095  # encoder's delay and padding, 12 bits each


class _Frame(NamedTuple):
    """What a frame's header says; `kind` is the same for all frames of a stream."""

    length: int
    samples: int
    rate_hz: int
    layer: int
    mpeg1: bool
    kind: int


@functools.lru_cache(4096)
def _frame(header: bytes) -> _Frame | None:
    """Read four bytes as a frame's header; `None` if they are none, or of a free bit rate."""
    first, second, third, last = header
    version, layer = second >> 3 & 3, 4 - (second >> 1 & 3)
    rate_index, kbps_index = third >> 2 & 3, third >> 4
    if first != 0xFF or second < 0xE0 or version == 1 or layer == 4:
        return None
    if rate_index == 3 or kbps_index in (0, 15):
        return None
    mpeg1 = version == 3
    rate_hz = _RATES_HZ[version][rate_index]
    bits_per_s = 1000 * _KBPS[mpeg1, layer][kbps_index - 1]
    padding = third >> 1 & 1
    if layer == 1:
        length, samples = (12 * bits_per_s // rate_hz + padding) * 4, 384
    else:
        samples = 576 if layer == 3 and not mpeg1 else 1152
        length = samples // 8 * bits_per_s // rate_hz + padding
    mono = last >> 6 == 3
    return _Frame(
        length, samples, rate_hz, layer, mpeg1, (second & 0x1E) << 8 | rate_index << 1 | mono
    )


@dataclass(slots=True)
class _Stretch:
    """Frames that belong together: those of one encoder's run, and the header frame before."""

    first: bytes
    info: bytes = b""
    ranges: list[tuple[int, int]] = field(default_factory=list)
    frames: int = 0

    def add(self, start: int, end: int) -> None:
        self.frames += 1
        if self.ranges and self.ranges[-1][1] == start:
            start = self.ranges.pop()[0]
        self.ranges.append((start, end))


def has_free_rate(header: bytes) -> bool:
    """Tell whether four bytes are the header of a frame whose bit rate none of the tables has."""
    return len(header) == 4 and not header[2] >> 4 and _frame(_with_rate(header)) is not None


def _with_rate(header: bytes) -> bytes:
    return header[:2] + bytes([header[2] | 0x10]) + header[3:]


def find_mp3(source: Source, start: int) -> int | None:
    """Return where the first of several frames in a row begins, behind zeros or junk."""
    end = end_of_sound(source, start)
    at = start
    while at < min(end, start + _SCAN_BYTES):
        block = source.read(at, _BLOCK_BYTES)
        sync = block.find(0xFF)
        while sync >= 0:
            if _is_chain(source, at + sync, end):
                return at + sync
            sync = block.find(0xFF, sync + 1)
        at += len(block)
    return None


def mp3_parts(source: Source, start: int) -> list[Part]:
    """Return what to decode, whole: a part for each of the files joined in it.

    Args:
        source: The recording.
        start: Where its first frame is, or a tag or junk before it.

    Raises:
        AudioError: It is cut short, damaged, or its parts have different rates or channels.
    """
    end = end_of_sound(source, start)
    return [_part(stretch, source) for stretch in _stretches(source, start, end)]


def _stretches(source: Source, start: int, end: int) -> list[_Stretch]:
    stretches: list[_Stretch] = []
    stretch: _Stretch | None = None
    kind = -1
    at = start
    block, block_at = b"", start
    while at < end:
        if not 0 <= at - block_at <= len(block) - 4:
            block, block_at = source.read(at, _BLOCK_BYTES), at
        header = block[at - block_at : at - block_at + 4]
        frame = _frame(header) if len(header) == 4 else None
        if frame is None or (kind >= 0 and frame.kind != kind):
            after = _behind_a_gap(source, at, end, stretch, frame)
            if after is None:
                break
            at = after
            continue
        if at + frame.length > end:
            raise AudioError(
                f"{source.name}: cut short: it ends inside a frame",
                hint="copy or record it again",
            )
        kind = frame.kind
        if frame.layer == 3 and _is_info(source, at):
            stretch = _Stretch(header, source.read(at, frame.length))
            stretches.append(stretch)
        else:
            if stretch is None:
                stretch = _Stretch(header)
                stretches.append(stretch)
            if not stretch.frames:
                stretch.first = header
            stretch.add(at, at + frame.length)
        at += frame.length
    if not any(stretch.frames for stretch in stretches):
        raise AudioError(f"{source.name}: the audio holds 0 samples", hint="record it again")
    return [stretch for stretch in stretches if stretch.frames]


def _behind_a_gap(
    source: Source, at: int, end: int, stretch: _Stretch | None, frame: _Frame | None
) -> int | None:
    """Return where sound goes on behind bytes that are no frame; `None` if it does not.

    Raises:
        AudioError: Sound is missing there.
    """
    begin = at
    while (tag := _tag_length(source, at)) and at < end:
        at += tag
    if at > begin:
        return at
    if frame is not None and _is_chain(source, at, end):
        raise AudioError(
            f"{source.name}: its sample rate or channels change in the middle",
            hint="cut it there, and score each part",
        )
    after = find_mp3(source, at)
    if after is None:
        left = end - at
        is_counted = stretch is not None and _promised(stretch) == stretch.frames
        if left > _JUNK_BYTES and not is_counted and source.read(at, left).strip(b"\0"):
            raise _damaged(source, stretch)
        return None
    begins_a_file = _is_info(source, after)
    zeros = not source.read(at, after - at).strip(b"\0")
    if stretch is not None and not begins_a_file and not zeros:
        raise _damaged(source, stretch)
    return after


def _damaged(source: Source, stretch: _Stretch | None) -> AudioError:
    first = _frame(stretch.first) if stretch else None
    at_s = stretch.frames * first.samples / first.rate_hz if stretch and first else 0.0
    return AudioError(
        f"{source.name}: damaged after {at_s:.6g} s: what is there is no MP3 frame",
        hint="copy or record it again",
    )


def _tag_length(source: Source, at: int) -> int:
    """Return the length of a tag that begins here, between two files that were joined."""
    head = source.read(at, 32)
    if head.startswith(b"TAG"):
        return 128
    if head.startswith(b"APETAGEX") and len(head) == 32:
        return 32 + int.from_bytes(head[12:16], "little")
    return id3_length(head[:ID3_BYTES])


def _is_chain(source: Source, at: int, end: int) -> bool:
    """Tell whether frames of one kind follow one another here."""
    kind = -1
    for _ in range(_CHAIN):
        frame = _frame(header) if len(header := source.read(at, 4)) == 4 else None
        if frame is None or kind not in (-1, frame.kind):
            return False
        kind, at = frame.kind, at + frame.length
        if at == end:
            return True
    return at < end


def _side_bytes(header: bytes, frame: _Frame) -> int:
    """Return the length of a frame's header and side information."""
    mono = header[3] >> 6 == 3
    return 4 + ((17 if mono else 32) if frame.mpeg1 else (9 if mono else 17))


def _xing(head: bytes) -> int:
    """Return where a Xing/Info header stands in a frame, 0 where none does.

    It is behind the side information; LAME leaves out a checksum's two bytes, others do not.
    """
    frame = _frame(head[:4]) if len(head) >= 4 else None
    if frame is None:
        return 0
    at = _side_bytes(head, frame)
    return next((i for i in (at, at + 2) if head[i : i + 4] in (b"Xing", b"Info")), 0)


def _is_info(source: Source, at: int) -> bool:
    """Tell whether the frame at `at` is no sound but a Xing, Info or VBRI header."""
    head = source.read(at, 64)
    return bool(_xing(head)) or head[36:40] == b"VBRI"


def _promised(stretch: _Stretch) -> int:
    """Return how many frames the header frame counts, 0 where it does not say."""
    if not stretch.info:
        return 0
    at = _xing(stretch.info)
    if at:
        flags, frames = struct.unpack_from(">II", stretch.info.ljust(at + 12, b"\0"), at + 4)
        return int(frames) if flags & _HAS_FRAMES else 0
    return int(struct.unpack_from(">I", stretch.info.ljust(54, b"\0"), 50)[0])


def _part(stretch: _Stretch, source: Source) -> Part:
    frame = _frame(stretch.first)
    assert frame is not None
    promised = _promised(stretch)
    if promised > stretch.frames + 1:  # some writers count the header frame in
        per_s = frame.samples / frame.rate_hz
        raise AudioError(
            f"{source.name}: cut short: its header promises {promised * per_s:.6g} s of sound, "
            f"the file holds {stretch.frames * per_s:.6g} s",
            hint="copy or record it again",
        )
    n_bytes = sum(end - start for start, end in stretch.ranges)
    ranges: tuple[Piece, ...] = tuple(stretch.ranges)
    trimmed = 2 * frame.samples + (_MAX_GAPLESS if stretch.info else 0)
    at_least_s = max(0, stretch.frames * frame.samples - trimmed) / frame.rate_hz
    if frame.layer != 3:
        return Part(ranges, at_least_s=at_least_s)
    return Part((_true_info(stretch, n_bytes), *ranges), at_least_s=at_least_s)


def _true_info(stretch: _Stretch, n_bytes: int) -> bytes:
    """Return a header frame that counts the frames and bytes that are there."""
    info = bytearray(stretch.info)
    at = _xing(stretch.info)
    flags = int.from_bytes(info[at + 4 : at + 8], "big")
    if at and flags & _HAS_FRAMES and len(info) >= at + 16:
        if _promised(stretch) != stretch.frames:
            struct.pack_into(">I", info, at + 8, stretch.frames)
        if flags & _HAS_BYTES:
            struct.pack_into(">I", info, at + 12, min(n_bytes + len(info), 2**32 - 1))
        return bytes(info)
    for kbps_index in range(1, 15):
        third = kbps_index << 4 | (stretch.first[2] & 0x0C)
        header = bytes((0xFF, stretch.first[1] | 1, third, stretch.first[3]))
        made = _frame(header)
        if made is not None and made.length >= _INFO_BYTES:
            break
    assert made is not None
    body = b"Info" + struct.pack(
        ">III", _HAS_FRAMES | _HAS_BYTES, stretch.frames, min(n_bytes + made.length, 2**32 - 1)
    )
    return (header + bytes(_side_bytes(header, made) - 4) + body).ljust(made.length, b"\0")
