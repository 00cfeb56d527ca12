"""Files that this package carries, read with their hashes checked."""

from __future__ import annotations

import hashlib
import json
import zlib
from importlib import resources
from typing import Final

from asa_engine.errors import BundleError

__all__ = ["INDEX_NAME", "inflate", "read_package_data"]

INDEX_NAME: Final = "data.json"
"""File name -> {"sha256", "source", "licence"}; written by asa_engine.training.letters."""


def read_package_data(name: str) -> bytes:
    """Return a file of the package's data folder.

    Raises:
        BundleError: It is missing, or is not the file that was built.
    """
    folder = resources.files("asa_engine.text").joinpath("data")
    try:
        index = json.loads(folder.joinpath(INDEX_NAME).read_text(encoding="utf-8"))
        data = folder.joinpath(name).read_bytes()
        expected = index[name]["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"the package's {name} cannot be read: {error}", hint="install the package again"
        ) from None
    if hashlib.sha256(data).hexdigest() != expected:
        raise BundleError(
            f"the package's {name} is not the file that was built", hint="install the package again"
        )
    return data


def inflate(data: bytes, most: int) -> bytes:
    """Return deflated data as it was.

    Args:
        data: Deflated.
        most: Bytes that it may have.

    Raises:
        ValueError: It has more, or is cut.
        zlib.error: It is damaged.
    """
    inflater = zlib.decompressobj()
    found = inflater.decompress(data, most)
    if inflater.unconsumed_tail or not inflater.eof:
        raise ValueError(f"deflated data are cut, or more than {most} bytes")
    return found
