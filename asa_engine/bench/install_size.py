"""InstallSize: what a run-time install takes on disk, in a fresh environment, without extras."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

from asa_engine.errors import UsageError

__all__ = ["folder_bytes", "install_size"]

_NAMED = 12


def install_size(source: str, folder: Path) -> dict[str, Any]:
    """Install into a fresh environment and add up its files.

    Args:
        source: A wheel, or a source tree to build one from.
        folder: Scratch; exists.

    Returns:
        `total_mb` of the whole environment, `without_installer_mb` less pip, `largest`: package
        folder -> MB. Compiled bytecode is counted, as pip writes it.

    Raises:
        UsageError: Building or installing failed.
    """
    home = folder / "environment"
    venv.create(home, with_pip=True, symlinks=True)
    python = home / "bin" / "python"
    before = folder_bytes(home)
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-input", source]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        raise UsageError(f"{Path(source).name} cannot be installed: {last}")
    total = folder_bytes(home)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = home / "lib" / version / "site-packages"
    sizes = {entry.name: folder_bytes(entry) for entry in packages.iterdir()}
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:_NAMED]
    return {
        "source": Path(source).resolve().name,
        "total_mb": total / 1e6,
        "without_installer_mb": (total - before) / 1e6,
        "largest": {name: size / 1e6 for name, size in largest},
    }


def folder_bytes(path: Path) -> int:
    """Return the bytes of a file, or of all files under a folder; links are not followed."""
    if path.is_symlink():
        return 0
    if path.is_file():
        return path.stat().st_size
    return sum(
        file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink()
    )
