"""What only Linux has is not needed; a compiler that is too old is named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from asa_engine.selection import usable_cores

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "audio" / "demo.flac"
# After the standard library's own modules have looked for them.
BARE = """
import os, subprocess, tempfile, shutil
for name in ("sched_getaffinity", "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "geteuid"):
    delattr(os, name)
import asa_engine as asa
from asa_engine.cli.doctor import register
from asa_engine.cli.tune import default_counts
from asa_engine.server.settings import default_workers
print(asa.load().assess({audio!r}).scores["total"].value, default_counts(), default_workers())
"""


def test_a_recording_is_scored_without_what_only_linux_has(tmp_path: Path) -> None:
    environment = {**os.environ, "ASA_PACKED_CACHE": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    for _ in range(2):  # the second finds a cache that nobody vouches for
        done = subprocess.run(
            [sys.executable, "-c", BARE.format(audio=str(DEMO))],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert 0 < float(done.stdout.split()[0]) < 10


def test_usable_cores_are_those_of_the_process_or_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 7)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 3}, raising=False)
    assert usable_cores() == 2
    monkeypatch.delattr("os.sched_getaffinity")
    assert usable_cores() == 7
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert usable_cores() == 1


@pytest.mark.parametrize(
    ("compiler", "is_old"),
    [
        ("GNU 12.2.0", False),
        ("GNU 11.4.0", True),
        ("Clang 14.0.6", False),
        ("Clang 13.0.1", True),
        ("AppleClang 15.0.0", False),
    ],
)
def test_an_old_compiler_is_named(compiler: str, is_old: bool) -> None:
    cmake = shutil.which(
        "cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    if cmake is None:
        pytest.skip("cmake is not installed")
    name, version = compiler.split()
    given = {"COMPILER": "c++", "COMPILER_ID": name, "COMPILER_VERSION": version}
    settings = [f"-DCMAKE_CXX_{key}={value}" for key, value in given.items()]
    script = str(ROOT / "kernels" / "compiler.cmake")
    done = subprocess.run([cmake, *settings, "-P", script], capture_output=True, text=True)
    assert (done.returncode != 0) == is_old
    told = f"needs GCC 12, Clang 14 or newer; c++ is {compiler}" if is_old else ""
    assert told in " ".join(done.stderr.split())
