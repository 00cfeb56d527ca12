"""How much memory keys and values of one sequence may take: a share of the machine's, or as set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from asa_engine.errors import UsageError

__all__ = ["LIMIT_VARIABLE", "key_value_limit", "memory_bytes"]

LIMIT_VARIABLE: Final = "ASA_KEY_VALUE_MIB"
_SHARE: Final = 0.25
_LEAST_BYTES: Final = 512 * 2**20
_CGROUP: Final = Path("/sys/fs/cgroup/memory.max")


def key_value_limit() -> int:
    """Return the most bytes that keys and values of a sequence may ask for.

    `ASA_KEY_VALUE_MIB` sets it; else it is a quarter of the memory that this process may have, and
    512 MiB at the least. A server's streams each may ask for so much.

    Raises:
        UsageError: The variable is no number of MiB above 0.
    """
    if told := os.environ.get(LIMIT_VARIABLE):
        if not told.isdecimal() or not 0 < int(told) < 2**30:
            raise UsageError(
                f"{LIMIT_VARIABLE} is {told!r}",
                hint="set it to a number of MiB above 0, or unset it",
            )
        return int(told) * 2**20
    return max(_LEAST_BYTES, int(_SHARE * memory_bytes()))


def memory_bytes() -> int:
    """Return the machine's memory, or what its control group leaves of it; 0 if nothing tells."""
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on this system
        return 0
    try:
        allowed = _CGROUP.read_text().strip()
    except OSError:
        return there
    return min(there, int(allowed)) if allowed.isdecimal() else there
