"""The tensors of a checkpoint: read with bounds, found by byte range, checked one by one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from asa_engine.errors import CheckpointError

__all__ = ["TensorEntry", "Weights"]

MAX_HEADER_BYTES = 8 * 2**20
_DTYPES = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4")}
_MEND = "train the grader again, or copy the checkpoint again"


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies in the file.

    Attributes:
        dtype: "F16" or "F32".
        shape: Its shape.
        offset: First byte, counted from the start of the file.
        size_bytes: Bytes it takes.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int


class Weights:
    """A `.safetensors` file whose header has been checked against the file's size.

    Args:
        path: The file.

    Raises:
        CheckpointError: It is missing, cut off, malformed, or holds types other than float16
            and float32.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                header_bytes = int.from_bytes(file.read(8), "little")
                if size < 8 or header_bytes > min(MAX_HEADER_BYTES, size - 8):
                    raise CheckpointError(
                        f"{path} is cut off or not a safetensors file", mend=_MEND
                    )
                header = json.loads(file.read(header_bytes))
            self._entries = {
                str(name): _entry(value, 8 + header_bytes)
                for name, value in header.items()
                if name != "__metadata__"
            }
        except OSError as failure:
            raise CheckpointError(
                f"{path} cannot be read: {failure.strerror}", mend=_MEND
            ) from None
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as failure:
            raise CheckpointError(f"{path} has a malformed header: {failure}", mend=_MEND) from None
        end = max((e.offset + e.size_bytes for e in self._entries.values()), default=0)
        if end > size:
            raise CheckpointError(
                f"{path} is cut off: {end} bytes are described, {size} are there", mend=_MEND
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors."""
        return tuple(self._entries)

    def entry(self, name: str) -> TensorEntry:
        """Return where a tensor lies.

        Raises:
            CheckpointError: There is no such tensor.
        """
        try:
            return self._entries[name]
        except KeyError:
            raise CheckpointError(f"{self.path} lacks the tensor {name}", mend=_MEND) from None

    def array(self, name: str) -> NDArray[np.float32]:
        """Return a tensor's values as float32."""
        entry = self.entry(name)
        stored = np.fromfile(
            self.path, _DTYPES[entry.dtype], count=math.prod(entry.shape), offset=entry.offset
        )
        return stored.reshape(entry.shape).astype(np.float32)

    def check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Check that the file holds exactly these tensors, all finite.

        Args:
            expected: Name -> shape.

        Raises:
            CheckpointError: A tensor is missing, unknown, misshapen, or holds NaN or infinity.
        """
        if missing := sorted(expected.keys() - self._entries.keys()):
            raise CheckpointError(f"{self.path} lacks {_some(missing)}", mend=_MEND)
        if unknown := sorted(self._entries.keys() - expected.keys()):
            raise CheckpointError(
                f"{self.path} holds tensors its config does not know: {_some(unknown)}", mend=_MEND
            )
        for name, shape in expected.items():
            if self._entries[name].shape != tuple(shape):
                raise CheckpointError(
                    f"{self.path}: {name} has shape {list(self._entries[name].shape)}, "
                    f"not {list(shape)}",
                    mend=_MEND,
                )
            if not np.isfinite(self.array(name)).all():
                raise CheckpointError(
                    f"{self.path}: {name} holds NaN or infinity",
                    mend="training went astray; use an earlier checkpoint",
                )


def _entry(value: Mapping[str, object], start: int) -> TensorEntry:
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if dtype not in _DTYPES:
        raise ValueError(f"type {dtype!r} is neither F16 nor F32")
    if not isinstance(shape, list) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(f"shape {shape!r}")
    begin, end = offsets  # type: ignore[misc]
    if not (isinstance(begin, int) and isinstance(end, int) and 0 <= begin <= end):
        raise ValueError(f"offsets {offsets!r}")
    size = math.prod(shape) * _DTYPES[str(dtype)].itemsize
    if end - begin != size:
        raise ValueError(f"{end - begin} bytes for a shape of {size} bytes")
    return TensorEntry(str(dtype), tuple(shape), start + begin, size)


def _some(names: list[str], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
