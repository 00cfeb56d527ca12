"""The command line in bad places: pipes, full disks, odd terminals, other users, Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import soundfile
from audio_samples import RATE_HZ, speech
from children import piped

COMMAND = (sys.executable, "-m", "asa_engine")


@pytest.fixture
def answer(tmp_path: Path) -> Path:
    path = tmp_path / "answer.wav"
    soundfile.write(path, speech(2.5, seed=1), RATE_HZ)
    return path


@pytest.fixture
def engine(fake_bundle: Path) -> tuple[str, ...]:
    return ("--bundle", str(fake_bundle), "--backend", "fake")


def run(*args: object, **options: object) -> subprocess.CompletedProcess[str]:
    given = {"capture_output": True, "text": True, "timeout": 60, **options}
    if "stdout" in given or "stderr" in given:
        del given["capture_output"]
    return subprocess.run([*COMMAND, *map(str, args)], **given)  # type: ignore[call-overload]


def scores(output: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(output)["scores"]
    return found


def one_line(err: str) -> str:
    assert err.startswith("asa-engine: ")
    assert err.count("\n") == 1
    return err


def test_every_pipe_gives_the_scores_of_the_file(
    answer: Path, engine: tuple[str, ...], tmp_path: Path
) -> None:
    expected = scores(run("assess", answer, *engine, "--json").stdout)
    for name, options in (("-", ()), ("/dev/stdin", ()), ("-", ("--stream",))):
        reader = subprocess.Popen(["cat", str(answer)], stdout=subprocess.PIPE)
        done = run("assess", name, *engine, "--json", *options, stdin=reader.stdout)
        assert (done.returncode, done.stderr) == (0, "")
        assert scores(done.stdout) == expected
        assert json.loads(done.stdout)["audio"] == name
        assert reader.stdout is not None
        reader.stdout.close()
        reader.wait()
    with answer.open("rb") as file:
        assert scores(run("assess", "-", *engine, "--json", stdin=file).stdout) == expected
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(answer.read_bytes(),))
    writer.start()
    assert scores(run("assess", fifo, *engine, "--json").stdout) == expected
    writer.join()


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_no_recording_on_standard_input(name: str, engine: tuple[str, ...]) -> None:
    done = run("assess", name, *engine, stdin=subprocess.DEVNULL)
    assert done.returncode == 3
    one_line(done.stderr)
    parent, child = pty.openpty()
    done = run("assess", name, *engine, stdin=child)
    assert done.returncode == 3
    assert "a terminal" in one_line(done.stderr)
    os.close(parent)
    os.close(child)


def test_standard_input_is_read_once(engine: tuple[str, ...]) -> None:
    done = run("assess", "-", "-", *engine, input="")
    assert done.returncode == 2
    one_line(done.stderr)


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_output_that_takes_nothing(
    answer: Path, engine: tuple[str, ...], options: tuple[str, ...]
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "w") as full:
        done = run("assess", answer, *engine, *options, stdout=full, stderr=subprocess.PIPE)
        assert done.returncode == 1
        assert "cannot be written: No space left" in one_line(done.stderr)
        done = run("assess", "none", *engine, *options, stdout=full, stderr=subprocess.PIPE)
        assert done.returncode == 3
        one_line(done.stderr)
        for extra in ((), ("--stream", "--live")):
            done = run("assess", answer, *engine, *extra, stdout=subprocess.PIPE, stderr=full)
            assert done.returncode == 0
        assert run("assess", "none", *engine, stdout=subprocess.PIPE, stderr=full).returncode == 3


def test_closed_streams(answer: Path, engine: tuple[str, ...]) -> None:
    words = " ".join(map(str, (*COMMAND, "assess", answer, *engine, "--json")))
    for closed, code, lines in ((">&-", 1, 1), ("2>&-", 0, 0), ("<&-", 0, 0), (">&- 2>&-", 1, 0)):
        done = subprocess.run(
            ["sh", "-c", f"{words} {closed}"], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == code, closed
        assert done.stderr.count("\n") == lines, closed
    done = subprocess.run(
        ["sh", "-c", f"{' '.join(COMMAND)} assess - {' '.join(engine)} <&-"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 3
    assert "closed" in one_line(done.stderr)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize("option", ["--json", "--stream"])
def test_terminals_that_are_not_utf_8(
    answer: Path, engine: tuple[str, ...], encoding: str, option: str
) -> None:
    odd = answer.with_name("réponse 答え.wav")
    answer.rename(odd)
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = run("assess", odd, *engine, option, env=environment, text=False)
    assert (done.returncode, done.stderr) == (0, b"")
    done = run("assess", odd.with_name("é.wav"), *engine, option, env=environment, text=False)
    assert done.returncode == 3
    assert done.stderr.count(b"\n") == 1


def test_homes_that_are_not_there(answer: Path, tmp_path: Path) -> None:
    """With the shipped bundle, whose weights are cached at home where they can be."""
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o500)
    kept = {k: v for k, v in os.environ.items() if k not in ("HOME", "ASA_PACKED_CACHE", "TMPDIR")}
    expected = scores(run("assess", answer, "--json").stdout)
    for changed in (
        {},
        {"HOME": str(locked)},
        {"HOME": "/nonexistent", "TMPDIR": "/nonexistent", "XDG_CACHE_HOME": "/proc"},
        {"ASA_PACKED_CACHE": "/dev/null"},
    ):
        done = run("assess", answer, "--json", env={**kept, "HOME": str(tmp_path), **changed})
        assert (done.returncode, done.stderr) == (0, ""), changed
        assert scores(done.stdout) == expected


def test_a_user_who_is_nobody(answer: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    answer.chmod(0o644)
    for folder in (answer.parent, *answer.parent.parents[:2]):
        folder.chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if k != "HOME"}
    try:
        done = run(
            "assess", answer, "--json", env=environment, user=54_321, group=54_321, extra_groups=[]
        )
    except PermissionError:
        pytest.skip(f"other users may not run {sys.executable}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("moment", ["argparse", "numpy", "soundfile", "asa_engine.stream", ""])
@pytest.mark.parametrize("options", [("--json",), ("--stream", "--live")])
def test_an_interrupt_is_one_line_and_130(
    answer: Path, engine: tuple[str, ...], options: tuple[str, ...], moment: str
) -> None:
    """When a module has just been imported, or the first result is there."""
    command = [sys.executable, "-X", "importtime", *COMMAND[1:], "assess", *[str(answer)] * 200]
    with piped(*command, *engine, *options) as (child, output, errors):
        last = moment or "asa_engine.cli.words"
        while (line := errors.readline()).rpartition("|")[2].strip() != last:
            assert line, f"{last} is not imported"
        if not moment:
            output.readline()
        child.send_signal(signal.SIGINT)
        said = errors.read().splitlines()
    assert child.wait() == 130
    assert [line for line in said if not _expected(line)] == ["asa-engine: interrupted"]


def test_an_interrupt_inside_a_text_that_is_executed_is_130() -> None:
    """As while a dataclass is defined: CPython remembers it, and would die of SIGINT at its end."""
    program = """
import sys
from asa_engine.cli import interrupt
interrupt.answer()
interrupt.clean_up(deadline=False)
try:
    exec("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
except KeyboardInterrupt:
    sys.exit(interrupt.EXIT_CODE)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "asa-engine: interrupted\n")


def _expected(line: str) -> bool:
    """Tell whether a line is one of -X importtime, or a provisional score."""
    return line.startswith("import time:") or line.lstrip()[:1].isdigit() or " s  " in line


def test_an_interrupt_while_a_pipe_is_waited_for(engine: tuple[str, ...], tmp_path: Path) -> None:
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    child = subprocess.Popen(
        [*COMMAND, "assess", str(fifo), *engine], stderr=subprocess.PIPE, text=True
    )
    time.sleep(2)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=30)
    assert (child.returncode, err) == (130, "asa-engine: interrupted\n")
