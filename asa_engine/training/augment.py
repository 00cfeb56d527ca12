"""Changes to training audio: what microphones, rooms, lines and codecs do, and some of speakers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import soxr
from numpy.random import Generator
from numpy.typing import NDArray

__all__ = ["AugmentRecipe", "augment_mel", "augment_samples", "telephone"]

SAMPLE_RATE_HZ = 16_000
SHIFT_S = 0.3
FLOOR_NOISE = 3e-4  # about -70 dB below full scale, a quiet room
SNR_DB = (10.0, 40.0)
LOW_PASS_HZ = (3000.0, 7000.0)
LOW_PASS_ORDER = 16
TILT_KNOTS = 5

Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class AugmentRecipe:
    """Changes made to the training audio, in front of what the grader hears.

    While the encoder is trained they are drawn anew each time; a frozen one hears every recording
    as it is, and changed copies of some.

    Attributes:
        copies: Share of train recordings that a changed copy stands beside, from 0 to 1.
        speed: Largest relative change of speed (and pitch).
        gain_db: Largest change of gain.
        noise: Share of utterances with added noise, white or low-passed, at 10 to 40 dB SNR.
        low_pass: Share of utterances low-passed at 3 to 7 kHz.
        shift: Share of utterances whose start moves against the windows by up to 0.3 s.
        tilt: Standard deviation of a smooth random equaliser on half the windows, log-mel units.
        mel_mask: Widest band of mel bins masked, twice a window (SpecAugment).
        telephone: Share of utterances that lose all above 4 kHz.
        twice: Share of copies that are said twice over, so that more of the same is no better
            and no worse.
    """

    copies: float = 0.0
    speed: float = 0.0
    gain_db: float = 0.0
    noise: float = 0.0
    low_pass: float = 0.0
    shift: float = 0.0
    tilt: float = 0.0
    mel_mask: int = 0
    telephone: float = 0.0
    twice: float = 0.0


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
    if recipe.telephone and rng.random() < recipe.telephone:
        samples = telephone(samples)
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


def telephone(samples: Samples) -> Samples:
    """Return a recording as a line of 8 kHz leaves it: nothing above 4 kHz, float32 [n]."""
    there = soxr.resample(samples, SAMPLE_RATE_HZ, SAMPLE_RATE_HZ // 2, "HQ")
    back = soxr.resample(there, SAMPLE_RATE_HZ // 2, SAMPLE_RATE_HZ, "HQ")[: len(samples)]
    return np.pad(back, (0, len(samples) - len(back))).astype(np.float32)


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
