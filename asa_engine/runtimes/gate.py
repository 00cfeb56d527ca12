"""One thread at a time through an engine, in the process where its own threads live."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Collection
from typing import Final

from asa_engine.errors import BackendError

__all__ = ["Gate"]

# Backends that have no threads of their own, or do without them in a forked child.
_SURVIVE_FORK: Final = ("native", "fake")
# Libraries that would wait for theirs, whatever else the backend runs.
_WAIT_AFTER_FORK: Final = ("onnxruntime", "ctranslate2")


class Gate:
    """A context manager around whatever runs an engine's stages.

    Threads wait for one another here. A fork waits too, so that a child never begins with half a
    window's work done, and locks that nobody will open. `fork` copies no threads: a backend whose
    library waits for its own would hang in the child, and is refused there.

    Args:
        backend: Which backend the engine runs on.
        libraries: What the engine's stages depend on.
    """

    def __init__(self, backend: str, libraries: Collection[str] = ()) -> None:
        self._backend = backend
        waits = any(name in libraries for name in _WAIT_AFTER_FORK)
        self._survives_fork = backend in _SURVIVE_FORK and not waits
        self._process = os.getpid()
        self._lock = threading.RLock()
        _gates.add(self)

    def __enter__(self) -> None:
        """Wait for the turn.

        Raises:
            BackendError: The process is a fork of the one that loaded the engine, and the backend
                does not survive that.
        """
        if os.getpid() != self._process and not self._survives_fork:
            raise BackendError(
                f"an engine on {self._backend} does not work in a forked process",
                hint="load it in that process, or start processes by 'spawn'",
            )
        self._lock.acquire()

    def __exit__(self, *failure: object) -> None:
        """Let the next one pass."""
        self._lock.release()


_gates: weakref.WeakSet[Gate] = weakref.WeakSet()
_held: list[Gate] = []


def _before_fork() -> None:
    for gate in list(_gates):
        gate._lock.acquire()
        _held.append(gate)


def _after_fork() -> None:
    while _held:
        _held.pop()._lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork
    )
