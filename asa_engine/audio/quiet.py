"""Keep C libraries from writing on standard error: mpg123 does, whatever libsndfile's caller wants.

The C library's `stderr` is pointed at the null device meanwhile; Python's own `sys.stderr`, and
descriptor 2, stay as they are. Only glibc is known to let itself be told so; elsewhere nothing is
done.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["quiet_c"]

_lock = threading.Lock()
_depth = 0
_loud: Any = None


@contextlib.contextmanager
def quiet_c() -> Iterator[None]:
    """Send what C libraries write on standard error nowhere; threads may be inside together."""
    found = _streams()
    if found is None:
        yield
        return
    global _depth, _loud
    stream, null = found
    with _lock:
        if not _depth:
            _loud, stream.value = stream.value, null
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if not _depth:
                stream.value = _loud


@functools.cache
def _streams() -> tuple[ctypes.c_void_p, int] | None:
    """Return the variable `stderr`, and a stream to the null device."""
    if platform.libc_ver()[0] != "glibc":
        return None
    try:
        libc = ctypes.CDLL(None)
        libc.fopen.restype = ctypes.c_void_p
        libc.fopen.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
        null = libc.fopen(os.devnull.encode(), b"w")
        return (ctypes.c_void_p.in_dll(libc, "stderr"), null) if null else None
    except (OSError, ValueError, AttributeError):
        return None
