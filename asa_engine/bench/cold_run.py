"""ColdRun: `asa-engine assess FILE` in a fresh process, from its start to its exit.

The files are in the page cache (a first run is dropped); everything else is cold: interpreter,
imports, hashing the bundle, opening the backend, scoring, printing.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from asa_engine.errors import BackendError

__all__ = ["FORBIDDEN", "cold_run", "imported_packages", "program"]

FORBIDDEN = ("torch", "transformers")
"""Packages that must not be imported when a recording is scored."""

_LAUNCH = Path(__file__).with_name("launch.py")
_IMPORT_LINE = re.compile(r"^import time:\s*\d+ \|\s*\d+ \|\s*(\S+)$", re.MULTILINE)


def cold_run(arguments: Sequence[str], folder: Path, *, runs: int) -> dict[str, Any]:
    """Run `asa-engine` several times; say how long it took, how large it was, what it imported.

    Args:
        arguments: What follows `asa-engine` on the command line.
        folder: For scratch files.
        runs: Runs that count.

    Raises:
        BackendError: A run failed.
    """
    results = [_run(arguments, folder)[0] for _ in range(1 + runs)][1:]
    # Tracing imports takes time, so it has a run of its own.
    _, trace = _run(arguments, folder, {"PYTHONPROFILEIMPORTTIME": "1"})
    packages = imported_packages(trace)
    return {
        "command": "asa-engine " + " ".join(Path(argument).name for argument in arguments),
        "seconds": [round(result["seconds"], 4) for result in results],
        "p50_s": median(result["seconds"] for result in results),
        "peak_rss_mb": max(result["peak_rss_kib"] for result in results) * 1024 / 1e6,
        "packages_imported": len(packages),
        "forbidden_imported": sorted(packages.intersection(FORBIDDEN)),
    }


def program() -> list[str]:
    """Return the command that starts `asa-engine` with this interpreter."""
    script = Path(sys.executable).with_name("asa-engine")
    if script.is_file():
        return [str(script)]
    return [sys.executable, "-P", "-m", "asa_engine"]


def imported_packages(trace: str) -> set[str]:
    """Return the top-level packages named in the output of PYTHONPROFILEIMPORTTIME."""
    return {name.partition(".")[0] for name in _IMPORT_LINE.findall(trace)}


def _run(
    arguments: Sequence[str], folder: Path, extra: dict[str, str] | None = None
) -> tuple[dict[str, Any], str]:
    errors = folder / "cold_run.stderr"
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(_LAUNCH), str(errors), *program(), *arguments],
        env={**os.environ, **(extra or {})},
        stdout=subprocess.PIPE,
        text=True,
    )
    said = errors.read_text(encoding="utf-8", errors="replace") if errors.is_file() else ""
    if done.returncode != 0:
        raise BackendError(f"asa-engine cannot be started ({done.returncode})")
    result: dict[str, Any] = json.loads(done.stdout)
    if result["exit_code"] != 0:
        last = (said.strip().splitlines() or [""])[-1]
        raise BackendError(f"a cold run ended with exit code {result['exit_code']}: {last}")
    return result, said
