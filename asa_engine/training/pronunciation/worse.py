"""Recordings made worse, and with a word cut out: what microphones and readers do."""

from __future__ import annotations

import io

import numpy as np
import soundfile
from numpy.typing import NDArray

__all__ = ["cut", "worsen"]

SAMPLE_RATE_HZ = 16_000
Samples = NDArray[np.float32]
_FADE_SAMPLES = 80


def worsen(samples: Samples, chance: np.random.Generator) -> Samples:
    """Return a recording as another microphone, room or codec would give it.

    Three in ten lose the band above 4 kHz or pass a lossy codec, nearly half get noise of 15 to
    35 dB SNR; half get up to 2.5 s of room noise on either side, half another level (-24 to +6 dB).

    Args:
        samples: float32 [n] at 16 kHz.
        chance: Draws all of it.
    """
    kind = chance.random()
    worse = samples.copy()
    if kind < 0.1:
        worse = _telephone(worse)
    elif kind < 0.2:
        worse = _coded(worse, "MP3", "MPEG_LAYER_III", chance.uniform(0.7, 0.95))
    elif kind < 0.3:
        worse = _coded(worse, "OGG", "OPUS", chance.uniform(0.6, 0.95))
    elif kind < 0.75:
        power = np.sqrt(np.square(worse).mean())
        noise = _noise(len(worse), chance)
        loud = power * 10 ** (-chance.uniform(15, 35) / 20)
        worse = worse + (noise * loud).astype(np.float32)
    if chance.random() < 0.5:
        pad = np.zeros(round(chance.uniform(0, 2.5) * SAMPLE_RATE_HZ), np.float32)
        worse = np.concatenate((pad, worse, pad))
        level = 10 ** (chance.uniform(-75, -50) / 20)
        worse = worse + (level * chance.standard_normal(len(worse))).astype(np.float32)
    if chance.random() < 0.5:
        worse = worse * np.float32(10 ** (chance.uniform(-24, 6) / 20))
    # Sixteen bits, as it comes from a file.
    whole: Samples = (np.round(np.clip(worse, -1, 1) * 32767) / 32767).astype(np.float32)
    return whole


def cut(samples: Samples, start: int, end: int) -> Samples:
    """Return a recording without its samples from `start` to `end`, joined without a click."""
    before, after = samples[:start].copy(), samples[end:].copy()
    fade = min(_FADE_SAMPLES, len(before), len(after))
    if not fade:
        return np.concatenate((before, after))
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    joined = before[-fade:] * (1 - ramp) + after[:fade] * ramp
    return np.concatenate((before[:-fade], joined, after[fade:]))


def _telephone(samples: Samples) -> Samples:
    """Remove what lies above 4 kHz."""
    spectrum = np.fft.rfft(samples)
    spectrum[round(len(spectrum) / 2) :] = 0
    found: Samples = np.fft.irfft(spectrum, len(samples)).astype(np.float32)
    return found


def _coded(samples: Samples, container: str, codec: str, level: float) -> Samples:
    """Pass a recording through a lossy codec and back."""
    held = io.BytesIO()
    soundfile.write(
        held, samples, SAMPLE_RATE_HZ, format=container, subtype=codec, compression_level=level
    )
    held.seek(0)
    found, rate = soundfile.read(held, dtype="float32")
    assert rate == SAMPLE_RATE_HZ
    return np.asarray(found, np.float32)


def _noise(count: int, chance: np.random.Generator) -> Samples:
    """Return noise of unit power, white or falling towards high frequencies."""
    noise = chance.standard_normal(count)
    if chance.random() < 0.7:
        # A one-pole low-pass, as the inverse of its transfer function on the circle.
        pole = chance.uniform(0.5, 0.97)
        turns = np.exp(-2j * np.pi * np.arange(count // 2 + 1) / count)
        noise = np.fft.irfft(np.fft.rfft(noise) / (1 - pole * turns), count)
    found: Samples = (noise / np.sqrt(np.square(noise).mean())).astype(np.float32)
    return found
