"""What a server can be told, and its bounds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from asa_engine.errors import UsageError
from asa_engine.selection import AUTO

__all__ = ["Settings", "default_workers"]

_DEFAULT_MAX_WORKERS = 8
_BOUNDS: dict[str, tuple[float, float]] = {
    "port": (0, 65_535),
    "threads": (1, 256),
    "workers": (1, 256),
    "max_streams": (1, 10_000),
    "max_upload_bytes": (1, 512 * 2**20),
    "max_stream_s": (0.001, 4 * 3600),
    "idle_timeout_s": (0.001, 3600),
    "drain_s": (0, 3600),
}


def default_workers(threads: int = 1) -> int:
    """Return the cores this process may use, divided among the threads of a worker; at most 8."""
    cores = len(os.sched_getaffinity(0))
    return max(1, min(_DEFAULT_MAX_WORKERS, cores // threads))


@dataclass(frozen=True, slots=True)
class Settings:
    """How to serve.

    Attributes:
        bundle: Bundle folder; `None` for the one that ships.
        backend: As in `asa_engine.load`.
        precision: As in `asa_engine.load`.
        threads: Threads a window is encoded with. One a worker and many workers score most.
        workers: Worker threads, each with an engine of its own.
        host: Address to listen on.
        port: Port to listen on; 0 lets the system choose.
        max_streams: Streams and uploads open at once; more are refused.
        max_upload_bytes: Longest body of `POST /v1/assess`.
        max_stream_s: Longest recording, and longest a stream may stay open.
        idle_timeout_s: A client that neither sends nor takes anything for so long is dropped.
        drain_s: On SIGTERM or SIGINT, how long what is running may go on.
        allow_origins: Origins of web pages, such as "https://example.org", that may use the
            server besides its own.
    """

    bundle: Path | None = None
    backend: str = AUTO
    precision: str = AUTO
    threads: int = 1
    workers: int = 1
    host: str = "127.0.0.1"
    port: int = 8770
    max_streams: int = 32
    max_upload_bytes: int = 32 * 2**20
    max_stream_s: float = 3600.0
    idle_timeout_s: float = 30.0
    drain_s: float = 10.0
    allow_origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            UsageError: A number is out of range.
        """
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise UsageError(f"{name} must be from {least} to {most}, not {value}")
