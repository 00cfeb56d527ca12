"""Constants that a graph keeps beside itself: ONNX external data, written as they come.

Protobuf holds no more than 2 GiB, which the quantised weights of a model of some billion parameters
pass. Written at once, one tensor after another, they never stand in memory together.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

__all__ = ["ExternalData"]

_PAGE: Final = 4096  # so that the runtime can map a tensor
_LEAST_BYTES: Final = 1024


class ExternalData:
    """A file that constants of one graph go to.

    Args:
        path: The file, beside the graph; what stands there is replaced.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[tuple[str, tuple[int, ...], bytes], TensorProto] = {}
        path.write_bytes(b"")

    def takes(self, array: NDArray[Any]) -> bool:
        """Return whether a constant is large enough to be kept there."""
        return array.nbytes >= _LEAST_BYTES

    def add(self, array: NDArray[Any]) -> TensorProto:
        """Write a constant, unless an equal one is there; return what refers to it."""
        array = np.ascontiguousarray(array)
        digest = hashlib.sha256(array.data).digest()
        key = (array.dtype.str, array.shape, digest)
        if key not in self._known:
            with self._path.open("ab") as file:
                file.write(bytes(-file.tell() % _PAGE))
                offset = file.tell()
                file.write(array.data)
            tensor = TensorProto(
                name=f"external_{len(self._known)}",
                data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
                dims=array.shape,
                data_location=TensorProto.EXTERNAL,
            )
            for name, value in (
                ("location", self._path.name),
                ("offset", offset),
                ("length", array.nbytes),
            ):
                tensor.external_data.add(key=name, value=str(value))
            self._known[key] = tensor
        return self._known[key]
