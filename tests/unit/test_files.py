"""Folders and files appear whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from asa_engine.errors import UsageError
from asa_engine.files import atomic_folder, atomic_write


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "out") as work:
        (work / "a").write_text("1")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "a").read_text() == "1"
    assert _names(tmp_path) == ["out"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("kept")

    def write_half() -> None:
        with atomic_folder(tmp_path / "out", overwrite=True) as work:
            (work / "new").write_text("half")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        write_half()
    assert _names(tmp_path) == ["out"]
    assert _names(tmp_path / "out") == ["old"]


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    def run_out() -> None:
        with atomic_folder(tmp_path / "out") as work:
            (work / "new").write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UsageError, match="No space left on device"):
        run_out()
    assert _names(tmp_path) == []


def test_overwriting_has_to_be_asked_for(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "out") as work:
        (work / "a").write_text("1")
    with pytest.raises(UsageError, match="exists already"), atomic_folder(tmp_path / "out"):
        pass
    with atomic_folder(tmp_path / "out", overwrite=True) as work:
        (work / "b").write_text("2")
    assert _names(tmp_path / "out") == ["b"]
    assert _names(tmp_path) == ["out"]


def test_a_kill_leaves_the_target_as_it_was(tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib\n"
        "from asa_engine.files import atomic_folder\n"
        "with atomic_folder(pathlib.Path(sys.argv[1]) / 'out') as work:\n"
        "    (work / 'half').write_text('half')\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == "writing\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "out").exists()
    mine = tmp_path / f".out.{os.getpid()}.abcdefgh"
    mine.mkdir()
    with atomic_folder(tmp_path / "out") as work:
        (work / "whole").write_text("whole")
    # What the killed process left is gone; what a living one is writing stays.
    assert _names(tmp_path) == [mine.name, "out"]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "f"
    atomic_write(target, b"one")
    atomic_write(target, b"two")
    assert target.read_bytes() == b"two"
    assert _names(tmp_path) == ["f"]
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="cannot be written"):
        atomic_write(tmp_path / "folder", b"x")
    with pytest.raises(UsageError, match="cannot be written"):
        atomic_write(target / "below-a-file", b"x")
