"""Encryption of what is kept: AES-256-GCM, by a key that is not in the store.

Each stream has a key of its own, HMAC-SHA-256 of its id under the store's key (the expand step of
HKDF, RFC 5869, section 2.3), so that random nonces do not run out. What a piece is, and of which
stream, is authenticated: pieces cannot change places.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from asa_engine.errors import ArtifactError, UsageError
from asa_engine.server.store.base import StoreError

__all__ = ["KEY_BYTES", "Seal", "read_key"]

KEY_BYTES: Final = 32
MAX_FILE_BYTES: Final = 1024
_NONCE_BYTES: Final = 12
_HINT: Final = "openssl rand -base64 32 > store.key makes one"


def read_key(file: Path | None, text: str = "") -> bytes | None:
    """Return the key of a store: 32 bytes, which are written in base64.

    Args:
        file: Holds it.
        text: It, where there is no file; "" for none.

    Raises:
        UsageError: There is a file or a text without one. The message does not show it.
    """
    if file is not None:
        try:
            with file.open("rb") as opened:
                text = opened.read(MAX_FILE_BYTES).decode("ascii", "replace")
        except OSError as failure:
            raise UsageError(
                f"the store's key cannot be read: {file}: {failure.strerror}", hint=_HINT
            ) from None
    elif not text:
        return None
    try:
        key = base64.b64decode(text.strip().translate({45: "+", 95: "/"}), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise UsageError(f"the store's key is not {KEY_BYTES} bytes in base64", hint=_HINT)
    return key


class Seal:
    """Encrypts and decrypts.

    Args:
        key: 32 bytes.

    Raises:
        ArtifactError: What it needs is not installed.
    """

    def __init__(self, key: bytes) -> None:
        if find_spec("cryptography") is None:
            raise ArtifactError(
                "cryptography is not installed", hint="pip install 'asa-engine[server]'"
            )
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._key = key
        self._cipher = AESGCM
        self._invalid = InvalidTag

    def _of(self, stream: str) -> bytes:
        return hmac.digest(self._key, b"asa store " + stream.encode() + b"\x01", "sha256")

    def shut(self, stream: str, what: str, data: bytes) -> bytes:
        """Return data encrypted.

        Args:
            stream: Whose it is.
            what: It is; needed to decrypt it.
            data: Any bytes.
        """
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher(self._of(stream)).encrypt(nonce, data, what.encode())

    def open(self, stream: str, what: str, sealed: bytes) -> bytes:
        """Return what `shut` was given.

        Raises:
            StoreError: It was encrypted by another key, or is not what was written.
        """
        nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._cipher(self._of(stream)).decrypt(nonce, rest, what.encode())
        except (self._invalid, ValueError):
            raise StoreError("what is kept was encrypted by another key, or changed") from None
