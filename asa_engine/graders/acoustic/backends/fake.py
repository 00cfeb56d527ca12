"""A backend without a model, for tests of programs that use the engine.

Its scores are a fixed function of the audio: the mean of the log-mel, squashed into the scale.
They mean nothing, and the receipt says `fake`.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from asa_engine.bundle import Bundle
from asa_engine.graders.acoustic.backends.base import Backend, Encoded, HeadOutput
from asa_engine.graders.acoustic.config import AcousticConfig

__all__ = ["FakeBackend"]

_FRAME_WIDTH = 4


class FakeBackend(Backend):
    """See the module docstring."""

    name = "fake"

    def __init__(self, config: Any, *, precision: str, threads: int) -> None:
        self.precision = precision
        self.threads = threads
        self._aspects = config.aspects
        self._levels = len(config.prior_levels)

    @classmethod
    def open(cls, bundle: Bundle, *, precision: str, threads: int) -> Self:
        """Read the bundle's configuration; no artifact is touched."""
        config = AcousticConfig.from_dict(bundle.config)
        return cls(config, precision=precision, threads=threads)

    def encode(self, mel: NDArray[np.float32], *, frames: bool = False) -> Encoded:
        """Return the frame count and the sum of the log-mel's frame means."""
        steps = (mel.shape[1] + 1) // 2
        pooled = np.array([steps, float(mel.mean()) * steps], dtype=np.float32)
        shape = (steps, _FRAME_WIDTH)
        return Encoded(pooled, np.zeros(shape, dtype=np.float32) if frames else None)

    def head(self, stats: NDArray[np.float32]) -> HeadOutput:
        """Squash the mean log-mel into every aspect's scale; the prior is uniform."""
        share = 1.0 / (1.0 + np.exp(-float(stats[1]) / max(float(stats[0]), 1.0)))
        scores = [a.scale_min + share * (a.scale_max - a.scale_min) for a in self._aspects]
        uniform = np.full(self._levels, 1.0 / self._levels, dtype=np.float32)
        return HeadOutput(np.array(scores, dtype=np.float32), uniform)
