"""What the kernels compute, in plain NumPy and float64: the truth they are tested against."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["log_mel", "mel_filters"]

SAMPLE_RATE = 16_000
N_FFT = 400
HOP = 160


def mel_filters(n_mels: int) -> NDArray[np.float64]:
    """Return Slaney's area-normalised triangular filters from 0 to 8 kHz, [201, n_mels]."""

    def to_mel(hertz: float) -> float:
        return 3 * hertz / 200 if hertz < 1000 else 15 + 27 * np.log(hertz / 1000) / np.log(6.4)

    mel = np.linspace(0, to_mel(SAMPLE_RATE / 2), n_mels + 2)
    edges = np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    hertz = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1)[:, None]
    triangle = np.minimum((hertz - low) / (centre - low), (high - hertz) / (high - centre))
    filters: NDArray[np.float64] = np.maximum(triangle, 0) * 2 / (high - low)
    return filters


def log_mel(samples: NDArray[np.float32], n_mels: int = 80) -> NDArray[np.float32]:
    """Compute Whisper's log-mel spectrogram of one window; see `asa_engine.kernels.log_mel`."""
    if samples.ndim != 1 or len(samples) <= N_FFT // 2:
        raise ValueError(f"samples must be [n] with n > {N_FFT // 2}")
    padded = np.pad(samples.astype(np.float64), N_FFT // 2, mode="reflect")
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP]
    power = np.abs(np.fft.rfft(frames[: len(samples) // HOP] * hann)) ** 2
    log_power = np.log10(np.maximum(power @ mel_filters(n_mels), 1e-10)).T
    floored = np.maximum(log_power, log_power.max() - 8)
    return ((floored + 4) / 4).astype(np.float32)
