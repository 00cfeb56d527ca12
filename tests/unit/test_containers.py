"""The bytes of sound are the bytes decoded, to the end, or the recording is refused by its name."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from pathlib import Path

import container_samples as make
import numpy as np
import pytest
import soundfile
from audio_samples import RATE_HZ
from container_samples import A_S, B_S, wav

from asa_engine.audio import read_audio
from asa_engine.audio.containers.source import Source, View
from asa_engine.audio.containers.wav import wav_parts
from asa_engine.errors import AudioError

# Codecs pad the last frame, and those without a header frame cannot say so: two MP3 frames at
# 16 kHz, and LAME's and the decoder's delay (1105 samples) at each of the joined files.
PADDING_S = 2 * 1152 / RATE_HZ + 2 * 1105 / RATE_HZ
LENGTHS = {"exact": 0.0, "padded": PADDING_S}

ENCODERS: dict[str, tuple[make.Encoder, str]] = {
    "wav": (bytes, "exact"),
    "flac": (make.flac, "exact"),
    "opus": (make.opus, "exact"),
    "vorbis": (make.vorbis, "padded"),
    "mp3": (make.mp3, "exact"),
    "vbr": (make.vbr, "exact"),
    "bare": (make.bare, "padded"),
}


def seconds(data: bytes) -> float:
    return len(read_audio(data)) / RATE_HZ


def loud_s(data: bytes, after_s: float) -> bool:
    """Tell whether there is sound behind this moment, not only length."""
    return float(np.abs(read_audio(data)[int(after_s * RATE_HZ) :]).max()) > 0.05


def check(data: bytes, expected_s: float, slack_s: float) -> None:
    assert seconds(data) == pytest.approx(expected_s, abs=slack_s + 1 / RATE_HZ)
    assert loud_s(data, expected_s - 1.0)


# Half scored as whole


@pytest.mark.parametrize("name", ENCODERS)
def test_files_that_were_joined_are_heard_to_the_end(name: str) -> None:
    encode, length = ENCODERS[name]
    data = encode(wav(A_S)) + encode(wav(B_S, seed=1)) + encode(wav(A_S, seed=2))
    check(data, 2 * A_S + B_S, 3 * LENGTHS[length])


@pytest.mark.parametrize("first", ["mp3", "vbr", "bare"])
@pytest.mark.parametrize("second", ["mp3", "vbr", "bare"])
@pytest.mark.parametrize(
    "between", [b"", b"TAG" + bytes(125), make.id3(bytes(70_000)), bytes(4096), b"junk" * 100]
)
def test_mp3_joined_with_what_comes_between(first: str, second: str, between: bytes) -> None:
    one, two = ENCODERS[first][0](wav(A_S)), ENCODERS[second][0](wav(B_S, seed=1))
    data = one + between + two
    if between.startswith(b"junk") and second == "bare":
        with pytest.raises(AudioError, match="damaged after"):
            read_audio(data)
        return
    check(data, A_S + B_S, 2 * PADDING_S)


@pytest.mark.parametrize("name", ["opus", "vorbis", "mp3", "flac", "wav"])
def test_joined_files_of_different_rates_are_refused_by_name(name: str) -> None:
    encode = ENCODERS[name][0]
    data = encode(wav(A_S)) + encode(wav(B_S, rate_hz=24_000))
    with pytest.raises(AudioError, match="sample rate"):
        read_audio(data)


@pytest.mark.parametrize("title", [b"Info: my answer", b"Xing", b"VBRI", b"LAME"])
@pytest.mark.parametrize("name", ["mp3", "vbr", "bare"])
def test_letters_in_a_tag_are_no_header(name: str, title: bytes) -> None:
    encode, length = ENCODERS[name]
    data = make.id3(make.text_frame(b"TIT2", title)) + encode(wav(B_S))
    check(data, B_S, LENGTHS[length])


@pytest.mark.parametrize("n", [60_000, 300_000, 2_000_000])
@pytest.mark.parametrize("name", ["mp3", "vbr", "bare", "flac", "wav"])
def test_large_pictures_in_a_tag(name: str, n: int) -> None:
    encode, length = ENCODERS[name]
    picture = np.random.default_rng(n).bytes(n)
    data = make.id3(b"APIC" + struct.pack(">I", n) + b"\0\0" + picture) + encode(wav(B_S))
    check(data, B_S, LENGTHS[length])


@pytest.mark.parametrize("said_s", [0.0, 0.5, 1.5])
def test_wav_that_says_less_than_it_holds(said_s: float) -> None:
    data = make.wave(make.pcm(B_S), length=int(said_s * RATE_HZ) * 2)
    check(data, B_S, 0.0)


@pytest.mark.parametrize(
    "chunk", [b"LIST" + struct.pack("<I", 8) + b"INFOISFT", b"id3 \4\0\0\0abcd"]
)
def test_chunks_behind_the_data_are_no_sound(chunk: bytes) -> None:
    body = make.pcm(B_S)
    assert seconds(make.wave(body) + chunk) == B_S
    with pytest.raises(AudioError, match="0 samples"):
        read_audio(make.wave(b"") + chunk)


def test_wav_whose_length_wrapped(tmp_path: Path) -> None:
    """4 GiB and a little more, most of it a hole in the file; the header says the little."""
    rate_hz, channels, little_s = 384_000, 4, 0.25
    align = 2 * channels
    extra = int(rate_hz * little_s) * align
    fmt = struct.pack("<HHIIHH", 1, channels, rate_hz, rate_hz * align, align, 16)
    head = b"RIFF" + struct.pack("<I", extra) + b"WAVEfmt " + struct.pack("<I", 16) + fmt
    path = tmp_path / "long.wav"
    with path.open("wb") as file:
        file.write(head + b"data" + struct.pack("<I", extra))
        file.truncate(file.tell() + 2**32 + extra)
        file.seek(0, 2)
        file.write(b"LIST" + struct.pack("<I", 4) + b"INFO")
    with path.open("rb") as file:
        source = Source(file.fileno(), "long.wav")
        (part,) = wav_parts(source, 0)
        # Decoding it all would take minutes; libsndfile says what it would read.
        with soundfile.SoundFile(View(source, part.pieces)) as opened:
            assert opened.frames == (2**32 + extra) // align


def test_flac_header_that_counts_too_few() -> None:
    data = bytearray(make.flac(wav(B_S)))
    data[22:26] = struct.pack(">I", RATE_HZ)
    check(bytes(data), B_S, 0.0)


def test_mp3_header_that_counts_too_few() -> None:
    data = bytearray(make.vbr(wav(B_S)))
    at = data.index(b"Xing")
    data[at + 8 : at + 12] = struct.pack(">I", 20)
    check(bytes(data), B_S, PADDING_S)


# Cut short, or damaged: refused


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("share", [0.3, 0.77])
def test_cut_short_anywhere_is_refused(name: str, share: float) -> None:
    data = ENCODERS[name][0](wav(B_S))
    with pytest.raises(AudioError, match=r"cut short|damaged"):
        read_audio(data[: int(share * len(data))])


@pytest.mark.parametrize("name", ["flac", "opus", "vorbis", "mp3", "vbr", "bare"])
def test_a_hole_in_the_middle_is_refused(name: str) -> None:
    data = ENCODERS[name][0](wav(B_S))
    middle = len(data) // 2
    with pytest.raises(AudioError, match=r"cut short|damaged"):
        read_audio(data[:middle] + data[middle + 1500 :])


# Sound recordings


def _pages(data: bytes, change: Callable[[bytearray], None]) -> bytes:
    """Return an Ogg with every page changed, its checksum made right again."""
    out, at = b"", 0
    while at < len(data):
        n_lacing = data[at + 26]
        length = 27 + n_lacing + sum(data[at + 27 : at + 27 + n_lacing])
        page = bytearray(data[at : at + length])
        change(page)
        page[22:26] = bytes(4)
        page[22:26] = struct.pack("<I", _ogg_crc(page))
        out, at = out + page, at + length
    return out


def _ogg_crc(page: bytes) -> int:
    """Compute RFC 3533's checksum bit by bit."""
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = value << 1 ^ (0x104C11DB7 if value & 0x80000000 else 0)
    return value


def _never_last(page: bytearray) -> None:
    page[5] &= 0xFB


def _later(page: bytearray) -> None:
    granule = int.from_bytes(page[6:14], "little")
    if granule not in (0, 2**64 - 1):
        page[6:14] = (granule + 4_800_000).to_bytes(8, "little")


@pytest.mark.parametrize("change", [_never_last, _later])
@pytest.mark.parametrize("name", ["opus", "vorbis"])
def test_ogg_as_live_recorders_leave_it(name: str, change: Callable[[bytearray], None]) -> None:
    """Without a last page, or with time that began long before."""
    data = ENCODERS[name][0](wav(B_S))
    check(_pages(data, change), B_S, 0.03)


@pytest.mark.parametrize(
    "options", [("-p", "-b", "64"), ("--resample", "48", "-V2"), ("--resample", "24", "-b", "64")]
)
def test_mp3_of_every_make(options: tuple[str, ...]) -> None:
    check(make.lame(wav(B_S), *options), B_S, 0.0)


def test_mp3_of_free_bit_rate_is_named() -> None:
    with pytest.raises(AudioError, match="free bit rate"):
        read_audio(make.lame(wav(B_S), "--freeformat", "-b", "100"))


@pytest.mark.parametrize(
    "length", [0, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0x7FFFFFDA, 0xFFFFFFDB]
)
@pytest.mark.parametrize("riff", [0, 36, 4088, 0x80000024, 0xFFFFFFFF])
def test_lengths_that_cannot_be_true_mean_to_the_end(length: int, riff: int) -> None:
    check(make.wave(make.pcm(B_S), length=length, riff=riff), B_S, 0.0)


def test_a_length_that_may_be_true_is_believed() -> None:
    with pytest.raises(AudioError, match="promises 4 s of sound, the file holds 3 s"):
        read_audio(make.wave(make.pcm(B_S), length=4 * 2 * RATE_HZ))


LYRICS2 = b"LYRICSBEGIN" + b"IND0000200" + b"LYR00004la\r\n"
LYRICS2 += b"%06dLYRICS200" % len(LYRICS2)
APE = b"APETAGEX" + struct.pack("<IIII8x", 2000, 32 + 10, 1, 0)
BEHIND = {
    "ID3v1": b"TAG" + bytes(125),
    "Lyrics3v2": LYRICS2 + b"TAG" + bytes(125),
    "Lyrics3v1": b"LYRICSBEGIN" + b"la la " * 500 + b"LYRICSEND" + b"TAG" + bytes(125),
    "APE": b"0123456789" + APE,
    "APE and ID3v1": b"0123456789" + APE + b"TAG" + bytes(125),
    "zeros": bytes(50_000),
    "junk": np.random.default_rng(5).bytes(3000),
    "text": b"<html>502 Bad Gateway</html>" * 20,
}
BEFORE = {
    "zeros": bytes(50_000),
    "junk": np.random.default_rng(6).bytes(3000),
    "text": b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\n\r\n",
    "two tags": make.id3(bytes(100)) + make.id3(bytes(200)),
    "tag and zeros": make.id3(bytes(100)) + bytes(1000),
}


@pytest.mark.parametrize("name", ["mp3", "vbr", "bare"])
@pytest.mark.parametrize("what", BEHIND)
def test_what_follows_an_mp3_is_no_damage(name: str, what: str) -> None:
    encode, _ = ENCODERS[name]
    sound = encode(wav(B_S))
    np.testing.assert_array_equal(read_audio(sound + BEHIND[what]), read_audio(sound))


@pytest.mark.parametrize("name", ["mp3", "vbr", "bare"])
@pytest.mark.parametrize("what", BEFORE)
def test_what_precedes_an_mp3_is_no_damage(name: str, what: str) -> None:
    encode, _ = ENCODERS[name]
    sound = encode(wav(B_S))
    np.testing.assert_array_equal(read_audio(BEFORE[what] + sound), read_audio(sound))


@pytest.mark.parametrize("what", ["ID3v1", "zeros"])
@pytest.mark.parametrize("name", ["flac", "opus"])
def test_what_follows_other_files(name: str, what: str) -> None:
    sound = ENCODERS[name][0](wav(B_S))
    np.testing.assert_array_equal(read_audio(sound + BEHIND[what]), read_audio(sound))


@pytest.mark.parametrize("name", ["mp3", "vbr", "bare"])
def test_no_line_of_a_library_on_standard_error(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    sound = ENCODERS[name][0](wav(B_S))
    rng = np.random.default_rng(0)
    for _ in range(20):
        data = bytearray(sound)
        for at in rng.integers(0, len(data), 20):
            data[at] = rng.integers(0, 256)
        with contextlib.suppress(AudioError):
            read_audio(bytes(data))
    assert capfd.readouterr().err == ""


def test_damage_is_told_from_the_same_bits(tmp_path: Path) -> None:
    """A path and its bytes take the same way."""
    data = make.vbr(wav(A_S)) + make.bare(wav(B_S))
    path = tmp_path / "joined.mp3"
    path.write_bytes(data)
    np.testing.assert_array_equal(read_audio(path), read_audio(data))


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"%PDF-1.7", "PDF"),
        (b"MThd\0\0\0\6", "MIDI"),
        (b"PK\3\4", "ZIP"),
        (b"#!SILK_V3", "SILK"),
        (b"\x89PNG\r\n", "picture"),
        (bytes(4000), "zeros"),
        (make.id3(bytes(300)), "without sound"),
    ],
)
def test_what_is_no_sound_is_named(head: bytes, name: str) -> None:
    with pytest.raises(AudioError, match=name):
        read_audio(head)
