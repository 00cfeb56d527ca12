"""The web package under node: the scores of the engine, and refusals as errors of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import soundfile
from libasa import ROOT

import asa_engine
from asa_engine.evaluation.drift import BUDGETS

DEMO = ROOT / "examples" / "audio" / "demo.flac"
PACKAGE = ROOT / "build" / "wasm" / "package"
SECONDS = 6
TEXT = "Last summer I went to the mountains with my family."

pytestmark = [
    pytest.mark.skipif(not (PACKAGE / "asa.wasm").is_file(), reason="not built: make wasm"),
    pytest.mark.skipif(shutil.which("node") is None, reason="node is not here"),
]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_page_scores_as_the_engine_does(
    grader_file: Path, tmp_path: Path, precision: str
) -> None:
    """WebAssembly runs the generic kernels: int8 rounds otherwise, within its budget."""
    samples, rate_hz = soundfile.read(DEMO, dtype="int16")
    samples = samples[: SECONDS * rate_hz]
    (tmp_path / "demo.raw").write_bytes(samples.tobytes())
    script = ROOT / "tests" / "node" / "asa_web.mjs"
    arguments = [PACKAGE / "index.js", grader_file, tmp_path / "demo.raw", precision]
    done = subprocess.run(["node", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["about"]["precision"] == precision
    assert said["about"]["threads"] == 1  # node says of no page that it is isolated
    engine = asa_engine.load("acoustic", backend="native", precision=precision, threads=1)
    expected = engine.assess((samples, rate_hz))
    found = said["result"]
    assert found["scores"].keys() == said["provisional"][-1]["scores"].keys()
    for name, score in expected.scores.items():
        most = 1e-3
        if precision == "int8":
            most = BUDGETS[precision].scaled(score.scale_max - score.scale_min).max
        assert found["scores"][name]["value"] == pytest.approx(score.value, abs=most)
    assert found["validity"]["reasons"] == list(expected.validity.reasons)
    assert found["receipt"]["audio_sha256"] == expected.receipt["audio_sha256"]


def test_a_page_judges_a_reading_as_the_engine_does(reading_file: Path, tmp_path: Path) -> None:
    """At int8, as the shipped weights are; the generic kernels round otherwise."""
    samples, rate_hz = soundfile.read(DEMO, dtype="int16")
    samples = samples[: SECONDS * rate_hz]
    (tmp_path / "demo.raw").write_bytes(samples.tobytes())
    script = ROOT / "tests" / "node" / "asa_web.mjs"
    arguments = [PACKAGE / "index.js", reading_file, tmp_path / "demo.raw", "int8", TEXT]
    done = subprocess.run(["node", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["result"]
    engine = asa_engine.load("pronunciation", backend="native", precision="int8", threads=1)
    expected = engine.assess((samples, rate_hz), text=TEXT).to_dict()
    budget = BUDGETS["int8"].scaled(10).max
    assert [word["text"] for word in found["words"]] == TEXT.removesuffix(".").split()
    assert len(found["words"]) == len(expected["words"])
    for name, score in expected["scores"].items():
        assert found["scores"][name]["value"] == pytest.approx(score["value"], abs=budget)


def test_the_package_is_of_this_version() -> None:
    package = json.loads((PACKAGE / "package.json").read_text())
    assert package["version"] == asa_engine.__version__
    assert all((PACKAGE / name).is_file() for name in package["files"])
