"""Typed functions over the compiled kernels.

Each kernel is compiled once per instruction set (`generic`, `avx2`, `avx_vnni`, `avx512`,
`avx512_bf16`, `amx`, `neon`, `neon_dot`, `neon_bf16`); the best one this CPU has is used. The
environment variable `ASA_CPU_ISA` forces one.
`asa_engine.kernels.reference` holds the NumPy functions that the kernels must agree with.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from asa_engine import _kernels
from asa_engine.errors import BackendError

__all__ = ["LogMel", "available_isas", "isa", "log_mel"]


@cache
def isa() -> str:
    """Return the instruction set in use.

    Raises:
        BackendError: `ASA_CPU_ISA` names an unknown one, or one this CPU lacks.
    """
    try:
        return _kernels.isa()
    except RuntimeError as error:
        raise BackendError(
            f"ASA_CPU_ISA: {error}", hint="unset ASA_CPU_ISA or name one of these"
        ) from None


def available_isas() -> tuple[str, ...]:
    """Return the instruction sets that this CPU and build have, weakest first."""
    return tuple(_kernels.available_isas().split(", "))


def _samples(samples: ArrayLike) -> NDArray[np.float32]:
    array = np.asarray(samples)
    if array.ndim != 1 or array.dtype != np.float32:
        raise ValueError(f"samples must be float32 [n], not {array.dtype} {list(array.shape)}")
    return np.ascontiguousarray(array)


def log_mel(samples: ArrayLike, n_mels: int = 80) -> NDArray[np.float32]:
    """Compute Whisper's log-mel spectrogram of one window.

    Frames of 400 samples every 160, mirrored at both ends, periodic Hann window, power spectrum,
    Slaney mel filters up to 8 kHz, log10 of at least 1e-10, floored at the window's maximum
    minus 8, then (x + 4) / 4.

    Args:
        samples: Mono audio at 16 kHz, float32 [n], n > 200.
        n_mels: Mel bins; Whisper uses 80 or 128.

    Returns:
        float32 [n_mels, n // 160].

    Raises:
        ValueError: Wrong shape, dtype or `n_mels`, too few samples, or NaN or infinite samples.
    """
    isa()
    return _kernels.log_mel(_samples(samples), n_mels)


class LogMel:
    """The log-mel spectrogram of windows whose samples arrive in pieces.

    Results are bit-equal to `log_mel` on the whole window, whatever the pieces. `push` computes
    all frames whose samples are there, so `close` has next to nothing left to do.

    Args:
        n_mels: Mel bins.
        window_samples: Most samples a window may hold.

    Raises:
        ValueError: A number out of range.
    """

    def __init__(self, n_mels: int, window_samples: int) -> None:
        isa()
        if window_samples < 0:
            raise ValueError(f"window_samples is {window_samples}")
        self._window = _kernels.LogMelWindow(n_mels, window_samples)

    @property
    def samples(self) -> int:
        """Samples in the open window."""
        return self._window.samples

    @property
    def room(self) -> int:
        """Samples the open window can still take."""
        return self._window.window_samples - self._window.samples

    def push(self, samples: ArrayLike) -> None:
        """Add samples, float32 [n], n at most `room`.

        Raises:
            ValueError: Wrong shape or dtype, more samples than `room`, NaN or infinity; the window
                stays as it was.
        """
        self._window.push(_samples(samples))

    def close(self) -> NDArray[np.float32]:
        """Finish the window and start the next one.

        Returns:
            float32 [n_mels, samples // 160].

        Raises:
            ValueError: The window holds 200 samples or fewer; it stays open.
        """
        return self._window.close()

    def reset(self) -> None:
        """Drop the open window's samples."""
        self._window.reset()
