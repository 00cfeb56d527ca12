"""`asa-engine export --target device`: what it writes and what it refuses."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from asa_engine.artifacts.safetensors import Tensors
from asa_engine.bundle import WEIGHTS_NAME, Bundle
from asa_engine.cli.main import main
from asa_export.device import laid_out


def run(*args: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    try:
        code = main(["export", *args])
    except SystemExit as stop:
        code = int(stop.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


def test_one_file_with_its_hash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "grader.asa"
    code, out, _ = run("acoustic", "-o", str(path), "--target", "device", "--json", capsys=capsys)
    assert code == 0
    report = json.loads(out)
    data = path.read_bytes()
    assert (report["grader"], report["name"]) == ("acoustic", "acoustic")
    assert report["bytes"] == len(data) < 24_000_000
    assert report["sha256"] == hashlib.sha256(data).hexdigest()
    assert data[:8] == b"ASADEV\r\n"
    assert int.from_bytes(data[16:24], "little") == len(data)
    assert data[32:64] == hashlib.sha256(data[64:]).digest()
    # Weights are kept as they are, to the bit: float16 and float32 without what all have alike.
    tensors = Tensors(Bundle.open("acoustic").path / WEIGHTS_NAME)
    for name, kind, left_out, alike in (
        ("encoder.layers.3.fc2.weight", 4, [14], 0),
        ("kernel_projection", 4, [14], 0),
        ("kernel_centres", 5, [28, 29, 30], 0b011),
    ):
        at = data.index(name.encode() + bytes([kind, 0, 0, 0])) + len(name)
        start, count = (int.from_bytes(data[at + i : at + i + 8], "little") for i in (4, 12))
        assert start % 64 == 0
        wide = {4: "<u2", 5: "<u4"}[kind]
        kept = [bit for bit in range(8 * np.dtype(wide).itemsize) if bit not in left_out]
        packed = np.frombuffer(data, np.uint8, -(-count * len(kept) // 8), start)
        bits = np.unpackbits(packed, bitorder="little")[: count * len(kept)].astype(np.uint32)
        words = bits.reshape(count, len(kept)) @ (np.uint32(1) << np.array(kept, np.uint32))
        is_zero = words & ((1 << kept[-1]) - 1) == 0
        words += np.where(is_zero, 0, alike << left_out[0]).astype(np.uint32)
        stored = words.astype(wide).view(wide.replace("u", "f")).astype(np.float32)
        expected = tensors.read(name, tensors.shape(name)).ravel()
        assert stored.tobytes() == expected.tobytes(), name


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0.5, -0.0, 0.0, -1.75, 2**-24], 4),
        ([2.0, 0.5, 0.25], 1),  # not below 2
        ([1 / 3, -0.0, -(2**-30), 1.9999999], 5),
        ([1 / 3, 2**-31], 0),  # would be taken for 0
        ([1 / 3, 2.0], 0),
        ([1 / 3, 1e-30], 0),
    ],
)
def test_numbers_take_fewer_bits_only_where_nothing_is_lost(values: list[float], kind: int) -> None:
    numbers = np.array(values, np.float32)
    found = laid_out(b"", {"numbers": numbers})
    at = found.index(b"numbers") + len(b"numbers")
    start = int.from_bytes(found[at + 4 : at + 12], "little")
    bits = {0: 32, 1: 16, 4: 15, 5: 29}[kind]
    assert found[at] == kind
    assert len(found) - start == -(-len(values) * bits // 8)


def test_the_default_is_the_grader_of_readings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "reading.asa"
    code, out, _ = run("default", "-o", str(path), "--target", "device", "--json", capsys=capsys)
    assert code == 0
    report = json.loads(out)
    assert report["grader"] == "pronunciation"
    assert report["bytes"] == path.stat().st_size < 50_000_000
    # Matrices stay in 8 bits; speech without a text has no judge here.
    data = path.read_bytes()
    name = b"decoder.embeddings/weight"
    at = data.index(name + b"\x02\0\0\0") + len(name)
    start, count = (int.from_bytes(data[at + i : at + i + 8], "little") for i in (4, 12))
    tensors = Tensors(Bundle.open("pronunciation").path / WEIGHTS_NAME)
    shape = tensors.shape(name.decode())
    stored = np.frombuffer(data, np.int8, count, start)
    np.testing.assert_array_equal(stored, tensors.read(name.decode(), shape).ravel())
    assert b"free.input.weight" not in data


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        ("acoustic", ("--target", "device,onnx"), "makes one file"),
        ("acoustic", ("--target", "device", "--precision", "int8,fp32"), "makes one file"),
        ("acoustic", ("--target", "device", "--precision", "int4"), "no native variant at int4"),
        ("acoustic", ("--target", "device", "--limit", "3"), "takes --precision, --name"),
        ("tests/data/bundles/speech-llm", ("--target", "device"), "does not run the speech"),
    ],
)
def test_what_cannot_be_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    source: str,
    options: tuple[str, ...],
    says: str,
) -> None:
    path = tmp_path / "grader.asa"
    code, _, err = run(source, "-o", str(path), *options, capsys=capsys)
    assert code != 0
    assert says in err
    assert not path.exists()


def test_a_file_is_replaced_by_force_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "grader.asa"
    path.write_bytes(b"mine")
    options = ("acoustic", "-o", str(path), "--target", "device")
    code, _, err = run(*options, capsys=capsys)
    assert code != 0
    assert "exists already" in err
    assert path.read_bytes() == b"mine"
    assert run(*options, "--force", capsys=capsys)[0] == 0
    assert path.stat().st_size > 1_000_000
