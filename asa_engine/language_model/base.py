"""What a causal language model and a sequence of it are, whatever computes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from asa_engine.errors import UsageError
from asa_engine.language_model.limits import LIMIT_VARIABLE, key_value_limit

__all__ = ["MEMORY_LIMIT_BYTES", "CausalModel", "CausalSequence", "check_state"]

MEMORY_LIMIT_BYTES: Final = 0
"""What keys and values of one sequence may take; 0 leaves it to `key_value_limit`."""
_PARTS: Final = 2  # keys and values


class CausalSequence(Protocol):
    """One sequence: what was run through the model so far. Not for two threads at once.

    Attributes:
        capacity: Most positions.
        length: Positions so far.
    """

    @property
    def capacity(self) -> int:
        """Most positions."""

    @property
    def length(self) -> int:
        """Positions so far."""

    def extend(
        self, embeddings: NDArray[np.float32], wanted: int | None = None
    ) -> NDArray[np.float32]:
        """Run new positions; return hidden states.

        Args:
            embeddings: float32 [n, W].
            wanted: Of how many of the last positions they are wanted; by default of all.

        Returns:
            float32 [wanted, W], after the closing norm.

        Raises:
            ValueError: They are of another width, or do not fit what is left of the capacity.
        """

    def rewind(self, length: int) -> None:
        """Forget the positions from `length` on."""

    def state(self) -> NDArray[np.float32]:
        """Return keys, then values, of all positions, [2, layers, heads, length, head_width]."""

    def fork(self, capacity: int | None = None) -> CausalSequence:
        """Return a sequence of its own that begins like this one.

        Args:
            capacity: Its capacity; by default this one's.

        Raises:
            UsageError: As for `CausalModel.start`.
        """


class CausalModel(ABC):
    """A model that any number of sequences, in any threads, may be run through.

    Attributes:
        width: Width W of embeddings and hidden states.
        positions: Most positions of a sequence.
        layers: Number of layers.
        heads: Heads of keys and values.
        head_width: Width of one head.
        memory_limit_bytes: Most bytes of keys and values that a sequence may ask for.
    """

    width: int
    positions: int
    layers: int
    heads: int
    head_width: int
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES

    @property
    @abstractmethod
    def bytes_per_position(self) -> int:
        """Bytes that keys and values of one position take."""

    @abstractmethod
    def start(self, capacity: int) -> CausalSequence:
        """Return an empty sequence with room for `capacity` positions.

        Raises:
            UsageError: As for `check`; nothing was allocated.
        """

    @abstractmethod
    def resume(self, state: NDArray[np.float32]) -> CausalSequence:
        """Return a full sequence of which another model, of the same shape, gave the `state`.

        Args:
            state: Keys, then values, float32 [2, layers, heads, n, head_width].

        Raises:
            UsageError: As for `check`.
            ValueError: The state is of another shape.
        """

    def room(self, capacity: int) -> int:
        """Return the positions that memory is taken for, for so many that are asked for."""
        return capacity

    def check(self, capacity: int) -> None:
        """Check that a sequence of so many positions can be run.

        Raises:
            UsageError: It is longer than the model's positions or takes too much memory.
        """
        if capacity > self.positions:
            raise UsageError(
                f"a sequence of {capacity} tokens does not fit the language model's "
                f"{self.positions} positions",
                hint="shorten the prompt, the text or the audio",
            )
        limit = self.memory_limit_bytes or key_value_limit()
        if (needed := self.room(capacity) * self.bytes_per_position) > limit:
            raise UsageError(
                f"a sequence of {capacity} tokens takes {needed / 2**20:.0f} MiB of keys and "
                f"values; the limit is {limit / 2**20:.0f} MiB",
                hint=f"shorten the prompt, the text or the audio, or set {LIMIT_VARIABLE}",
            )


def check_state(model: CausalModel, state: NDArray[np.float32]) -> None:
    """Raise `ValueError` unless keys and values are those of a model of this shape."""
    shape = (_PARTS, model.layers, model.heads)
    if state.ndim != 5 or state.shape[:3] != shape or state.shape[4] != model.head_width:
        raise ValueError(f"a state of shape {list(state.shape)} is not this decoder's")
