"""API keys: who may do what. Only hashes are kept, and compared in constant time.

A line of the file, or of the environment variable, is `NAME SHA256 [SCOPE,SCOPE] [LIMIT=N ...]`,
whose limits are those of `LIMITS`. Keys are 256 random bits that the server made, so a plain
SHA-256 keeps them: there is nothing to guess.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import math
import os
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeVar

from asa_engine.errors import UsageError
from asa_engine.server.refusal import Forbidden, TooOften, Unauthorized

__all__ = [
    "ENVIRONMENT",
    "LIMITS",
    "SCOPES",
    "Key",
    "Keys",
    "bounded",
    "new_key",
    "presented_key",
]

ENVIRONMENT: Final = "ASA_SERVER_KEYS"
SCOPES: Final = ("score", "watch")
"""To have speech scored; to read health, graders and metrics."""
SUBPROTOCOL_PREFIX: Final = "asa.key."
"""In front of a key among a WebSocket's subprotocols, where a browser sets no other header."""

MAX_FILE_BYTES: Final = 2**20
_LINE: Final = re.compile(
    r"(?P<name>[A-Za-z0-9._@-]{1,64})\s+(?P<sha256>[0-9a-fA-F]{64})"
    r"(\s+(?P<scopes>[a-z,]+))?(?P<limits>(\s+[a-z]+=[1-9][0-9]{0,4})*)"
)
LIMITS: Final = {
    "open": "most_open",
    "rate": "most_a_minute",
    "burst": "most_at_once",
    "mib": "most_mib",
    "seconds": "most_s",
}
"""Name of a limit in a line -> of a `Key`."""
BURST_S: Final = 10.0
Number = TypeVar("Number", int, float)
_NO_LIMITS: Final[Mapping[str, int | None]] = MappingProxyType({})
_log = logging.getLogger("asa_engine.server")


@dataclass(frozen=True, slots=True)
class Key:
    """One key, without itself.

    Attributes:
        name: Whose it is; goes into the log.
        sha256: Hash of the key, 32 bytes.
        scopes: What it is good for.
        most_open: Streams and uploads that it may have open at once; `None` for all there are.
        most_a_minute: Requests and streams that it may begin in a minute, in the long run.
        most_at_once: So many of them in one go; what ten seconds may bring, where none is said.
        most_mib: Longest body of an upload.
        most_s: Longest recording, and longest stream.
    """

    name: str
    sha256: bytes
    scopes: frozenset[str]
    most_open: int | None = None
    most_a_minute: int | None = None
    most_at_once: int | None = None
    most_mib: int | None = None
    most_s: int | None = None

    @property
    def most_bytes(self) -> int | None:
        """Longest body of an upload, in bytes."""
        return None if self.most_mib is None else self.most_mib * 2**20


def bounded(most: Number, of_key: Number | None) -> Number:
    """Return the smaller of the server's limit and a key's, if it has one."""
    return most if of_key is None else min(most, of_key)


class Keys:
    """The keys in force. The file is read again when it changes: a line taken out is a key revoked.

    Args:
        path: File of keys.
        text: Further keys, in the file's form; `;` may stand for line breaks.

    Raises:
        UsageError: A line is malformed, the file cannot be read, or a name stands there twice.
    """

    def __init__(self, path: Path | None = None, text: str = "") -> None:
        self._path = path
        self._buckets: dict[str, Bucket] = {}
        self._given = _parse(text.replace(";", "\n"), ENVIRONMENT)
        self._stamp: tuple[int, ...] | None = None
        self._keys = self._given
        if path is not None:
            self._stamp = _stamp(path)
            self._keys = _unique((*self._given, *_read(path)))
        if not self._keys and (path is not None or text):
            raise UsageError("no API key is given", hint="asa-engine serve --new-key NAME")

    @property
    def are_required(self) -> bool:
        """Whether a key is asked for at all."""
        return self._path is not None or bool(self._given)

    def check(self, presented: str | None, scope: str) -> Key:
        """Return which key it is.

        Raises:
            Unauthorized: There is none, or it is none of the keys in force.
            Forbidden: It is good for other things.
            TooOften: It asks more often than it may.
        """
        if presented is None:
            raise Unauthorized(
                "an API key is asked for", hint="send it: -H 'Authorization: Bearer KEY'"
            )
        digest = hashlib.sha256(presented.encode()).digest()
        found = None
        for key in self._in_force():  # all of them, so that the time tells nothing
            if hmac.compare_digest(key.sha256, digest):
                found = key
        if found is None:
            raise Unauthorized("the API key is not in force", hint="ask for another")
        if scope not in found.scopes:
            raise Forbidden(
                f"the API key is not good for {scope!r}",
                hint=f"it is for {', '.join(sorted(found.scopes))}",
            )
        if found.most_a_minute is not None:
            self._buckets.setdefault(found.name, Bucket()).take(found)
        return found

    def _in_force(self) -> tuple[Key, ...]:
        if self._path is None:
            return self._keys
        stamp = _stamp(self._path)
        if stamp != self._stamp:
            self._stamp = stamp
            self._keys = self._given
            try:
                self._keys = _unique((*self._given, *_read(self._path)))
            except UsageError as error:
                _log.error("no key of the file is in force: %s", error)
        return self._keys


class Bucket:
    """Requests that a key has left: one for each it makes, and they come back with time."""

    def __init__(self) -> None:
        self._left = math.inf
        self._at_s = 0.0

    def take(self, key: Key) -> None:
        """Take one.

        Raises:
            TooOften: There is none.
        """
        assert key.most_a_minute is not None
        a_second = key.most_a_minute / 60
        most = key.most_at_once or max(1.0, BURST_S * a_second)
        now_s = time.monotonic()
        self._left = min(most, self._left + a_second * (now_s - self._at_s))
        self._at_s = now_s
        if self._left < 1:
            raise TooOften((1 - self._left) / a_second)
        self._left -= 1


def new_key(
    name: str, scopes: tuple[str, ...] = ("score",), limits: Mapping[str, int | None] = _NO_LIMITS
) -> tuple[str, str]:
    """Return a new key, and the line of the file that puts it in force.

    Args:
        name: Whose it is.
        scopes: What it is good for.
        limits: Names of `LIMITS`; `None` for none.

    Raises:
        UsageError: The name or a scope cannot stand there.
    """
    key = f"asa_{secrets.token_urlsafe(32)}"
    line = f"{name} {hashlib.sha256(key.encode()).hexdigest()} {','.join(scopes)}"
    line += "".join(f" {limit}={most}" for limit, most in limits.items() if most is not None)
    _parse(line, "the new key")
    return key, line


def presented_key(authorization: str | None, subprotocols: list[str]) -> str | None:
    """Return the key that a request brings.

    Args:
        authorization: The header, `Bearer KEY`.
        subprotocols: Of a WebSocket; one may be `asa.key.KEY`.
    """
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    for subprotocol in subprotocols:
        if subprotocol.startswith(SUBPROTOCOL_PREFIX):
            return subprotocol.removeprefix(SUBPROTOCOL_PREFIX)
    return None


def _stamp(path: Path) -> tuple[int, ...] | None:
    with contextlib.suppress(OSError):
        found = os.stat(path)
        return found.st_mtime_ns, found.st_size, found.st_ino
    return None


def _read(path: Path) -> tuple[Key, ...]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UsageError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as failure:
        reason = getattr(failure, "strerror", None) or failure
        raise UsageError(f"{path} cannot be read: {reason}", hint="give a file of keys") from None
    return _parse(text, str(path))


def _parse(text: str, place: str) -> tuple[Key, ...]:
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        scopes = frozenset((match["scopes"] or "score").split(",")) if match else frozenset()
        given = match["limits"].split() if match else []
        limits = {name: int(most) for name, _, most in (each.partition("=") for each in given)}
        is_known = limits.keys() <= LIMITS.keys() and len(limits) == len(given)
        if match is None or not scopes <= set(SCOPES) or not is_known:
            raise UsageError(
                f"line {number} of {place} is no key",
                hint=f"a line is NAME SHA256 [{','.join(SCOPES)}] "
                f"{' '.join(f'[{limit}=N]' for limit in LIMITS)}; --new-key makes one",
            )
        named = {LIMITS[limit]: most for limit, most in limits.items()}
        keys.append(Key(match["name"], bytes.fromhex(match["sha256"]), scopes, **named))
    return _unique(tuple(keys))


def _unique(keys: tuple[Key, ...]) -> tuple[Key, ...]:
    names = [key.name for key in keys]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UsageError(f"two keys are named {min(twice)}", hint="one name, one key")
    return keys
