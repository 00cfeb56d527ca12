"""Files that an ONNX graph reads besides itself."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import asa_engine as asa
from asa_engine.artifacts.onnx_graph import external_files
from asa_engine.bundle import Bundle, describe_artifacts
from asa_engine.errors import BundleError


def _varint(value: int) -> bytes:
    more = value >> 7
    return bytes([value & 0x7F | 0x80]) + _varint(more) if more else bytes([value])


def _field(number: int, content: bytes) -> bytes:
    """Return a length-delimited field, as protobuf's encoding has it."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _tensor(location: bytes) -> bytes:
    entry = _field(1, b"location") + _field(2, location)
    other = _field(1, b"offset") + _field(2, b"0")
    return b"\x10\x01" + _field(8, b"w") + _field(13, other) + _field(13, entry) + b"\x70\x01"


def _graph(tensor: bytes) -> bytes:
    return b"\x08\x0a" + _field(7, _field(2, b"g") + _field(5, tensor))


@pytest.mark.parametrize(
    "model",
    [
        _graph(_tensor(b"other.bin")),
        _field(7, _field(15, _field(1, _tensor(b"other.bin")))),
        _field(7, _field(1, _field(5, _field(5, _tensor(b"other.bin"))))),
        _field(7, _field(1, _field(5, _field(6, _field(5, _tensor(b"other.bin")))))),
        _field(25, _field(7, _field(5, _field(10, _tensor(b"other.bin"))))),
        _field(20, _field(1, _field(5, _tensor(b"other.bin")))),
    ],
    ids=["initializer", "sparse", "constant", "branch", "function", "training"],
)
def test_every_place_of_a_tensor_is_looked_at(tmp_path: Path, model: bytes) -> None:
    path = tmp_path / "graph.onnx"
    path.write_bytes(model)
    assert external_files(path) == {"other.bin"}


def test_what_is_no_graph_names_nothing(tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    deep = _field(5, _tensor(b"other.bin"))
    for _ in range(300):  # deeper than protobuf itself goes
        deep = _field(1, _field(5, _field(6, deep)))
    for content in (b"", b"\xff" * 40, bytes(range(256)) * 4, _field(7, deep), os.urandom(64)):
        path.write_bytes(content)
        assert external_files(path) == set()


def _bundle_with(folder: Path, location: bytes, *listed: str) -> None:
    """Make the bundle's encoder a graph that reads another file; list hashes of these."""
    (folder / "weights.bin").write_bytes(_graph(_tensor(location)))
    manifest = json.loads((folder / "asa.json").read_text())
    manifest["artifacts"] = {
        name: {"sha256": artifact.sha256, "bytes": artifact.size_bytes}
        for name, artifact in describe_artifacts(
            folder, ("config.json", "weights.bin", *listed)
        ).items()
    }
    (folder / "asa.json").write_text(json.dumps(manifest))


def test_a_bundle_lists_what_its_graphs_read(fake_bundle: Path) -> None:
    (fake_bundle / "other.bin").write_bytes(bytes(16))
    _bundle_with(fake_bundle, b"other.bin", "other.bin")
    assert "other.bin" in Bundle.open(fake_bundle).artifacts


@pytest.mark.parametrize("location", [b"other.bin", b"./other.bin", b"../x", b"/etc/passwd", b""])
def test_a_file_without_a_hash_is_not_read(fake_bundle: Path, location: bytes) -> None:
    (fake_bundle / "other.bin").write_bytes(bytes(16))
    _bundle_with(fake_bundle, location)
    with pytest.raises(BundleError, match="lists no hash"):
        asa.load(fake_bundle, backend="fake")


@pytest.mark.parametrize("size", ["Infinity", "NaN", "-1", "1e3", '"5"', "true", "9" * 5000])
def test_a_size_is_a_whole_number(fake_bundle: Path, size: str) -> None:
    manifest = json.loads((fake_bundle / "asa.json").read_text())
    manifest["artifacts"]["weights.bin"]["bytes"] = "SIZE"
    (fake_bundle / "asa.json").write_text(json.dumps(manifest).replace('"SIZE"', size))
    with pytest.raises(BundleError):
        Bundle.open(fake_bundle)
