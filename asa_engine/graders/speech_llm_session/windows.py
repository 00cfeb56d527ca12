"""A response cut into windows, each framed as every encoder that hears it was trained to see it.

A grader whose language model has ears of its own has a Whisper beside them for the prior: both hear
the same windows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asa_engine.features.log_mel import WindowedLogMel
from asa_engine.graders.lm.windows import cut

if TYPE_CHECKING:
    from asa_engine.graders.speech_llm_session.config import SessionConfig

__all__ = ["Mels", "SessionWindows"]


class Mels(NamedTuple):
    """One window.

    Attributes:
        speech: Log-mel of the encoder whose frames become audio tokens, float32 [n_mels, T].
        prior: Log-mel of the prior's own encoder; None where it takes the frames of the first.
    """

    speech: NDArray[np.float32]
    prior: NDArray[np.float32] | None = None


class SessionWindows:
    """What cuts one response.

    Args:
        config: The grader's configuration.
    """

    def __init__(self, config: SessionConfig) -> None:
        speech = config.speech
        self._speech = cut(speech)
        self._prior: WindowedLogMel | None = None
        if config.prior.encoder is not None:
            self._prior = WindowedLogMel(
                config.prior.encoder.n_mels,
                speech.window_samples,
                pad_to_window=False,
                min_samples=speech.min_window_samples,
            )

    def push(self, samples: NDArray[np.float32]) -> list[Mels]:
        """Take float32 samples at 16 kHz [n]; return the windows that they close."""
        closed = self._speech.push(samples)
        if self._prior is None:
            return [Mels(mel) for mel in closed]
        return list(map(Mels, closed, self._prior.push(samples)))

    def finish(self) -> Mels | None:
        """Return the open window, or `None` if too little of it is there."""
        mel = self._speech.finish()
        if mel is None:
            return None
        return Mels(mel, None if self._prior is None else self._prior.finish())

    def cut(self, samples: NDArray[np.float32]) -> list[Mels]:
        """Return all windows of a response, float32 [n]."""
        windows = self.push(np.ascontiguousarray(samples, dtype=np.float32))
        rest = self.finish()
        return windows if rest is None else [*windows, rest]
