"""A language model that thinks at random, for tests of what is written along a script."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class RandomModel:
    """Logits of unit variance over a vocabulary, another draw at every step."""

    def __init__(self, seed: int, size: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._size = size

    def extend(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        return embeddings

    def embed(self, ids: tuple[int, ...]) -> NDArray[np.float32]:
        return np.zeros((len(ids), 1), np.float32)

    def some(self, hidden: NDArray[np.float32], ids: tuple[int, ...]) -> NDArray[np.float32]:
        return self._rng.normal(0, 1, len(ids)).astype(np.float32)

    def all(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._rng.normal(0, 1, self._size).astype(np.float32)
