"""Batches in several processes: the rows of one, whatever is killed on the way."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import soundfile
from audio_samples import RATE_HZ, silence, speech

from asa_engine.batch.processes import score_in_processes
from asa_engine.batch.recordings import Recording, read_recordings
from asa_engine.errors import AsaError

LIMIT_S = 120


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of recordings and a manifest that names all of them, a missing one and twice one."""
    folder = tmp_path_factory.mktemp("answers")
    names = [f"{number:02}.wav" for number in range(24)]
    for number, name in enumerate(names):
        samples = silence(1.0) if number % 7 == 3 else speech(1.5 + number % 3, seed=number)
        soundfile.write(folder / name, samples, RATE_HZ)
    (folder / "05.wav").write_bytes(b"no sound")
    lines = [f"{name},learner {i % 5},{i // 8 + 1}" for i, name in enumerate(names)]
    lines[9:9] = ["gone.wav,learner 1,1", "00.wav,learner 2,1"]
    (folder / "class.csv").write_text("\n".join(["audio,learner,session", *lines]))
    (folder / "long.csv").write_text("\n".join(["audio", *names * 100]))
    return folder


def _command(
    answers: Path, bundle: Path, target: Path, *options: str, manifest: str = "class.csv"
) -> list[str]:
    # -P: the package as it is installed or checked out for the tests, not the current folder's.
    return [
        *(sys.executable, "-P", "-m", "asa_engine", "assess", str(answers / manifest)),
        *("--bundle", str(bundle), "--backend", "fake", "-o", str(target), *options),
    ]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows less what a clock and the number of threads put there."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row.pop("timing", None)
        for name in ("threads", "threads_chosen"):
            row.get("receipt", {}).pop(name, None)
    return rows


def _run(command: list[str]) -> int:
    done = subprocess.run(
        command, env=_environment(), capture_output=True, text=True, timeout=LIMIT_S
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text().split()] if found.exists() else []


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_killed_and_resumed_is_the_same_as_never_killed(
    answers: Path, fake_bundle: Path, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    assert _run(_command(answers, fake_bundle, whole)) == 3
    expected = _rows(whole)
    assert len(expected) == 26
    assert [row["audio"] for row in expected if "error" in row] == ["05.wav", "gone.wav"]

    command = _command(answers, fake_bundle, parts, "--resume", "--workers", "2")
    chance, kills = random.Random(762), 0
    for _ in range(12):  # each time after some more bytes, at any moment then
        if kills == 2:
            break
        child = subprocess.Popen(
            command, env=_environment(), stderr=subprocess.DEVNULL, start_new_session=True
        )
        before = parts.stat().st_size if parts.exists() else 0
        wanted = before + chance.randrange(1, whole.stat().st_size // 4)
        end = time.monotonic() + LIMIT_S
        while child.poll() is None and time.monotonic() < end:
            if parts.exists() and parts.stat().st_size >= wanted:
                break
            time.sleep(0.001)
        time.sleep(chance.uniform(0.0, 0.02))
        if child.poll() is None:
            kills += 1
        else:  # it was faster than this process: from the beginning
            parts.unlink(missing_ok=True)
        child.kill()
        child.wait()
    assert kills
    assert _run(command) == 3
    assert _rows(parts) == expected


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's list of processes")
def test_workers_end_when_the_batch_is_killed(
    answers: Path, fake_bundle: Path, tmp_path: Path
) -> None:
    target = tmp_path / "results.jsonl"
    command = _command(answers, fake_bundle, target, "--workers", "2", manifest="long.csv")
    batch = subprocess.Popen(command, env=_environment(), stderr=subprocess.DEVNULL)
    try:
        workers = _wait_for(lambda: target.exists() and target.stat().st_size, batch)
    finally:
        batch.kill()
        batch.wait()
    assert len(workers) == 2
    end = time.monotonic() + LIMIT_S
    while any(_is_alive(worker) for worker in workers):
        assert time.monotonic() < end, "a worker outlives its batch"
        time.sleep(0.05)


def _wait_for(ready: Any, batch: subprocess.Popen[bytes]) -> list[int]:
    """Return the workers of a batch once something is so."""
    end = time.monotonic() + LIMIT_S
    while not ready():
        assert batch.poll() is None, "it is over already"
        assert time.monotonic() < end
        time.sleep(0.001)
    return _children(batch.pid)


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _options(bundle: Path) -> dict[str, Any]:
    return {"bundle": str(bundle), "backend": "fake", "precision": "fp32", "threads": 1}


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's list of processes")
def test_a_worker_that_dies_is_replaced_and_its_recording_scored(
    answers: Path, fake_bundle: Path
) -> None:
    recordings = read_recordings([answers / "class.csv"])
    before = set(_children(os.getpid()))
    rows = score_in_processes(recordings, _options(fake_bundle), (), workers=2)
    found = [next(rows)]
    killed = sorted(set(_children(os.getpid())) - before)
    for worker in killed:
        os.kill(worker, signal.SIGKILL)
    found.extend(rows)
    assert len(killed) == 2
    assert [row.recording for row in found] == recordings
    assert [row.recording.name for row in found if row.error] == ["05.wav", "gone.wav"]
    assert not set(_children(os.getpid())) - before


def test_a_recording_that_kills_every_worker_has_an_error(
    answers: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Python runs sitecustomize at its start: there the engine learns to die over one recording.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, asa_engine.engine as engine\n"
        "assess = engine.Engine.assess\n"
        "def die(self, source, **texts):\n"
        "    if '02.wav' in source:\n"
        "        os._exit(9)\n"
        "    return assess(self, source, **texts)\n"
        "engine.Engine.assess = die\n"
    )
    path = os.pathsep.join([str(tmp_path), *(path for path in sys.path if path)])
    monkeypatch.setenv("PYTHONPATH", path)
    recordings = read_recordings([answers])[:5]
    rows = list(score_in_processes(recordings, _options(fake_bundle), (), workers=2))
    assert [row.recording for row in rows] == recordings
    (bad,) = (row for row in rows if row.error)
    assert bad.recording.audio.name == "02.wav"
    assert "ended with exit code 9" in str(bad.error)
    assert bad.exit_code == 4


def test_workers_that_cannot_load_say_why(tmp_path: Path) -> None:
    recordings = [Recording("a.wav", tmp_path / "a.wav")]
    with pytest.raises(AsaError, match="is not a bundle folder") as caught:
        list(score_in_processes(recordings, _options(tmp_path / "none"), (), workers=2))
    assert caught.value.exit_code == 4
