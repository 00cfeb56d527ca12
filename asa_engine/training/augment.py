"""Changes to training audio: what microphones, rooms and codecs do, and a little of speakers."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from asa_engine.training.recipe import AugmentRecipe

__all__ = ["augment_mel", "augment_samples"]

SAMPLE_RATE_HZ = 16_000
SHIFT_S = 0.3
FLOOR_NOISE = 3e-4  # about -70 dB below full scale, a quiet room
SNR_DB = (10.0, 40.0)
LOW_PASS_HZ = (3000.0, 7000.0)
LOW_PASS_ORDER = 16
TILT_KNOTS = 5

Samples = NDArray[np.float32]


def augment_samples(samples: Samples, recipe: AugmentRecipe, rng: Generator) -> Samples:
    """Return a changed copy of a recording.

    Args:
        samples: float32 [n] at 16 kHz in [-1, 1].
        recipe: What may change, and how much.
        rng: Where chance comes from.
    """
    if recipe.speed and rng.random() < 0.8:
        factor = 1 + recipe.speed * rng.uniform(-1, 1)
        at = np.arange(0, len(samples) - 1, factor)
        samples = np.interp(at, np.arange(len(samples)), samples).astype(np.float32)
    if rng.random() < recipe.shift:
        samples = _shift(samples, rng)
    if rng.random() < recipe.low_pass:
        samples = _low_pass(samples, rng.uniform(*LOW_PASS_HZ))
    if rng.random() < recipe.noise:
        samples = _add_noise(samples, rng)
    if recipe.gain_db:
        gain = 10 ** (rng.uniform(-recipe.gain_db, recipe.gain_db) / 20)
        samples = np.clip(samples * np.float32(gain), -1, 1)
    return np.ascontiguousarray(samples, dtype=np.float32)


def augment_mel(mel: Samples, recipe: AugmentRecipe, rng: Generator) -> Samples:
    """Return a changed copy of one window's normalised log-mel, float32 [n_mels, T]."""
    n_mels = len(mel)
    if recipe.tilt and rng.random() < 0.5:
        knots = np.linspace(0, n_mels - 1, TILT_KNOTS)
        curve = np.interp(np.arange(n_mels), knots, rng.normal(0, recipe.tilt, TILT_KNOTS))
        mel = mel + curve.astype(np.float32)[:, None]
    if recipe.mel_mask:
        mel = mel.copy()
        for _ in range(2):
            width = int(rng.integers(0, min(recipe.mel_mask, n_mels)))
            start = int(rng.integers(0, n_mels - width))
            mel[start : start + width] = mel.mean()
    return mel


def _shift(samples: Samples, rng: Generator) -> Samples:
    """Move the start against the window grid: quiet before it, or a little cut off."""
    by = int(rng.integers(0, int(SHIFT_S * SAMPLE_RATE_HZ)))
    if rng.random() < 0.3:
        return samples[min(by, len(samples) // 20) :]
    quiet = rng.normal(0, FLOOR_NOISE, by).astype(np.float32)
    return np.concatenate((quiet, samples))


def _low_pass(samples: Samples, cutoff_hz: float) -> Samples:
    """Filter with the squared magnitude of a Butterworth low-pass, without phase."""
    hz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE_HZ)
    response = 1 / (1 + (hz / cutoff_hz) ** LOW_PASS_ORDER)
    return np.fft.irfft(np.fft.rfft(samples) * response, len(samples)).astype(np.float32)


def _add_noise(samples: Samples, rng: Generator) -> Samples:
    noise = rng.normal(0, 1, len(samples))
    if rng.random() < 0.5:
        noise = np.convolve(noise, np.exp(-np.arange(16) / rng.uniform(1, 8)), "same")
    level = np.sqrt(np.mean(samples**2)) * 10 ** (-rng.uniform(*SNR_DB) / 20)
    return np.asarray(samples + noise / noise.std() * level, dtype=np.float32)
