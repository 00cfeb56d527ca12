"""Where the keys and values of a sequence are kept: in the host's memory, or on a device.

On the host a buffer has the sequence's own capacity, and pages that are never written to take no
memory. On a device every buffer has room for all positions that the model has, so that a fork,
which shares a beginning, is one copy inside the device and nothing comes to the host.
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["KEPT_TYPES", "DeviceMemory", "HostMemory", "KeptType", "Memory"]


@dataclass(frozen=True, slots=True)
class KeptType:
    """A type of keys and values.

    Attributes:
        onnx: Its number in ONNX.
        numpy: How NumPy holds its bytes; bfloat16, which NumPy lacks, as uint16.
    """

    onnx: int
    numpy: type[np.generic]

    def narrow(self, values: NDArray[np.float32]) -> NDArray[Any]:
        """Round float32 to this type, to the nearest and to even."""
        if self.numpy is not np.uint16:
            return values.astype(self.numpy)
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)

    def widen(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Return the values as float32."""
        if self.numpy is not np.uint16:
            return values.astype(np.float32)
        return (values.astype(np.uint32) << 16).view(np.float32)


KEPT_TYPES: Final = {
    "tensor(float)": KeptType(1, np.float32),
    "tensor(float16)": KeptType(10, np.float16),
    "tensor(bfloat16)": KeptType(16, np.uint16),
}
"""ONNX Runtime's name of a type -> the type."""


class Memory(ABC):
    """Keys and values of one sequence, [1, heads, room, head_width] by name.

    Attributes:
        values: Name -> what ONNX Runtime binds, as input and as output.
    """

    values: dict[str, Any]

    @abstractmethod
    def write(self, name: str, values: NDArray[np.float32]) -> None:
        """Put in the first positions' values, [heads, n, head_width]."""

    @abstractmethod
    def read(self, name: str, length: int) -> NDArray[np.float32]:
        """Return the first positions' values, [heads, length, head_width]."""

    @abstractmethod
    def begin_like(self, other: Any, length: int) -> None:
        """Take the first positions of another memory of the same kind."""


class HostMemory(Memory):
    """Arrays that ONNX Runtime's CPU provider writes into.

    Args:
        kind: Their type.
        names: Their names.
        shape: Of each, [1, heads, capacity, head_width].
    """

    def __init__(self, kind: KeptType, names: Sequence[str], shape: tuple[int, ...]) -> None:
        self._kind = kind
        self._arrays: dict[str, NDArray[Any]] = {
            name: np.zeros(shape, kind.numpy) for name in names
        }
        self.values = {name: _shared(array, kind) for name, array in self._arrays.items()}

    def write(self, name: str, values: NDArray[np.float32]) -> None:
        """Put in the first positions' values."""
        self._arrays[name][0, :, : values.shape[1]] = self._kind.narrow(values)

    def read(self, name: str, length: int) -> NDArray[np.float32]:
        """Return a copy of the first positions' values."""
        return self._kind.widen(self._arrays[name][0, :, :length])

    def begin_like(self, other: HostMemory, length: int) -> None:
        """Copy the positions that are shared, and no more."""
        for name, array in other._arrays.items():
            self._arrays[name][:, :, :length] = array[:, :, :length]


class DeviceMemory(Memory):
    """Buffers on a device of ONNX Runtime.

    Args:
        kind: Their type.
        names: Their names.
        shape: Of each, [1, heads, positions, head_width]; the same for all sequences.
        device: Such as "cuda"; "cpu" runs the same code on the host.
    """

    def __init__(
        self, kind: KeptType, names: Sequence[str], shape: tuple[int, ...], device: str
    ) -> None:
        from onnxruntime import OrtValue

        self._kind = kind
        self._shape = shape
        self.values = {
            name: OrtValue.ortvalue_from_shape_and_type(shape, kind.onnx, device, 0)
            for name in names
        }

    def write(self, name: str, values: NDArray[np.float32]) -> None:
        """Copy the first positions' values to the device."""
        host = np.zeros(self._shape, self._kind.numpy)
        host[0, :, : values.shape[1]] = self._kind.narrow(values)
        _copy(_shared(host, self._kind), self.values[name], host.nbytes)

    def read(self, name: str, length: int) -> NDArray[np.float32]:
        """Copy the buffer to the host; return its first positions' values."""
        host = np.empty(self._shape, self._kind.numpy)
        _copy(self.values[name], _shared(host, self._kind), host.nbytes)
        return self._kind.widen(host[0, :, :length])

    def begin_like(self, other: DeviceMemory, length: int) -> None:
        """Copy the other's buffers inside the device; what lies behind `length` is never read."""
        size = int(np.prod(self._shape)) * np.dtype(self._kind.numpy).itemsize
        for name, value in other.values.items():
            _copy(value, self.values[name], size)


def _shared(array: NDArray[Any], kind: KeptType) -> Any:
    """Return the runtime's view of an array's own memory."""
    from onnxruntime import OrtValue

    return OrtValue.ortvalue_from_numpy_with_onnx_type(array, kind.onnx)


def _copy(source: Any, target: Any, size_bytes: int) -> None:
    """Copy one value's bytes to another's, wherever they are."""
    import onnxruntime

    if source.device_name() == target.device_name() == "cpu":
        ctypes.memmove(target.data_ptr(), source.data_ptr(), size_bytes)
    else:
        onnxruntime.copy_tensors([source], [target])
