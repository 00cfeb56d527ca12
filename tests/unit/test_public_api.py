"""What users may import, and what running must not."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import asa_engine


def test_public_names_are_locked() -> None:
    names = """
        ArtifactError AsaError Assessment AudioError BackendError BundleError CheckpointError
        DriftError Embedding Engine ManifestError PartResult Prior Score Stream Timing
        UsageError Validity load
    """
    assert asa_engine.__all__ == names.split()
    for name in asa_engine.__all__:
        assert getattr(asa_engine, name).__name__ == name


def test_the_version_is_the_package_s() -> None:
    assert asa_engine.__version__ == metadata.version("asa-engine")


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = asa_engine.nothing


def test_running_needs_neither_torch_nor_transformers(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "import asa_engine.engine, asa_engine.evaluation.sessions, asa_engine.evaluation.evaluate\n"
        "from asa_engine.cli.main import build_parser; build_parser()\n"
        "unwanted = {'torch', 'transformers', 'onnx', 'safetensors', 'asa_export'}\n"
        "heavy = unwanted & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)


def test_an_error_carries_a_hint() -> None:
    error = asa_engine.AudioError("no  such\nfile", hint="check the path")
    assert str(error) == "no such file (check the path)"
    assert error.to_dict() == {
        "error": "AudioError",
        "message": "no such file",
        "hint": "check the path",
        "mend": "check the path",  # until the next minor version
        "exit_code": 3,
    }


def test_no_error_is_raised_with_the_old_word() -> None:
    root = Path(__file__).parents[2]
    folders = ("asa_engine", "export", "benchmarks", "tests")
    files = [path for folder in folders for path in (root / folder).rglob("*.py")]
    old = re.compile(r"\b(mend)=|\.(mend)\b")
    assert [str(path) for path in files if old.search(path.read_text("utf-8"))] == []
