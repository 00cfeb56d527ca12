"""Files the way the engine wants them: bounded when read, whole or absent when written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asa_engine.errors import AsaError, UsageError

__all__ = ["atomic_folder", "atomic_write", "read_json", "read_text", "sha256_file"]

MAX_JSON_BYTES = 8 * 2**20
_HASH_BLOCK_BYTES = 2**20


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def read_json(path: Path, error: type[AsaError]) -> dict[str, Any]:
    """Read one JSON object of bounded size.

    Args:
        path: The file.
        error: What to raise when it is missing, too large, or not a JSON object.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise error(f"{path} is larger than {MAX_JSON_BYTES} bytes")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as failure:
        raise error(f"{path} cannot be read: {failure.strerror or failure}") from None
    except (ValueError, RecursionError):
        raise error(f"{path} is not valid JSON") from None
    if not isinstance(value, dict):
        raise error(f"{path} does not hold a JSON object")
    return value


def read_text(path: Path, most_bytes: int, error: type[AsaError], *, bom: bool = False) -> str:
    """Return the text of a UTF-8 file; `bom` leaves a byte-order mark out.

    Raises:
        AsaError: Of this type: it is missing, larger than `most_bytes`, or not UTF-8.
    """
    try:
        if path.stat().st_size > most_bytes:
            raise error(f"{path} is larger than {most_bytes} bytes")
        return path.read_text(encoding="utf-8-sig" if bom else "utf-8")
    except OSError as failure:
        raise error(f"{path} cannot be read: {failure.strerror}") from None
    except UnicodeDecodeError:
        raise error(f"{path} is not UTF-8 text") from None


def _out_of_room(target: Path, failure: OSError) -> UsageError:
    return UsageError(
        f"{target} cannot be written: {failure.strerror or failure}",
        hint="nothing was changed; free some space or choose another place",
    )


@contextlib.contextmanager
def atomic_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes `target` when the block ends well.

    After a kill, an error or a full disk, `target` is as it was before. What a killed process
    left half-written beside it is removed by the next one that writes `target`.

    Raises:
        UsageError: `target` is there and `overwrite` is false, or it cannot be written.
    """
    target = target.absolute()
    if not overwrite and (target.is_file() or (target.is_dir() and any(target.iterdir()))):
        raise UsageError(f"{target} exists already", hint="choose another place or pass --force")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.{os.getpid()}.", dir=target.parent))
    except OSError as failure:
        raise _out_of_room(target, failure) from None
    try:
        yield work
        for path in sorted(work.rglob("*")):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        work.chmod(0o755)
        _swap(work, target)
    except OSError as failure:
        raise _out_of_room(target, failure) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _remove_leftovers(target: Path) -> None:
    """Remove the temporary folders of processes of this machine that are no more."""
    pattern = re.compile(re.escape(f".{target.name}.") + r"([0-9]+)\.[a-z0-9_]{8}")
    for path in target.parent.iterdir():
        name = pattern.fullmatch(path.name)
        if name and path.is_dir() and not path.is_symlink() and not _is_running(int(name[1])):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _swap(work: Path, target: Path) -> None:
    """Rename `work` to `target`, moving what stood there out of the way first."""
    if not target.exists():
        work.rename(target)
        return
    if target.is_dir() and not any(target.iterdir()):
        target.rmdir()
        work.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    target.rename(old / "was")
    try:
        work.rename(target)
    except OSError:
        (old / "was").rename(target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def atomic_write(target: Path, data: bytes) -> None:
    """Write a file through a temporary neighbour, so that it is whole or absent.

    Raises:
        UsageError: The file cannot be written.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as failure:
        raise _out_of_room(target, failure) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
