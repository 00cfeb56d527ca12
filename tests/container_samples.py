"""Recordings as other people's programs write them, made afresh; synthetic sound only."""

from __future__ import annotations

import functools
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from audio_samples import RATE_HZ, encoded, speech

A_S, B_S = 2.0, 3.0


def tool(name: str) -> str:
    """Return a program's path; skip the test where it is missing (.ci/run installs it)."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@functools.cache
def wav(seconds: float, seed: int = 0, rate_hz: int = RATE_HZ) -> bytes:
    """Return a WAV of synthetic speech."""
    return encoded(speech(seconds, seed=seed), "WAV", "PCM_16", rate_hz)


@functools.cache
def made(program: str, arguments: tuple[str, ...], suffix: str, source: bytes) -> bytes:
    """Return what a program makes of a WAV; IN and OUT stand for the files."""
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder) / "in.wav", Path(folder) / f"out{suffix}"
        given.write_bytes(source)
        names = {"IN": str(given), "OUT": str(out)}
        command = [tool(program), *(names.get(a, a) for a in arguments)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        return out.read_bytes()


def ffmpeg(source: bytes, suffix: str, *arguments: str) -> bytes:
    """Return what ffmpeg makes of a WAV."""
    return made("ffmpeg", ("-y", "-i", "IN", *arguments, "OUT"), suffix, source)


def lame(source: bytes, *arguments: str) -> bytes:
    """Return what LAME makes of a WAV."""
    return made("lame", ("--silent", *arguments, "IN", "OUT"), ".mp3", source)


def opus(source: bytes) -> bytes:
    """Return what opusenc makes of a WAV."""
    return made("opusenc", ("--quiet", "IN", "OUT"), ".opus", source)


def vorbis(source: bytes) -> bytes:
    """Return an Ogg/Vorbis of a WAV."""
    return ffmpeg(source, ".ogg", "-c:a", "libvorbis")


def flac(source: bytes) -> bytes:
    """Return a FLAC of a WAV."""
    return ffmpeg(source, ".flac")


def mp3(source: bytes) -> bytes:
    """Return an MP3 of constant bit rate, with its header frame."""
    return lame(source, "-b", "64")


def vbr(source: bytes) -> bytes:
    """Return an MP3 of varying bit rate, with its header frame."""
    return lame(source, "-V", "4")


def bare(source: bytes) -> bytes:
    """Return an MP3 of varying bit rate that does not say how long it is."""
    return lame(source, "-V", "4", "-t")


def wave(data: bytes, *, length: int | None = None, riff: int | None = None) -> bytes:
    """Return a 16-bit mono WAV whose header says what it is told to say."""
    fmt = struct.pack("<HHIIHH", 1, 1, RATE_HZ, 2 * RATE_HZ, 2, 16)
    length = len(data) if length is None else length
    riff = 36 + len(data) if riff is None else riff
    head = b"RIFF" + struct.pack("<I", riff) + b"WAVEfmt " + struct.pack("<I", 16) + fmt
    return head + b"data" + struct.pack("<I", length) + data


def pcm(seconds: float, seed: int = 0) -> bytes:
    """Return synthetic speech as 16-bit samples."""
    samples = np.clip(speech(seconds, seed=seed), -1, 1)
    return (samples * 32767).astype("<i2").tobytes()


def id3(body: bytes) -> bytes:
    """Return an ID3v2.4 tag with this body."""
    n = len(body)
    size = bytes((n >> 21 & 127, n >> 14 & 127, n >> 7 & 127, n & 127))
    return b"ID3\x04\0\0" + size + body


def text_frame(kind: bytes, text: bytes) -> bytes:
    """Return an ID3v2.4 frame of text."""
    return kind + struct.pack(">I", len(text) + 1) + b"\0\0\0" + text


Encoder = Callable[[bytes], bytes]
