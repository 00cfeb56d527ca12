"""The tensors of a checkpoint: their values, their place in the file, and what must be there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from asa_engine.artifacts.safetensors import Tensors
from asa_engine.errors import CheckpointError

__all__ = ["Place", "TensorSource", "Weights"]

_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


class Place(NamedTuple):
    """Where one tensor lies in the file.

    Attributes:
        dtype: "F32", "F16" or "BF16".
        shape: Its shape.
        offset: First byte, counted from the start of the file.
        size_bytes: Bytes it takes.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int


class TensorSource(Protocol):
    """Where a graph's tensors come from: `Weights`, or what is read and merged when asked for."""

    @property
    def path(self) -> Path:
        """Where they are."""

    def names(self) -> list[str]:
        """Return the names of all tensors."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""

    def place(self, name: str) -> Place:
        """Return where a tensor lies in the file at `path`.

        Raises:
            CheckpointError: There is no such tensor, or it lies in no file.
        """

    def array(self, name: str) -> NDArray[np.float32]:
        """Return a tensor as float32."""


class Weights(Tensors):
    """A `.safetensors` file, with the places of its tensors."""

    def place(self, name: str) -> Place:
        """Return where a tensor lies.

        Raises:
            CheckpointError: There is no such tensor.
        """
        if name not in self._entries:
            raise self._bad(f"lacks {name}")
        dtype, shape, begin = self._entries[name]
        return Place(dtype, shape, self._start + begin, math.prod(shape) * _ITEM_BYTES[dtype])

    def array(self, name: str) -> NDArray[np.float32]:
        """Return a tensor as float32, of whatever shape it has.

        Raises:
            CheckpointError: There is no such tensor, or it holds NaN or infinity.
        """
        return self.read(name, self.place(name).shape)

    def everything(self) -> dict[str, NDArray[np.float32]]:
        """Return all tensors as float32, by name."""
        return {name: self.array(name) for name in self.names()}

    def check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Check that the file holds exactly these tensors, all finite.

        Args:
            expected: Name -> shape.

        Raises:
            CheckpointError: A tensor is missing, unknown, of another shape, or not finite.
        """
        if unknown := sorted(set(self.names()) - expected.keys()):
            raise CheckpointError(
                f"{self.path} has unknown {', '.join(unknown[:3])}",
                hint="weights and configuration are not of one model",
            )
        for name, shape in expected.items():
            self.read(name, tuple(shape))
