"""Log-mel by windows: closed windows are final, whatever comes after."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from asa_engine.kernels import LogMel
from asa_engine.kernels.laps import LapLog
from asa_engine.profiling import lap_sources

__all__ = ["WindowedLogMel"]

_CENTRE_PAD_SAMPLES = 200
_ZERO_BLOCK = np.zeros(16_000, dtype=np.float32)
_HOP, _FFT = 160, 400
# Of a frame: a real FFT, the power of its bins, and two mel filters over each of them.
_OPERATIONS = 2.5 * _FFT * math.log2(_FFT) + (3 + 4) * (_FFT // 2 + 1)


class WindowedLogMel:
    """Cut 16 kHz audio into windows and compute each window's log-mel as its samples arrive.

    Window k covers samples [k * window, (k + 1) * window). Its log-mel is what
    `WhisperFeatureExtractor` gives for those samples alone.

    Args:
        n_mels: 80 or 128.
        window_samples: Samples a window.
        pad_to_window: Zero-pad the last, open window to full length (Whisper's own 30 s form).
        min_samples: An open window shorter than this is not encoded, unless it is the only one
            and long enough to be framed at all.
    """

    def __init__(
        self, n_mels: int, window_samples: int, *, pad_to_window: bool, min_samples: int
    ) -> None:
        self._pad_to_window = pad_to_window
        self._min_samples = min_samples
        self._n_mels = n_mels
        self._window = LogMel(n_mels, window_samples)
        self._closed = 0
        self._laps: LapLog | None = None
        if (sources := lap_sources()) is not None:
            self._laps = LapLog()
            sources.append(self._laps.take)

    @property
    def room(self) -> int:
        """Samples that the open window still takes."""
        return self._window.room

    def push(self, samples: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Take float32 samples [n]; return the log-mel [n_mels, T] of each window they close."""
        closed = []
        while samples.size:
            take = min(samples.size, self._window.room)
            self._push(samples[:take])
            samples = samples[take:]
            if not self._window.room:
                closed.append(self._close())
        return closed

    def finish(self) -> NDArray[np.float32] | None:
        """Return the log-mel of the open window, or `None` if too little of it is there."""
        minimum = self._min_samples if self._closed else _CENTRE_PAD_SAMPLES + 1
        if self._window.samples < minimum:
            return None
        if self._pad_to_window:
            while self._window.room:
                self._push(_ZERO_BLOCK[: self._window.room])
        return self._close()

    def _push(self, samples: NDArray[np.float32]) -> None:
        if self._laps is None:
            self._window.push(samples)
            return
        frames = samples.size / _HOP
        size = 4.0 * (samples.size + frames * self._n_mels)
        with self._laps.lap("log-mel", frames * _OPERATIONS, size):
            self._window.push(samples)

    def _close(self) -> NDArray[np.float32]:
        self._closed += 1
        return self._window.close()
