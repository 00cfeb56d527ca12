"""Audio cut into windows, and each window's log-mel as its encoder was trained to see it.

Whisper's windows are framed as their samples arrive. An audio language model's are framed when
they close, each as that model's own processor frames a clip of just these samples.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from asa_engine.graders.lm.shapes import SAMPLE_RATE_HZ
from asa_engine.graders.windows import Windows, log_mel_windows
from asa_engine.kernels import LogMel
from asa_engine.kernels.dense import product
from asa_engine.nn.config import AudioEncoderConfig

if TYPE_CHECKING:
    from asa_engine.graders.speech_llm.config import SpeechLLMConfig

__all__ = ["ClipWindows", "Windows", "cut", "phi4_log_mel", "qwen2_log_mel"]

SHORTEST_SAMPLES = 400
"""Below this a clip gives no audio token."""
_HOP = 160
_LONGEST_MEL_FRAMES = 3000  # 30 s: what Qwen2-Audio's processor pads every clip to
_FRAME, _FFT, _BINS = 400, 512, 80
_PREEMPHASIS, _INT16 = 0.97, 32_768.0
_TOP_HZ = 7690.0

Frame = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Samples [n] -> log-mel [n_mels, T]."""


class ClipWindows:
    """Windows that are framed when they close.

    Args:
        frame: Makes a window's log-mel.
        window_samples: Samples a window.
        min_samples: An open window shorter than this is left out, unless it is the only one.
    """

    def __init__(self, frame: Frame, window_samples: int, min_samples: int) -> None:
        self._frame = frame
        self._window = np.empty(window_samples, np.float32)
        self._min_samples = max(min_samples, SHORTEST_SAMPLES)
        self._filled = self._closed = 0

    @property
    def room(self) -> int:
        """Samples that the open window still takes."""
        return self._window.size - self._filled

    def push(self, samples: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Take float32 samples [n]; return the log-mel [n_mels, T] of each window they close."""
        closed = []
        while samples.size:
            taken = samples[: self._window.size - self._filled]
            self._window[self._filled : self._filled + taken.size] = taken
            self._filled += taken.size
            samples = samples[taken.size :]
            if self._filled == self._window.size:
                closed.append(self._frame(self._window))
                self._filled = 0
                self._closed += 1
        return closed

    def finish(self) -> NDArray[np.float32] | None:
        """Return the log-mel of the open window, or `None` if too little of it is there."""
        if self._filled < (self._min_samples if self._closed else SHORTEST_SAMPLES):
            return None
        return self._frame(self._window[: self._filled])


def cut(config: SpeechLLMConfig) -> Windows:
    """Return what cuts one recording into windows."""
    encoder, least = config.encoder, config.min_window_samples
    if not isinstance(encoder, AudioEncoderConfig):
        return log_mel_windows(config)
    if encoder.family == "phi4_multimodal":
        return ClipWindows(phi4_log_mel, config.window_samples, least)
    bins = encoder.n_mels
    return ClipWindows(lambda samples: qwen2_log_mel(samples, bins), config.window_samples, least)


def qwen2_log_mel(samples: NDArray[np.float32], n_mels: int) -> NDArray[np.float32]:
    """Return Whisper's log-mel of a clip in front of silence, as far as Qwen2-Audio looks.

    Args:
        samples: float32 at 16 kHz [n], at most 30 s.
        n_mels: 80 or 128.

    Returns:
        float32 [n_mels, 2 E + 1], E = ceil(ceil(n / 160) / 2) encoder frames (50 Hz), and no more
        than the 3000 frames of 30 s: the leading part of what the processor of
        `Qwen2AudioForConditionalGeneration` gives for the clip padded to 30 s.
    """
    mel_frames = -(-samples.size // _HOP)
    looked_at = min(2 * -(-mel_frames // 2) + 1, _LONGEST_MEL_FRAMES)
    # Two frames of silence more, so that what is mirrored at the end is silence, too.
    padded = np.zeros(min(looked_at + 2, _LONGEST_MEL_FRAMES) * _HOP, np.float32)
    padded[: samples.size] = samples
    cutter = LogMel(n_mels, padded.size)
    cutter.push(padded)
    return np.ascontiguousarray(cutter.close()[:, :looked_at])


def phi4_log_mel(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return Phi-4-multimodal's log-mel of a clip.

    Frames of 400 samples, 160 apart, none padded; pre-emphasis of 0.97 inside each; Hamming
    window; power of a 512-point FFT of 16-bit amplitudes through 80 triangles on Kaldi's mel scale
    from 0 to 7690 Hz; natural logarithm of at least 1.

    Args:
        samples: float32 at 16 kHz [n], n at least 400.

    Returns:
        float32 [80, (n - 400) // 160 + 1].
    """
    frames = np.lib.stride_tricks.sliding_window_view(samples, _FRAME)[::_HOP]
    before = np.concatenate((frames[:, :1], frames[:, :-1]), axis=1)
    emphasised = (frames - np.float32(_PREEMPHASIS) * before) * np.float32(_INT16)
    spectrum = np.fft.rfft(emphasised * np.hamming(_FRAME), _FFT)
    power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
    return np.ascontiguousarray(np.log(np.maximum(product(power, _triangles()), 1)).T)


@cache
def _triangles() -> NDArray[np.float32]:
    """Return Kaldi's mel filters, [257, 80]: triangles whose sides are straight in mel."""

    def mel(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
        return 1127 * np.log1p(hertz / 700)

    bins = mel(np.linspace(0, SAMPLE_RATE_HZ / 2, _FFT // 2 + 1))[:, np.newaxis]
    edges = np.linspace(0.0, float(mel(np.array(_TOP_HZ))), _BINS + 2)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    triangles: NDArray[np.float64] = np.maximum(0, np.minimum(rising, falling))
    return triangles.astype(np.float32)
