"""A strict reader of safetensors files: no pickle, every number checked before it is used.

Format: u64 little-endian length of a JSON header, the header (tensor name -> dtype, shape and
[begin, end) offsets), then the tensors' bytes, end to end.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asa_engine.errors import CheckpointError

__all__ = ["Tensors"]

_MAX_HEADER_BYTES = 100_000_000
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1}
_NUMPY = {"F32": "<f4", "F16": "<f2", "I8": "i1"}
_MEND = "the file is damaged or is not a safetensors file; fetch or export it again"


class Tensors:
    """The tensors of one file, memory-mapped; each is converted to float32 when asked for.

    Args:
        path: A `.safetensors` file.

    Attributes:
        metadata: What the file says beside its tensors; whoever reads it must check it.

    Raises:
        CheckpointError: It is missing, cut off or malformed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._entries: dict[str, tuple[str, tuple[int, ...], int]] = {}
        try:
            with self.path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._bytes = np.frombuffer(self._map, np.uint8)
        except (OSError, ValueError) as error:
            raise self._bad(f"cannot be read: {error}") from None
        if self._bytes.size < 8:
            raise self._bad("is cut off")
        (length,) = struct.unpack("<Q", self._bytes[:8].tobytes())
        if length > min(_MAX_HEADER_BYTES, self._bytes.size - 8):
            raise self._bad("has a header longer than itself")
        try:
            header = json.loads(self._bytes[8 : 8 + length].tobytes())
        except (ValueError, RecursionError):
            raise self._bad("has a header that is not JSON") from None
        if not isinstance(header, dict):
            raise self._bad("has a header that is not an object")
        self.metadata = _texts(header.get("__metadata__"))
        self._start = 8 + length
        end = 0
        entries = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
        for name, entry in sorted(entries, key=lambda item: _begin(item[1])):
            end = self._add(name, entry, end)
        if end != self._bytes.size - self._start:
            raise self._bad("holds more or fewer bytes than its tensors need")

    def _bad(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path} {what}", hint=_MEND)

    def _add(self, name: str, entry: Any, begin: int) -> int:
        """Check one header entry, which must begin where the last one ended; return its end."""
        try:
            dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
            sizes = [*shape, *offsets]
        except (KeyError, TypeError):
            raise self._bad(f"has a malformed header entry for {name!r}") from None
        if any(type(size) is not int or size < 0 for size in sizes) or len(offsets) != 2:
            raise self._bad(f"has a malformed header entry for {name!r}")
        if dtype not in _ITEM_BYTES:
            raise self._bad(f"holds {name!r} as {dtype!r}, which is none of F32, F16, BF16 and I8")
        if offsets != [begin, begin + math.prod(shape) * _ITEM_BYTES[dtype]]:
            raise self._bad(f"has offsets that do not fit for {name!r}")
        self._entries[name] = (dtype, tuple(shape), begin)
        return int(offsets[1])

    def names(self) -> list[str]:
        """Return the names of all tensors."""
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._entries[name][1]

    def dtype(self, name: str) -> str:
        """Return how a tensor is stored: "F32", "F16", "BF16" or "I8"."""
        return self._entries[name][0]

    def expect(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise unless there is a tensor of that name and shape.

        Raises:
            CheckpointError: It is missing or of another shape.
        """
        if name not in self._entries:
            raise CheckpointError(f"{self.path} lacks {name}", hint=_MEND)
        stated = self._entries[name][1]
        if stated != shape:
            raise CheckpointError(
                f"{self.path}: {name} is {list(stated)}, not {list(shape)}",
                hint="weights and configuration are not of one model",
            )

    def read(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return a tensor as float32.

        Args:
            name: Its name.
            shape: The shape it must have.

        Raises:
            CheckpointError: It is missing, of another shape, or holds NaN or infinity.
        """
        return self.rows(name, shape, 0, shape[0] if shape else 1).reshape(shape)

    def rows(self, name: str, shape: tuple[int, ...], first: int, end: int) -> NDArray[np.float32]:
        """Return some rows of a tensor as float32, [end - first, ...].

        Args:
            name: Its name.
            shape: The shape that all of it must have.
            first: The first row.
            end: The row after the last.

        Raises:
            CheckpointError: It is missing, of another shape, or these rows hold NaN or infinity.
        """
        self.expect(name, shape)
        dtype, _, begin = self._entries[name]
        row_bytes = math.prod(shape[1:]) * _ITEM_BYTES[dtype]
        at = self._start + begin + first * row_bytes
        raw = self._bytes[at : at + (end - first) * row_bytes]
        if dtype == "BF16":
            wide = raw.view("<u2").astype(np.uint32)
            wide <<= 16
            values = wide.view(np.float32)
        else:
            values = raw.view(_NUMPY[dtype]).astype(np.float32)
        self._forget(at, raw.size)
        if not np.isfinite(values).all():
            raise CheckpointError(f"{self.path}: {name} holds NaN or infinity", hint=_MEND)
        return values.reshape(end - first, *shape[1:])

    def steps(self, name: str, shape: tuple[int, ...]) -> NDArray[np.int8]:
        """Return a tensor of whole numbers of 8 bits.

        Raises:
            CheckpointError: It is missing, of another shape, or of another kind of number.
        """
        self.expect(name, shape)
        dtype, _, begin = self._entries[name]
        if dtype != "I8":
            raise self._bad(f"holds {name!r} as {dtype!r} and not as I8")
        at = self._start + begin
        values = self._bytes[at : at + math.prod(shape)].view(np.int8).reshape(shape).copy()
        self._forget(at, values.size)
        return values

    def _forget(self, at: int, size: int) -> None:
        """Give back the pages a tensor was read from: each is read once, all would stay."""
        if size and hasattr(mmap, "MADV_DONTNEED"):
            begin = at - at % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_DONTNEED, begin, at + size - begin)


def _texts(value: Any) -> dict[str, str]:
    """Return metadata; empty if they are none."""
    if not isinstance(value, dict):
        return {}
    return {key: text for key, text in value.items() if isinstance(text, str)}


def _begin(entry: Any) -> int:
    """Return where a header entry says it begins, to sort by; malformed ones are refused later."""
    try:
        begin = entry["data_offsets"][0]
    except (KeyError, TypeError, IndexError):
        return -1
    return begin if type(begin) is int else -1
