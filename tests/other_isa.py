"""Python in a process made to use another instruction set: kernels choose once a process."""

from __future__ import annotations

import os
import subprocess
import sys


def run_with_isa(isa: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments and kernels for `isa`; return how it ended, as text."""
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "ASA_CPU_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )


def run_again(file: str, isa: str) -> None:
    """Run a file's tests once more, but those whose name says `every_isa`."""
    done = run_with_isa(isa, "-m", "pytest", "-q", "-x", file, "-k", "not every_isa")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
