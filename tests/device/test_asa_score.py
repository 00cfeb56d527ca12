"""asa-score, the example: as a program, on this CPU or on one that is emulated.

`ASA_SCORE` is the command then, `ASA_SCORE_ISA` the instruction set that it must have chosen.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from libasa import ROOT

import asa_engine
from asa_engine import kernels
from asa_engine.evaluation.drift import BUDGETS

DEMO = ROOT / "examples" / "audio" / "demo.flac"
SECONDS = 5
COMMAND = shlex.split(os.environ.get("ASA_SCORE", f"{ROOT}/build/libasa/bin/asa-score"))

pytestmark = pytest.mark.skipif(
    not Path(COMMAND[-1]).is_file(), reason=f"{COMMAND[-1]} is not built: make libasa"
)


def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, args)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audio") / "demo.wav"
    samples, rate_hz = soundfile.read(DEMO, dtype="int16")
    soundfile.write(path, samples[: SECONDS * rate_hz], rate_hz)
    return path


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_it_scores_as_the_engine_does(grader_file: Path, recording: Path, precision: str) -> None:
    """Other instruction sets round otherwise: scores stay within the precision's budget."""
    done = run("--precision", precision, grader_file, recording)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    engine = asa_engine.load("acoustic", backend="native", precision=precision, threads=1)
    expected = engine.assess(recording)
    assert found["scores"].keys() == expected.scores.keys()
    for name, score in expected.scores.items():
        budget = BUDGETS[precision].scaled(score.scale_max - score.scale_min)
        assert found["scores"][name]["value"] == pytest.approx(score.value, abs=budget.max)
    assert found["validity"]["reasons"] == []
    assert found["receipt"]["audio_sha256"] == expected.receipt["audio_sha256"]
    isa = os.environ.get("ASA_SCORE_ISA") or kernels.isa()
    assert found["receipt"]["kernel_isa"] == isa


def test_a_grader_with_four_gigabytes_behind_it_is_refused(
    grader_file: Path, recording: Path, tmp_path: Path
) -> None:
    """Where sizes have 32 bits, it must not be taken for the grader that it begins with."""
    path = tmp_path / "huge.asa"
    path.write_bytes(grader_file.read_bytes())
    os.truncate(path, path.stat().st_size + (1 << 32))
    done = run(path, recording)
    assert (done.returncode, done.stdout) == (1, "")
    assert "it has lost its end, or grown" in done.stderr or "File too large" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif("ASA_SCORE" in os.environ, reason="the same program, which emulation slows")
def test_chunks_and_threads_and_floats_change_nothing(
    grader_file: Path, recording: Path, tmp_path: Path
) -> None:
    samples, rate_hz = soundfile.read(recording, dtype="float32")
    soundfile.write(tmp_path / "float.wav", samples, rate_hz, subtype="FLOAT")
    ways = [
        (recording,),
        ("--chunk-ms", "7", recording),
        ("--chunk-ms", "60000", "--threads", "2", recording),
        (tmp_path / "float.wav",),
    ]
    found = [json.loads(run(*way[:-1], grader_file, way[-1]).stdout) for way in ways]
    assert all(one["scores"] == found[0]["scores"] != {} for one in found)
    live = run("--live", grader_file, recording)
    lines = [json.loads(line) for line in live.stderr.splitlines()]
    assert lines[0]["scores"] == {}
    assert lines[-1]["scores"].keys() == found[0]["scores"].keys()
    assert 4 < lines[-1]["audio_s"] < SECONDS


@pytest.mark.skipif("ASA_SCORE" in os.environ, reason="a decoder, which emulation slows")
def test_a_text_gives_words(grader_file: Path, reading_file: Path, recording: Path) -> None:
    text = "Last summer I went to the mountains with my family."
    done = run("--text", text, "--live", reading_file, recording)
    assert done.returncode == 0, done.stderr
    words = json.loads(done.stdout)["words"]
    engine = asa_engine.load("pronunciation", backend="native", precision="int8", threads=1)
    expected = engine.assess(recording, text=text).words
    assert [(w["text"], w["error"]) for w in words] == [(w.text, w.error) for w in expected]
    assert json.loads(done.stderr.splitlines()[-1])["words"]
    says = {
        "the text holds '5', which this library does not read": ("--text", "5 pm", reading_file),
        "open the stream with the text": (reading_file,),
        "open the stream without one": ("--text", text, grader_file),
    }
    for why, arguments in says.items():
        done = run(*arguments, recording)
        assert (done.returncode, done.stdout) == (1, "")
        assert why in done.stderr


@pytest.mark.skipif("ASA_SCORE" in os.environ, reason="the same program, which emulation slows")
def test_what_it_cannot_score_is_one_line(
    grader_file: Path, recording: Path, tmp_path: Path
) -> None:
    noise = np.zeros((4410, 2), np.float32)
    soundfile.write(tmp_path / "fast.wav", noise[:, 0], 44_100)
    soundfile.write(tmp_path / "stereo.wav", noise, 16_000)
    soundfile.write(tmp_path / "deep.wav", noise[:, 0], 16_000, subtype="PCM_24")
    soundfile.write(tmp_path / "empty.wav", noise[:0, 0], 16_000)
    (tmp_path / "cut.wav").write_bytes(recording.read_bytes()[:30])
    says = {
        "fast.wav": "16000 Hz with one channel",
        "stereo.wav": "16000 Hz with one channel",
        "deep.wav": "neither 16-bit integers nor 32-bit floats",
        "empty.wav": "0 samples",
        "cut.wav": "broken format",
        "missing.wav": "No such file",
    }
    for name, why in says.items():
        done = run(grader_file, tmp_path / name)
        assert (done.returncode, done.stdout) == (1, "")
        assert why in done.stderr
        assert done.stderr.count("\n") == 1
    done = run(recording, recording)
    assert done.returncode == 1
    assert f"{recording}: this is no grader file" in done.stderr
    assert run(grader_file).returncode == 2
    assert run("--chunk-ms", "0", grader_file, recording).returncode == 2
