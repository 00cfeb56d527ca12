"""Synthetic signals for tests, float32 mono at 16 kHz: nothing here is recorded or downloaded."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import soundfile
from hypothesis import strategies as st
from numpy.typing import NDArray

from asa_engine.audio import ChunkConverter

RATE_HZ = 16_000
Samples = NDArray[np.float32]
CHUNKS = st.lists(st.integers(1, 20_000), min_size=1, max_size=6)
"""Sizes of the pieces that a recording comes in."""

# First three formants (Hz) of open, close and mid vowels, near the published averages.
_VOWELS = (
    (730.0, 1090.0, 2440.0),
    (270.0, 2290.0, 3010.0),
    (300.0, 870.0, 2240.0),
    (530.0, 1840.0, 2480.0),
    (570.0, 840.0, 2410.0),
)


def db(gain_db: float) -> float:
    """Return the amplitude factor of a gain in dB."""
    return float(10 ** (gain_db / 20))


def scaled(samples: NDArray[Any], rms_dbfs: float) -> Samples:
    """Return the samples at an RMS level; 0 dBFS is an RMS of 1.0."""
    values = np.asarray(samples, np.float64)
    rms = np.sqrt(np.mean(values**2))
    return (values * db(rms_dbfs) / rms).astype(np.float32)


def seconds(duration_s: float) -> NDArray[np.float64]:
    """Return the times of the samples of a signal."""
    return np.arange(round(duration_s * RATE_HZ)) / RATE_HZ


def silence(duration_s: float) -> Samples:
    """Return digital silence."""
    return np.zeros(round(duration_s * RATE_HZ), np.float32)


def tone(duration_s: float, hz: float = 440.0, rms_dbfs: float = -20.0) -> Samples:
    """Return a sine."""
    return scaled(np.sin(2 * np.pi * hz * seconds(duration_s)), rms_dbfs)


def hum(duration_s: float, hz: float = 50.0, rms_dbfs: float = -30.0) -> Samples:
    """Return mains hum: a fundamental and its odd harmonics."""
    t = seconds(duration_s)
    return scaled(sum(np.sin(2 * np.pi * hz * k * t) / k for k in (1, 3, 5, 7, 9)), rms_dbfs)


def chirp(duration_s: float, rms_dbfs: float = -20.0) -> Samples:
    """Return a sweep from 100 Hz to 6 kHz."""
    t = seconds(duration_s)
    return scaled(np.sin(2 * np.pi * (100 * t + (5900 / (2 * duration_s)) * t**2)), rms_dbfs)


def clicks(duration_s: float, per_s: float = 4.0) -> Samples:
    """Return single-sample clicks in silence."""
    samples = silence(duration_s)
    samples[:: int(RATE_HZ / per_s)] = 0.9
    return samples


def dtmf(duration_s: float, rms_dbfs: float = -20.0) -> Samples:
    """Return telephone keys, 0.1 s tone and 0.1 s pause each."""
    t = seconds(duration_s)
    key = (t / 0.2).astype(int)
    low = np.array([697.0, 770.0, 852.0, 941.0])[key % 4]
    high = np.array([1209.0, 1336.0, 1477.0])[key % 3]
    gate = (t % 0.2) < 0.1
    return scaled(gate * (np.sin(2 * np.pi * low * t) + np.sin(2 * np.pi * high * t)), rms_dbfs)


def chords(duration_s: float, rms_dbfs: float = -20.0) -> Samples:
    """Return decaying synthesiser chords, two a second."""
    t = seconds(duration_s)
    total = np.zeros_like(t)
    for number, root in enumerate((220.0, 174.6, 261.6, 196.0)):
        inside = ((t / 0.5).astype(int) % 4) == number
        for ratio in (1.0, 1.26, 1.5, 2.0):
            for harmonic in (1, 2, 3):
                wave = np.sin(2 * np.pi * root * ratio * harmonic * t) / harmonic
                total += inside * wave * np.exp(-3 * (t % 0.5))
    return scaled(total, rms_dbfs)


def melody(duration_s: float, note_s: float = 0.25, decay: float = 4.0, seed: int = 0) -> Samples:
    """Return random notes of a plucked instrument, one after the other."""
    t = seconds(duration_s)
    notes = np.array([147, 165, 175, 196, 220, 247, 262, 294, 330, 392, 440, 523.0])
    turns = np.random.default_rng(seed).choice(notes, int(duration_s / note_s) + 1)
    hz = turns[(t / note_s).astype(int)]
    wave = sum(np.sin(2 * np.pi * k * hz * t) / k for k in range(1, 10))
    return scaled(wave * np.exp(-decay * (t % note_s)), -20.0)


def beeps(duration_s: float, hz: float, per_s: float = 4.0) -> Samples:
    """Return a sine that is on for 60 % of every period."""
    on = (seconds(duration_s) * per_s) % 1.0 < 0.6
    return scaled(tone(duration_s, hz) * on, -20.0)


def noise(
    duration_s: float, rms_dbfs: float = -30.0, colour: str = "white", seed: int = 0
) -> Samples:
    """Return white, pink (-3 dB an octave) or brown (-6 dB an octave) Gaussian noise."""
    n = round(duration_s * RATE_HZ)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(n))
    hz = np.fft.rfftfreq(n, 1 / RATE_HZ)
    slope = {"white": 0.0, "pink": -0.5, "brown": -1.0}[colour]
    spectrum *= np.maximum(hz, 20.0) ** slope
    return scaled(np.fft.irfft(spectrum, n), rms_dbfs)


def sound(duration_s: float, seed: int = 2) -> Samples:
    """Return noise whose loudness changes twenty times a second."""
    rng = np.random.default_rng(seed)
    envelope = np.repeat(rng.uniform(0.01, 0.5, round(duration_s * 20) + 1), 800)
    samples = envelope * rng.normal(0, 0.3, envelope.size)
    return samples.astype(np.float32)[: round(duration_s * RATE_HZ)]


def speech(
    duration_s: float, rms_dbfs: float = -23.0, pitch_hz: float = 120.0, seed: int = 0
) -> Samples:
    """Return formant-synthesised babble: glottal pulses through gliding vowels, and pauses.

    About four syllables a second, a hiss before every other vowel, a pause after every sixth.
    """
    rng = np.random.default_rng(seed)
    parts: list[NDArray[np.float64]] = [np.zeros(int(0.15 * RATE_HZ))]
    length, syllable = 0, 0
    while length < duration_s * RATE_HZ:
        if syllable % 2:
            hiss = np.diff(rng.standard_normal(int(0.07 * RATE_HZ)))
            parts.append(0.1 * hiss * np.hanning(len(hiss)))
        vowel = _vowel(rng, float(rng.uniform(0.14, 0.22)), pitch_hz)
        parts.append(vowel)
        if syllable % 6 == 5:
            parts.append(np.zeros(int(0.25 * RATE_HZ)))
        syllable += 1
        length = sum(map(len, parts))
    joined = np.concatenate(parts)[: round(duration_s * RATE_HZ)]
    room = 1e-4 * np.random.default_rng(seed + 1).standard_normal(len(joined))
    return scaled(joined, rms_dbfs) + room.astype(np.float32)


def _vowel(rng: np.random.Generator, duration_s: float, pitch_hz: float) -> NDArray[np.float64]:
    """Sum the harmonics of a falling pitch under formants that glide from one vowel to the next."""
    n = int(duration_s * RATE_HZ)
    glide = np.linspace(0.0, 1.0, n)
    start, end = (np.array(_VOWELS[i]) for i in rng.integers(0, len(_VOWELS), 2))
    formants = start[:, None] + (end - start)[:, None] * glide
    pitch = pitch_hz * (1.15 - 0.3 * glide) * rng.uniform(0.9, 1.15)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE_HZ
    out = np.zeros(n)
    for harmonic in range(1, int(4500 / pitch_hz)):
        hz = harmonic * pitch
        gains = (1.0, 0.6, 0.3)
        widths = (70.0, 100.0, 140.0)
        amplitude = sum(
            gain / (1 + ((hz - formant) / width) ** 2)
            for gain, width, formant in zip(gains, widths, formants, strict=True)
        )
        out += amplitude * np.sin(harmonic * phase)
    return out * np.minimum(1.0, np.minimum(np.arange(n), np.arange(n)[::-1]) / 320)


def mixed(clean: Samples, disturbance: Samples, snr_db: float) -> Samples:
    """Return the clean signal with a disturbance added at a signal-to-noise ratio."""
    rms_dbfs = 20 * np.log10(np.sqrt(np.mean(clean.astype(np.float64) ** 2)))
    return clean + scaled(disturbance[: len(clean)], float(rms_dbfs) - snr_db)


def encoded(
    samples: NDArray[Any], kind: str = "WAV", subtype: str | None = None, rate_hz: int = RATE_HZ
) -> bytes:
    """Return the samples as the bytes of a file: WAV, FLAC, OGG or MP3."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format=kind, subtype=subtype)
    return buffer.getvalue()


def cut(samples: NDArray[Any], sizes: list[int]) -> Iterator[NDArray[Any]]:
    """Yield the samples in chunks of these sizes, repeated for as long as they last."""
    start = turn = 0
    while start < len(samples):
        size = sizes[turn % len(sizes)]
        yield samples[start : start + size]
        start, turn = start + size, turn + 1


def converted(chunks: Iterable[NDArray[Any]], rate_hz: int) -> NDArray[np.float32]:
    """Return chunks at a rate as the engine has them: mono at 16 kHz."""
    converter = ChunkConverter(rate_hz)
    blocks = [converter.push(chunk) for chunk in chunks]
    return np.concatenate([*blocks, converter.close()])


def with_data_bytes(wav: bytes, length: int) -> bytes:
    at = wav.index(b"data") + 4
    return wav[:at] + struct.pack("<I", length) + wav[at + 4 :]
