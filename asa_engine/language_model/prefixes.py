"""Prompt beginnings that were prefilled once and are shared between requests."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from asa_engine.language_model.decoder import Decoder, Sequence

__all__ = ["Prefixes"]


class Prefixes:
    """The most recently used beginnings of sequences, with their keys and values.

    Safe for any number of threads. Two that want the same new beginning at once both prefill it,
    and one is kept: nobody waits for another's prefill.

    Args:
        decoder: Where they run.
        most: How many are kept.
    """

    def __init__(self, decoder: Decoder, most: int = 4) -> None:
        self._decoder = decoder
        self._most = most
        self._kept: OrderedDict[bytes, Sequence] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def start(self, beginning: NDArray[np.float32], capacity: int) -> Sequence:
        """Return a sequence of its own that begins so.

        Args:
            beginning: Embeddings, float32 [P, W].
            capacity: Positions in all.

        Raises:
            UsageError: The capacity is more than the model's positions or the memory limit.
        """
        self._decoder.check(capacity)
        key = hashlib.sha256(np.ascontiguousarray(beginning).tobytes()).digest()
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
        if found is None:
            found = self._decoder.start(len(beginning))
            found.extend(beginning)
            with self._lock:
                self._kept[key] = found
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
        # A kept sequence is only ever read from.
        return found.fork(capacity)
