"""`asa-engine assess --ray` in a cluster of two nodes: the rows of one process, whatever dies."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import soundfile
from ray_cluster import RayCluster

DEMO = Path(__file__).parents[2] / "examples/audio/demo.flac"
LIMIT_S = 90.0  # a hang fails; nothing is measured
COUNT = 120
SCORER = "asa_engine.batch.worker"


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of pieces of real speech, one that is not there, and one that is no recording."""
    folder = tmp_path_factory.mktemp("answers")
    samples, rate_hz = soundfile.read(DEMO, dtype="int16")
    length = 3 * rate_hz
    for number in range(COUNT):
        start = number * 977 % (len(samples) - length)
        soundfile.write(folder / f"{number:03}.wav", samples[start : start + length], rate_hz)
    (folder / "005.wav").write_bytes(b"no sound")
    (folder / "009.wav").unlink()
    lines = ["audio,learner", *(f"{number:03}.wav,{number % 7}" for number in range(COUNT))]
    (folder / "class.csv").write_text("\n".join(lines))
    return folder / "class.csv"


def _command(manifest: Path, output: Path, *options: str) -> list[str]:
    command = [sys.executable, "-P", "-m", "asa_engine", "assess", str(manifest), *options]
    command += ["--bundle", "acoustic", "--backend", "native", "--precision", "int8"]
    return [*command, "--threads", "1", "-o", str(output)]


def _rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows less what a clock put there."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row.pop("timing", None)
    return rows


@pytest.fixture(scope="module")
def expected(answers: Path) -> list[dict[str, Any]]:
    """The rows of one process."""
    output = answers.parent / "one.jsonl"
    ended = subprocess.run(_command(answers, output), stderr=subprocess.DEVNULL, timeout=LIMIT_S)
    assert ended.returncode == 3  # two cannot be read
    return _rows(output)


def _begun(
    cluster: RayCluster, command: Sequence[str], output: Path, workers: int
) -> subprocess.Popen[bytes]:
    """Start a batch; return it once so many workers score and a row is there."""
    process = subprocess.Popen(command, env=cluster.environment, stderr=subprocess.DEVNULL)
    end = time.monotonic() + LIMIT_S
    while not (output.exists() and output.stat().st_size) or _scorers(cluster) < workers:
        assert process.poll() is None, "the batch ended too soon"
        assert time.monotonic() < end, "the batch did not begin"
        time.sleep(0.02)
    return process


def _scorers(cluster: RayCluster) -> int:
    return len(cluster.processes(SCORER))


def test_a_batch_that_was_killed_goes_on(
    cluster: RayCluster, answers: Path, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    output = tmp_path / "rows.jsonl"
    command = _command(answers, output, "--ray", "--resume")
    process = _begun(cluster, command, output, 1)
    process.kill()
    process.wait()
    begun = _rows(output)
    assert 0 < len(begun) < COUNT
    ended = subprocess.run(command, env=cluster.environment, capture_output=True, timeout=LIMIT_S)
    assert ended.returncode == 3, ended.stderr
    assert f"{len(begun)} of {COUNT} recordings are scored already" in ended.stderr.decode()
    assert _rows(output) == expected


def test_a_batch_outlives_a_node(
    cluster: RayCluster, answers: Path, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    output = tmp_path / "rows.jsonl"
    command = _command(answers, output, "--ray", "--workers", "2")
    process = _begun(cluster, command, output, 2)
    _, second = cluster.raylets()
    assert cluster.processes(SCORER, below=second)
    cluster.kill_second_node()
    assert len(_rows(output)) < COUNT
    assert process.wait(LIMIT_S) == 3
    assert _rows(output) == expected
    assert len(cluster.raylets()) == 1
