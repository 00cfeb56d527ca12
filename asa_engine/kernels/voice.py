"""Silero's voice activity detector on the compiled kernel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from asa_engine import _kernels
from asa_engine.kernels import isa

__all__ = [
    "CONTEXT_SAMPLES",
    "FRAME_SAMPLES",
    "STATE_SIZE",
    "VOICE_SHAPES",
    "SpeechKernel",
    "VoiceKernel",
]

SpeechKernel = _kernels.Speech
"""The speech of one recording: filters, detector and gate."""

# Fixed by the model at 16 kHz: 32 ms frames, each seen with the 4 ms before it.
FRAME_SAMPLES: Final = 512
CONTEXT_SAMPLES: Final = 64
STATE_SIZE: Final = 256

VOICE_SHAPES: Final[Mapping[str, tuple[int, ...]]] = {
    "voice.basis": (258, 256),  # of the spectra: cosines, then sines
    "voice.convolution.0.weight": (128, 3, 129),  # [out, taps, in]
    "voice.convolution.1.weight": (64, 3, 128),
    "voice.convolution.2.weight": (64, 3, 64),
    "voice.convolution.3.weight": (128, 3, 64),
    "voice.convolution.0.bias": (128,),
    "voice.convolution.1.bias": (64,),
    "voice.convolution.2.bias": (64,),
    "voice.convolution.3.bias": (128,),
    "voice.lstm.weight": (512, 256),  # gates i f g o over the input, then over the output before
    "voice.lstm.bias": (512,),
    "voice.output.weight": (128,),
    "voice.output.bias": (1,),
}
"""The network's weights in the order in which compiled code takes them."""


class VoiceKernel:
    """The network: short-time spectra of a frame, four convolutions, an LSTM, one output.

    Args:
        weights: float32 arrays by the names and of the shapes in `VOICE_SHAPES`; contiguous ones
            are held, not copied.

    Raises:
        KeyError: One is missing.
        ValueError: One is of another size.
    """

    def __init__(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        isa()
        self._voice = _kernels.Voice([weights[name].ravel() for name in VOICE_SHAPES])

    def run(self, samples: NDArray[np.float32], state: NDArray[np.float32]) -> float:
        """Return the probability that a frame holds speech, and move the state on.

        Args:
            samples: float32 [CONTEXT_SAMPLES + FRAME_SAMPLES] at 16 kHz.
            state: float32 [STATE_SIZE], zeros before the first frame; changed in place.

        Raises:
            ValueError: One of them is of another size.
        """
        return self._voice.run(samples, state)

    def speech(self, *, as_is: bool, level: bool) -> SpeechKernel:
        """Return what keeps the speech of one recording, with this network as its detector.

        Args:
            as_is: Give the recording but for its offset, not what the high-pass leaves.
            level: Bring speech to one level.
        """
        return SpeechKernel(self._voice, as_is, level)
