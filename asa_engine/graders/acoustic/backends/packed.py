"""Packed weights on disk: mapped into memory, in the order in which one CPU's kernels read them.

A file is a header of 4096 bytes (magic, then a JSON object: key, words, sha256) and int32 words.
The key names everything that decides the words; how many there are follows from the encoder's
shape, so a file holds that many or is none. It can be an artifact of a bundle, which the manifest's
hash vouches for, or a file of this user's cache (`ASA_PACKED_CACHE`: another folder, or "off").
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import stat
import struct
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asa_engine.bundle import WEIGHTS_NAME, Bundle
from asa_engine.errors import BundleError
from asa_engine.kernels import isa
from asa_engine.nn.config import WhisperEncoderConfig

__all__ = [
    "CACHE_VARIABLE",
    "PACKED_FOLDER",
    "PackedShelf",
    "cache_file",
    "pack_key",
    "packed_name",
    "read_packed",
    "write_packed",
]

PACKED_FOLDER = "packed"
CACHE_VARIABLE = "ASA_PACKED_CACHE"
_LAYOUT = 3  # of the words; raised when the kernels want another order or other numbers
_MAGIC = b"asa packed\n"
_HEADER_BYTES = 4096
_MOST_CACHED = 16

Words = NDArray[np.int32]


def pack_key(weights_sha256: str, config: WhisperEncoderConfig, precision: Sequence[str]) -> str:
    """Return what decides every word: weights, shape, precisions, kernels and this version."""
    about = {
        "layout": _LAYOUT,
        "engine": metadata.version("asa-engine"),
        "isa": isa(),
        "weights": weights_sha256,
        "encoder": asdict(config),
        "precision": list(precision),
    }
    return json.dumps(about, sort_keys=True)


def packed_name(key: str) -> str:
    """Return the name of the file of a key."""
    return f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.packed"


def cache_file(key: str) -> Path | None:
    """Return where this user's cache keeps a key; `None` if there is no cache."""
    chosen = os.environ.get(CACHE_VARIABLE, "")
    if chosen == "off":
        return None
    if chosen:
        return Path(chosen) / packed_name(key)
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        folder = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    except RuntimeError:  # nobody's home
        return None
    return folder / "asa-engine" / "packed" / packed_name(key)


def read_packed(path: Path, key: str, words: int, *, vouched: bool = False) -> Words | None:
    """Map the words of a file; `None` unless it is exactly what it should be.

    Args:
        path: The file.
        key: What `pack_key` returned.
        words: How many there must be.
        vouched: Whether its hash has been checked already. If not, nobody but this user or root
            may be able to write it, and its words must have the hash the header states.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if not vouched:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError:
        return None
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or about.st_size != _HEADER_BYTES + 4 * words:
            return None
        if not vouched and not _is_ours(about):
            return None
        mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):
        return None
    finally:
        os.close(descriptor)
    header = _parse(mapped[:_HEADER_BYTES])
    if header.get("key") != key or header.get("words") != words:
        return None
    packed: Words = np.frombuffer(mapped, np.int32, words, _HEADER_BYTES)
    if not vouched and header.get("sha256") != hashlib.sha256(packed.data).hexdigest():
        return None
    return packed


def write_packed(path: Path, key: str, words: Words) -> bool:
    """Write a file of packed words, whole or not at all; return whether it was written."""
    header = {"key": key, "words": words.size, "sha256": hashlib.sha256(words.data).hexdigest()}
    text = json.dumps(header).encode()
    if len(_MAGIC) + 4 + len(text) > _HEADER_BYTES:
        return False
    temporary: str | None = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o644)
            file.write((_MAGIC + struct.pack("<I", len(text)) + text).ljust(_HEADER_BYTES, b"\0"))
            file.write(words.data.cast("B"))
        os.replace(temporary, path)
    except OSError:  # a full disk or a read-only folder: then they are packed again next time
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        return False
    return True


class PackedShelf:
    """Where a bundle's packed weights for this CPU are found and kept.

    Args:
        bundle: Its own file comes first.
        config: The encoder's shape.
        precision: Of the whole encoder, or of each layer.
    """

    def __init__(
        self, bundle: Bundle, config: WhisperEncoderConfig, precision: Sequence[str]
    ) -> None:
        weights = bundle.artifacts[WEIGHTS_NAME].sha256
        self.key = pack_key(weights, config, precision)
        self._name = f"{PACKED_FOLDER}/{packed_name(self.key)}"
        self._own = bundle.path / self._name if self._name in bundle.artifacts else None
        self._cached = cache_file(self.key)
        self._found = False

    def find(self, words: int) -> Words | None:
        """Return the words if the bundle or the cache holds them, as many as there must be."""
        packed = None
        if self._own is not None:
            packed = read_packed(self._own, self.key, words, vouched=True)
        if packed is None and self._cached is not None:
            packed = read_packed(self._cached, self.key, words)
        self._found = packed is not None
        return packed

    def keep(self, packed: Callable[[], Words]) -> None:
        """Put newly packed words into the cache, if there is one."""
        if self._found or self._cached is None:
            return
        if write_packed(self._cached, self.key, packed()):
            _trim(self._cached.parent)

    def put(self, folder: Path, packed: Callable[[], Words]) -> None:
        """Write the words into a bundle that is being made, as its own file."""
        (folder / PACKED_FOLDER).mkdir(exist_ok=True)
        if not write_packed(folder / self._name, self.key, packed()):
            raise BundleError(f"{folder / self._name} cannot be written", hint="free some space")


def _is_ours(about: os.stat_result) -> bool:
    # Where there are no such owners, nobody vouches.
    user = getattr(os, "geteuid", None)
    return user is not None and about.st_uid in (user(), 0) and not about.st_mode & 0o022


def _trim(folder: Path) -> None:
    """Remove the oldest packed files of a cache."""
    with contextlib.suppress(OSError):
        kept = sorted(folder.glob("*.packed"), key=lambda path: path.stat().st_mtime)
        for path in kept[:-_MOST_CACHED]:
            path.unlink()


def _parse(header: bytes) -> dict[str, Any]:
    """Return the JSON object of a header; empty if it is none."""
    start = len(_MAGIC) + 4
    if not header.startswith(_MAGIC):
        return {}
    (length,) = struct.unpack("<I", header[len(_MAGIC) : start])
    try:
        value = json.loads(header[start : start + length])
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
