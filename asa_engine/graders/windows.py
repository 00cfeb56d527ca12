"""How graders hear: a configuration's windows, and a run that takes each as it closes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from asa_engine.features.log_mel import WindowedLogMel
from asa_engine.nn.config import WhisperEncoderConfig
from asa_engine.profiling import StageClock

__all__ = ["WindowedRun", "Windows", "log_mel_windows"]


class Windows(Protocol):
    """What cuts one recording into windows."""

    @property
    def room(self) -> int:
        """Samples that the open window still takes."""

    def push(self, samples: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Take float32 samples [n]; return the log-mel [n_mels, T] of each window they close."""

    def finish(self) -> NDArray[np.float32] | None:
        """Return the log-mel of the open window, or `None` if too little of it is there."""


class Cut(Protocol):
    """A configuration that says how audio is cut for a Whisper encoder."""

    @property
    def encoder(self) -> WhisperEncoderConfig:
        """Shape of the encoder."""

    @property
    def window_samples(self) -> int:
        """Samples (16 kHz) in a window."""

    @property
    def min_window_samples(self) -> int:
        """Samples below which a last window is left out."""


def log_mel_windows(config: Cut, *, padded: bool = False) -> WindowedLogMel:
    """Return what cuts one recording; `padded` windows are all of full length."""
    return WindowedLogMel(
        config.encoder.n_mels,
        config.window_samples,
        pad_to_window=padded,
        min_samples=config.min_window_samples,
    )


class WindowedRun(ABC):
    """What takes the windows of one recording as they close; log-mels are timed as `features`."""

    _clock: StageClock
    _mel: Windows

    @property
    def missing(self) -> int:
        """Samples that close the next window: nothing new is known before."""
        return self._mel.room

    def _hear(self, samples: NDArray[np.float32]) -> None:
        """Take float32 mono samples at 16 kHz, and every window they close."""
        with self._clock.scope("features"):
            closed = self._mel.push(samples)
        for mel in closed:
            self._take(mel)

    def _hear_rest(self) -> None:
        """Take the open window, if enough of it is there."""
        with self._clock.scope("features"):
            mel = self._mel.finish()
        if mel is not None:
            self._take(mel)

    @abstractmethod
    def _take(self, mel: NDArray[np.float32]) -> None:
        """Take the log-mel [n_mels, T] of the next window."""
