"""ONNX Runtime is an extra: what is said without it, and what either of its packages gives."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from asa_engine.bundle import Bundle
from asa_engine.errors import BackendError
from asa_engine.runtimes import runtime
from asa_engine.runtimes.onnxruntime import session
from asa_engine.selection import choose

INSTALL = "pip install 'asa-engine[onnx]'"


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The packages that are not installed: onnxruntime, and what a test adds."""
    names = {"onnxruntime"}
    version = metadata.version

    def found(name: str) -> str:
        if name in names:
            raise metadata.PackageNotFoundError(name)
        return "1.31.1" if name == "onnxruntime-gpu" else version(name)

    monkeypatch.setattr(metadata, "version", found)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    return names


def test_a_bundle_that_needs_it_says_what_to_install(
    absent: set[str], fake_bundle: Path, tmp_path: Path
) -> None:
    absent.add("onnxruntime-gpu")
    for backend in ("auto", "onnxruntime"):
        with pytest.raises(BackendError) as failure:
            choose(Bundle.open(fake_bundle), backend)
        assert INSTALL in str(failure.value)
    with pytest.raises(BackendError, match=r"is a graph for ONNX Runtime") as failure:
        session(tmp_path / "encoder.onnx", 1)
    assert failure.value.hint == INSTALL


def test_the_package_for_gpus_runs_graphs_on_the_cpu_too(absent: set[str]) -> None:
    assert "onnxruntime" in absent
    found = runtime("onnxruntime").availability()
    assert found.usable
    assert found.versions == {"onnxruntime-gpu": "1.31.1"}


def test_the_shipped_graders_need_none(tmp_path: Path) -> None:
    """A recording, speech detection and all, where importing it fails."""
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('not here')\n", encoding="utf-8")
    demo = Path(__file__).parents[2] / "examples" / "audio" / "demo.flac"
    command = [sys.executable, "-m", "asa_engine", "assess", str(demo), "--threads", "1"]
    for text in ([], ["--text", "We call it bear."]):
        done = subprocess.run(
            [*command, *text, "--backend", "native"],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode in (0, 3), done.stderr
        assert "native int8" in done.stdout
