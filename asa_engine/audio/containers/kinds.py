"""Which kind of file this is, from its first bytes; tags in front are stepped over."""

from __future__ import annotations

import shlex
from typing import Final, NamedTuple

from asa_engine.audio.containers.frames import is_adts
from asa_engine.audio.containers.mp3 import find_mp3, has_free_rate
from asa_engine.audio.containers.mp4 import mp4_codec
from asa_engine.audio.containers.source import Source
from asa_engine.audio.containers.tags import skip_id3
from asa_engine.audio.containers.wav import WAV_MAGICS, wav_codec
from asa_engine.errors import AudioError

__all__ = [
    "FLAC",
    "HEAD_BYTES",
    "MP3",
    "OGG",
    "WAV",
    "Kind",
    "conversion",
    "kind_of",
    "named_by_head",
]


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        name: What people call it.
        demuxer: FFmpeg's name of it, for kinds that need the extra [media]; "" for those that
            libsndfile reads.
        start: Where it begins, behind tags.
    """

    name: str
    demuxer: str = ""
    start: int = 0


HEAD_BYTES: Final = 16
"""First bytes that `named_by_head` looks at."""

WAV, FLAC, OGG, MP3 = "WAV", "FLAC", "Ogg", "MP3"
_READ: Final = {b"fLaC": FLAC, b"OggS": OGG}

# Magic bytes, name, FFmpeg's demuxer; a demuxer that may open other files is not here.
_MEDIA: Final = (
    (b"\x1a\x45\xdf\xa3", "WebM/Matroska", "matroska"),
    (b"#!AMR-WB\n", "AMR-WB", "amr"),
    (b"#!AMR\n", "AMR", "amr"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMA/ASF", "asf"),
    (b"caff", "CAF", "caf"),
    (b"RIFX", "WAV, big-endian", "wav"),
    (b".snd", "AU", "au"),
    (b"riff\x2e\x91\xcf\x11", "Wave64", "w64"),
    (b"wvpk", "WavPack", "wv"),
    (b"MAC ", "Monkey's Audio", "ape"),
    (b"TTA1", "True Audio", "tta"),
    (b"MPCK", "Musepack", "mpc8"),
    (b"MP+", "Musepack", "mpc"),
    (b"DSD ", "DSD", "dsf"),
    (b"Creative Voice File", "VOC", "voc"),
    (b"NIST_1A", "NIST SPHERE", "nistsphere"),
    (b"FLV\x01", "Flash video", "flv"),
    (b"\x00\x00\x01\xba", "MPEG video", "mpeg"),
)
_BOXES: Final = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
# No sound, or none that anything here decodes.
_OTHERS: Final = (
    (b"#!SILK_V3", "SILK (WeChat), which needs its own decoder"),
    (b"\x02#!SILK_V3", "SILK (WeChat), which needs its own decoder"),
    (b"MThd", "MIDI: notes, not a recording"),
    (b"%PDF", "a PDF document, not audio"),
    (b"PK\x03\x04", "a ZIP archive: unpack it first"),
    (b"\x1f\x8b", "compressed by gzip: unpack it first"),
    (b"\x89PNG", "a picture, not audio"),
    (b"\xff\xd8\xff", "a picture, not audio"),
    (b"GIF8", "a picture, not audio"),
)
_TEXT_BYTES: Final = 1024
_HINT: Final = "use WAV, FLAC, Ogg (Vorbis, Opus) or MP3"


def kind_of(source: Source) -> Kind:
    """Return the kind of a file.

    Raises:
        AudioError: It is empty, or no audio that is known here.
    """
    if not source.size:
        raise AudioError(f"{source.name!r} is empty", hint="record it again")
    start = skip_id3(source)
    head = source.read(start, 64)
    if head[:4] in WAV_MAGICS and head[8:12] == b"WAVE":
        codec = wav_codec(source, start)
        return Kind(f"WAV that holds {codec}", "wav", start) if codec else Kind(WAV, "", start)
    if head[:4] in _READ:
        return Kind(_READ[head[:4]], "", start)
    media = _media_kind(source, start, head)
    if media is not None:
        return media
    for magic, name in _OTHERS:
        if head.startswith(magic):
            raise AudioError(f"{source.name!r} is {name}", hint=_HINT)
    if is_adts(source, start):
        return Kind("AAC (ADTS)", "aac", start)
    if has_free_rate(head[:4]):
        raise AudioError(
            f"{source.name!r} is an MP3 of free bit rate, which is not read",
            hint=f"lame --decode {shlex.quote(source.name)} answer.wav",
        )
    first = find_mp3(source, start)
    if first is not None:
        return Kind(MP3, "", first)
    name = "not audio that is known here"
    text = source.read(start, _TEXT_BYTES)
    if start == source.size:
        name = "an ID3 tag without sound"
    elif _is_text(text):
        name = "text, not audio"
    elif not text.strip(b"\0"):
        name = "nothing but zeros, as a failed copy leaves it"
    elif head[:4] in WAV_MAGICS:
        name = "damaged or cut short: a RIFF file that is no WAV"
    raise AudioError(f"{source.name!r} is {name}", hint=_HINT)


def named_by_head(head: bytes) -> str | None:
    """Return what kind of file begins so, or `None` where these may be samples.

    Only what four bytes or more tell; samples begin like that once in four thousand million.

    Args:
        head: The first `HEAD_BYTES`, or fewer that have come so far.
    """
    if head[:4] in WAV_MAGICS and head[8:12] == b"WAVE":
        return WAV
    if head[4:8] == b"ftyp":
        return "MP4/M4A"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "AIFF"
    known = (*_READ.items(), *((magic, name) for magic, name, _ in _MEDIA))
    for magic, name in known:
        if len(magic) >= 4 and head.startswith(magic):
            return name
    return None


def _is_text(head: bytes) -> bool:
    """Tell whether bytes are text: no control characters, half of it ASCII or all of it UTF-8."""
    if any(byte < 0x20 and byte not in b"\t\r\n\f\b" for byte in head):
        return False
    if 2 * sum(byte < 0x80 for byte in head) >= len(head):
        return True
    try:
        head[:-3].decode("utf-8")  # its last character may be cut
    except UnicodeDecodeError as error:
        return error.start > len(head) - 8
    return True


def _media_kind(source: Source, start: int, head: bytes) -> Kind | None:
    if head[4:8] in _BOXES:
        name = "3GP" if head[8:10] == b"3g" else "MP4/M4A"
        codec = mp4_codec(source, start)
        return Kind(f"{name} ({codec})" if codec else name, "mov", start)
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return Kind("AIFF", "aiff", start)
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return Kind("AVI video", "avi", start)
    if head[:4] == b"caff":
        codec = {b"alac": "ALAC", b"aac ": "AAC", b"opus": "Opus"}.get(head[28:32], "")
        return Kind(f"CAF ({codec})" if codec else "CAF", "caf", start)
    if all(source.read(start + 188 * i, 1) == b"\x47" for i in range(4)):
        return Kind("MPEG transport stream", "mpegts", start)
    for magic, name, demuxer in _MEDIA:
        if head.startswith(magic):
            return Kind(name, demuxer, start)
    return None


def conversion(name: str) -> str:
    """Return the one command that converts a file."""
    given = shlex.quote(name) if name else "INPUT"
    return f"ffmpeg -i {given} answer.wav"
