"""Weights as a folder stores them, told from their headers: names, types, sizes; nothing is loaded.

Safetensors, in one file or in shards with an index, are checked whole: every shard is there, holds
what the index says of it, and is as long as its header says.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from asa_engine.errors import CheckpointError
from asa_engine.files import read_json

__all__ = ["INDEX_NAME", "SINGLE_NAME", "StoredTensor", "StoredWeights", "read_stored"]

SINGLE_NAME: Final = "model.safetensors"
INDEX_NAME: Final = "model.safetensors.index.json"
_MAX_HEADER_BYTES: Final = 100 * 2**20
_ITEM_BYTES: Final = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1,
    "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "U32": 4, "U64": 8,
}  # fmt: skip
_MOST_PARAMETERS_A_BYTE: Final = {".bin": 0.5, ".gguf": 8 / 4.5}
"""Whisper's CTranslate2 folders hold float16; GGUF's four-bit types take 4.5 bits and more."""


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """A folder's weights.

    Attributes:
        bytes: On disk.
        parameters: Numbers in them; at most so many, where the layout is not safetensors.
        tensors: Name -> tensor; empty where the layout is not safetensors.
    """

    bytes: int
    parameters: int
    tensors: Mapping[str, StoredTensor]


class StoredTensor(NamedTuple):
    """A tensor on disk.

    Attributes:
        file: Where it lies.
        kind: Its type as safetensors names it, such as `BF16`.
        shape: Its shape.
    """

    file: Path
    kind: str
    shape: tuple[int, ...]


def read_stored(folder: Path) -> StoredWeights:
    """Read the headers of a folder's weights.

    Raises:
        CheckpointError: There are none, a shard is missing, cut short or of another model, or a
            file is damaged.
    """
    if (folder / INDEX_NAME).is_file():
        files, tensors = _sharded(folder)
    elif (folder / SINGLE_NAME).is_file():
        files, tensors = {folder / SINGLE_NAME}, _header(folder / SINGLE_NAME)
    else:
        return _other(folder)
    count = sum(math.prod(tensor.shape) for tensor in tensors.values())
    return StoredWeights(sum(file.stat().st_size for file in files), count, tensors)


def _other(folder: Path) -> StoredWeights:
    for suffix, share in _MOST_PARAMETERS_A_BYTE.items():
        if found := sorted(folder.glob(f"*{suffix}")):
            size = found[0].stat().st_size
            return StoredWeights(size, round(size * share), {})
    raise CheckpointError(
        f"{folder} holds no weights that can be read",
        hint="safetensors, CTranslate2's model.bin and GGUF are read; pickled weights never are",
    )


def _sharded(folder: Path) -> tuple[set[Path], dict[str, StoredTensor]]:
    path = folder / INDEX_NAME
    table = read_json(path, CheckpointError).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CheckpointError(f"{path} has no weight_map", hint="fetch the model again")
    headers: dict[str, dict[str, StoredTensor]] = {}
    for name in sorted({str(file) for file in table.values()}):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{path} names {name!r}, which is no shard beside it")
        if not (folder / name).is_file():
            raise CheckpointError(
                f"the shard {name} of {folder} is missing", hint="fetch the model again"
            )
        headers[name] = _header(folder / name)
    tensors = {}
    for tensor, file in table.items():
        if tensor not in headers[str(file)]:
            raise CheckpointError(
                f"the shard {file} of {folder} lacks {tensor}: it is of another model",
                hint="fetch the model again",
            )
        tensors[tensor] = headers[str(file)][tensor]
    return {folder / name for name in headers}, tensors


def _header(path: Path) -> dict[str, StoredTensor]:
    """Return a file's tensors; its length must be what they take."""
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > _MAX_HEADER_BYTES:
                raise ValueError("its header is too large")
            table: dict[str, Any] = json.loads(file.read(size))
        table.pop("__metadata__", None)
        tensors, end = {}, 0
        for name, entry in table.items():
            shape = tuple(int(extent) for extent in entry["shape"])
            first, last = entry["data_offsets"]
            if last - first != math.prod(shape) * _ITEM_BYTES[entry["dtype"]]:
                raise ValueError(f"{name} is of another size than its shape")
            tensors[name] = StoredTensor(path, entry["dtype"], shape)
            end = max(end, last)
        if path.stat().st_size != 8 + size + end:
            raise ValueError("it is cut short, or longer than it says")
    except OSError as failure:
        raise CheckpointError(f"{path} cannot be read: {failure.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as failure:
        raise CheckpointError(
            f"{path} is damaged: {failure}", hint="fetch the model again"
        ) from None
    return tensors
