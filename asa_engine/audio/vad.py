"""Silero's voice activity detector on our own kernel, which libasa runs too.

`silero_vad.f32` holds the weights of its 16 kHz network as the kernel takes them: float32, one
tensor of `VOICE_SHAPES` after the other. `asa_export.voice` makes it of the model that Silero
published (NOTICE).

It earns its place: a detector of our own (level, periodicity, movement of the spectral centroid)
missed 0.56 % of learners (Silero 0.12 %), 9 % of them at -20 dB (2.4 %), 99 % in pink noise at 0 dB
(0.4 %) and every whisper (none); it passed 6 of 55 minutes of tunes, beeps and sweeps (10).
"""

from __future__ import annotations

import functools
import hashlib
import math
import mmap
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from asa_engine.errors import BackendError
from asa_engine.kernels.voice import (
    CONTEXT_SAMPLES,
    FRAME_SAMPLES,
    STATE_SIZE,
    VOICE_SHAPES,
    SpeechKernel,
    VoiceKernel,
)

__all__ = [
    "CONTEXT_SAMPLES",
    "FRAME_SAMPLES",
    "SpeechDetector",
    "detector_weights",
    "speech_kernel",
]

_WEIGHTS: Final = Path(__file__).with_name("silero_vad.f32")
_SHA256: Final = "9ce9463067e46767938c0f252e84690c9ab848a22736adefbe727ea2ba75c366"


class SpeechDetector:
    """Probability of speech, frame by frame; the model's state runs on from call to call.

    Raises:
        BackendError: The detector's weights are missing, or not those that are known.
    """

    def __init__(self) -> None:
        self._kernel = _kernel()
        self._state = np.zeros(STATE_SIZE, np.float32)

    def probability(self, samples: NDArray[np.float32]) -> float:
        """Return the probability that a frame holds speech.

        Args:
            samples: float32 [CONTEXT_SAMPLES + FRAME_SAMPLES], 16 kHz: the end of the frame before,
                then the frame.
        """
        return self._kernel.run(samples, self._state)


def speech_kernel(*, as_is: bool, level: bool) -> SpeechKernel:
    """Return what keeps the speech of one recording; for `asa_engine.audio.front`.

    Raises:
        BackendError: The detector's weights are missing, or not those that are known.
    """
    return _kernel().speech(as_is=as_is, level=level)


@functools.cache
def _kernel() -> VoiceKernel:
    """Open the model once per process."""
    return VoiceKernel(detector_weights())


def detector_weights() -> dict[str, NDArray[np.float32]]:
    """Return the detector's weights by the names in `VOICE_SHAPES`, mapped from their file.

    Raises:
        BackendError: The file is missing, or not the one that is known.
    """
    try:
        with _WEIGHTS.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):
        raise BackendError(
            f"the speech detector's weights {_WEIGHTS} are missing", hint="install asa-engine again"
        ) from None
    if hashlib.sha256(data).hexdigest() != _SHA256:
        raise BackendError(
            f"{_WEIGHTS} is not the speech detector that is known here",
            hint="install asa-engine again",
        )
    values, weights, at = np.frombuffer(data, "<f4"), {}, 0
    for name, shape in VOICE_SHAPES.items():
        weights[name] = values[at : at + math.prod(shape)].reshape(shape)
        at += math.prod(shape)
    return weights
