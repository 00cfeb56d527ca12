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
    assert report["bytes"] == len(data) < 26_000_000
    assert report["sha256"] == hashlib.sha256(data).hexdigest()
    assert data[:8] == b"ASADEV\r\n"
    assert int.from_bytes(data[16:24], "little") == len(data)
    assert data[32:64] == hashlib.sha256(data[64:]).digest()
    # Weights are kept as they are: this one is in float16.
    bundle = Bundle.open("acoustic")
    name = "encoder.layers.3.fc2.weight"
    at = data.index(name.encode()) + len(name)
    kind = int.from_bytes(data[at : at + 4], "little")
    start, count = (int.from_bytes(data[at + i : at + i + 8], "little") for i in (4, 12))
    assert (kind, start % 64) == (1, 0)
    stored = np.frombuffer(data, "<f2", count, start).astype(np.float32)
    tensors = Tensors(bundle.path / WEIGHTS_NAME)
    np.testing.assert_array_equal(stored, tensors.read(name, tensors.shape(name)).ravel())


def test_the_default_is_the_grader_of_readings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "reading.asa"
    code, out, _ = run("default", "-o", str(path), "--target", "device", "--json", capsys=capsys)
    assert code == 0
    report = json.loads(out)
    assert report["grader"] == "pronunciation"
    assert report["bytes"] == path.stat().st_size <= 52_000_000
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
