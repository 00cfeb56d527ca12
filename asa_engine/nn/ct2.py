"""Read weights out of CTranslate2's `model.bin` without CTranslate2 itself."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from asa_engine.errors import CheckpointError

__all__ = ["read_ct2_variables"]

SUPPORTED_FORMAT_VERSION = 6
MAX_FILE_BYTES = 8 << 30
MAX_RANK = 8

# Type ids as CTranslate2 numbers them. bfloat16 (5) has no NumPy type and no use here.
_DTYPES: dict[int, np.dtype] = {
    0: np.dtype("<f4"),
    1: np.dtype("i1"),
    2: np.dtype("<i2"),
    3: np.dtype("<i4"),
    4: np.dtype("<f2"),
}


class _Cursor:
    """Walk over a memory-mapped file; every read is bounded by the file's end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        size = path.stat().st_size
        if not 0 < size <= MAX_FILE_BYTES:
            raise CheckpointError(
                f"{path} holds {size} bytes, which no CTranslate2 model does",
                mend="fetch the model again",
            )
        self.bytes = np.memmap(path, dtype=np.uint8, mode="r")
        self.at = 0

    def take(self, count: int) -> npt.NDArray[np.uint8]:
        if count > self.bytes.size - self.at:
            raise CheckpointError(
                f"{self.path} ends early: {count} bytes wanted at offset {self.at}",
                mend="the file is cut off or is not a CTranslate2 model; fetch it again",
            )
        self.at += count
        return self.bytes[self.at - count : self.at]

    def number(self, fmt: str) -> int:
        return int(struct.unpack("<" + fmt, self.take(struct.calcsize("<" + fmt)).tobytes())[0])

    def string(self) -> str:
        raw = self.take(self.number("H")).tobytes().rstrip(b"\0")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise CheckpointError(
                f"{self.path} holds a name that is not UTF-8 at offset {self.at}",
                mend="the file is damaged or is not a CTranslate2 model; fetch it again",
            ) from None


def read_ct2_variables(
    path: str | Path, prefix: str = ""
) -> tuple[str, dict[str, npt.NDArray[np.generic]]]:
    """Read the variables of a CTranslate2 `model.bin`.

    The layout is: u32 format version, string spec name, u32 spec revision, u32 count, then per
    variable a name, u8 rank, u32 dimensions, u8 type id, u32 byte count and the bytes
    (CTranslate2, `python/ctranslate2/specs/model_spec.py`). Aliases that follow are not read.

    Args:
        path: The file.
        prefix: Only variables whose name starts with it are returned.

    Returns:
        The spec name (such as `WhisperSpec`) and the variables by name; arrays are read-only
        views of the mapped file.

    Raises:
        CheckpointError: The file is missing, cut off, or not in format version 6.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no CTranslate2 model at {path}", mend="check the path")
    cursor = _Cursor(path)
    version = cursor.number("I")
    if version != SUPPORTED_FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has CTranslate2 format version {version}, "
            f"only {SUPPORTED_FORMAT_VERSION} is read",
            mend="convert the model with CTranslate2 3 or 4",
        )
    spec = cursor.string()
    cursor.number("I")
    variables: dict[str, npt.NDArray[np.generic]] = {}
    for _ in range(cursor.number("I")):
        name = cursor.string()
        rank = cursor.number("B")
        if rank > MAX_RANK:
            raise CheckpointError(
                f"{path}: {name!r} claims {rank} dimensions",
                mend="the file is damaged; fetch it again",
            )
        shape = tuple(cursor.number("I") for _ in range(rank))
        type_id = cursor.number("B")
        raw = cursor.take(cursor.number("I"))
        if not name.startswith(prefix):
            continue
        dtype = _DTYPES.get(type_id)
        if dtype is None:
            raise CheckpointError(
                f"{path}: {name!r} has type id {type_id}, which is not read",
                mend="convert the model with float16 or float32 weights",
            )
        if raw.size != dtype.itemsize * int(np.prod(shape, dtype=object)):
            raise CheckpointError(
                f"{path}: {name!r} has {raw.size} bytes, its shape is {shape}",
                mend="the file is damaged; fetch it again",
            )
        variables[name] = raw.view(dtype).reshape(shape)
    return spec, variables
