"""Graders that other packages bring: found by their entry points, no file of ours touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "tests" / "plugins"
DEMO = ROOT / "examples" / "audio" / "demo.flac"


def _asa(*arguments: str | Path, installed: str) -> subprocess.CompletedProcess[str]:
    """Run the command line with plug-in packages installed: their folders are on the path."""
    folders = [str(PLUGINS / name) for name in installed.split(",")]
    path = os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "asa_engine", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_grader_of_another_package_trains_exports_and_scores(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("torch")
    recipe = tmp_path / "toy.toml"
    recipe.write_text('grader = "toy"\noffset = 2.5\n')
    trained = _asa("train", recipe, "-o", tmp_path / "checkpoint", installed="toy")
    assert trained.returncode == 0, trained.stderr
    exported = _asa(
        "export", tmp_path / "checkpoint", "-o", tmp_path / "bundle", "--target", "native",
        installed="toy",
    )  # fmt: skip
    assert exported.returncode == 0, exported.stderr
    assessed = _asa("assess", DEMO, "--bundle", tmp_path / "bundle", "--json", installed="toy")
    assert assessed.returncode == 0, assessed.stderr
    result = json.loads(assessed.stdout)
    assert result["grader"] == "toy"
    assert 2.5 < result["scores"]["loudness"]["value"] < 10.0
    assert result["receipt"]["versions"]["toy"] == "1.0"


def test_its_bundle_is_refused_in_one_line_without_the_package(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"grader": "toy", "format_revision": 1, "aspects": [{"name": "loudness"}]})
    )
    (tmp_path / "weights.safetensors").write_bytes(b"never read")
    refused = _asa("assess", DEMO, "--bundle", tmp_path, installed="broken")
    assert refused.returncode == 4
    assert "no grader 'toy'" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_package_that_cannot_be_imported_is_named_and_stops_no_other() -> None:
    doctor = _asa("doctor", "--json", installed="toy,broken")
    graders = json.loads(doctor.stdout)["graders"]
    assert doctor.returncode == 0
    assert graders["toy"]["usable"]
    assert not graders["broken"]["usable"]
    assert "broken-grader" in graders["broken"]["reason"]
    assert "a library of mine is missing" in graders["broken"]["reason"]


def test_a_name_of_ours_is_never_replaced() -> None:
    listed = _asa("graders", "--json", installed="broken")
    assert listed.returncode == 0
    names = [grader["name"] for grader in json.loads(listed.stdout)]
    assert names[0] == "acoustic"
    assert "broken" not in names
    assert "a library of mine is missing" in listed.stderr
