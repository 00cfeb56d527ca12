"""Which other files an ONNX graph reads.

A graph may keep tensors as external data: in files beside it, which it names itself. This walks the
protobuf wire format (https://protobuf.dev/programming-guides/encoding) through every message that
may hold such a tensor; field numbers are those of onnx.proto (ONNX 1.17, IR version 10).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

__all__ = ["FIELDS", "external_files"]

MAX_DEPTH: Final = 100  # protobuf's own limit

FIELDS: Final[dict[str, dict[int, str]]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "StringStringEntryProto"},
}
"""Message -> number of a field -> the message in it, where that may lead to external data."""

_KEY, _VALUE = 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_Bytes: TypeAlias = "memoryview[int]"


def external_files(path: Path) -> set[str]:
    """Return the names of files that a graph keeps tensors in, as it gives them.

    What is no protobuf message names none, and no runtime loads it.

    Args:
        path: The graph.
    """
    found: set[str] = set()
    if not path.stat().st_size:
        return found
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as data,
    ):
        _walk(data, "ModelProto", found, 0)
    return found


def _walk(data: _Bytes, message: str, found: set[str], depth: int) -> None:
    if depth > MAX_DEPTH:
        return
    kinds = FIELDS[message]
    for number, value in _fields(data):
        with value:
            kind = kinds.get(number)
            if kind == "StringStringEntryProto":
                entry = {number: bytes(text) for number, text in _fields(value)}
                if entry.get(_KEY) == b"location":
                    found.add(entry.get(_VALUE, b"").decode("utf-8", "replace"))
            elif kind is not None:
                _walk(value, kind, found, depth + 1)


def _fields(data: _Bytes) -> Iterator[tuple[int, _Bytes]]:
    """Yield the number and content of every length-delimited field; stop at what is malformed."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        if at < 0:
            return
        wire_type = tag & 7
        if wire_type == _VARINT:
            _, at = _varint(data, at)
            if at < 0:
                return
        elif wire_type == _FIXED64:
            at += 8
        elif wire_type == _FIXED32:
            at += 4
        elif wire_type == _BYTES:
            size, at = _varint(data, at)
            if at < 0 or at + size > end:
                return
            yield tag >> 3, data[at : at + size]
            at += size
        else:
            return


def _varint(data: _Bytes, at: int) -> tuple[int, int]:
    """Return a number and where it ends; -1 where it does not."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    return 0, -1
