"""What a server can be told, and its bounds."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from asa_engine.errors import UsageError
from asa_engine.selection import AUTO, usable_cores

__all__ = ["Settings", "default_workers", "is_loopback"]

_DEFAULT_MAX_WORKERS = 8
_BOUNDS: dict[str, tuple[float, float]] = {
    "port": (0, 65_535),
    "threads": (1, 256),
    "workers": (1, 256),
    "max_streams": (1, 10_000),
    "max_uploads": (1, 1_000),
    "max_connections": (1, 100_000),
    "max_upload_bytes": (1, 512 * 2**20),
    "max_upload_s": (0.001, 4 * 3600),
    "max_stream_s": (0.001, 4 * 3600),
    "idle_timeout_s": (0.001, 3600),
    "drain_s": (0, 3600),
    "keep_s": (1, 365 * 86_400),
    "store_bytes": (2**20, 2**40),
}


def default_workers(threads: int = 1) -> int:
    """Return the cores this process may use, divided among the threads of a worker; at most 8."""
    return max(1, min(_DEFAULT_MAX_WORKERS, usable_cores() // threads))


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
        max_streams: Streams open at once; more are refused.
        max_uploads: Uploads open at once, which take no stream's place.
        max_connections: Connections open at once, those that ask nothing included.
        max_upload_bytes: Longest body of `POST /v1/assess`.
        max_upload_s: Longest recording that an upload may unpack to.
        max_stream_s: Longest stream, and longest one may stay open.
        idle_timeout_s: A client that sends no audio, or takes nothing, for so long is dropped.
        drain_s: On SIGTERM or SIGINT, how long what is running may go on.
        allow_origins: Origins of web pages, such as "https://example.org", that may use the
            server besides its own.
        allow_hosts: Names the server is reached under besides its addresses and "localhost".
        keys_file: File of API keys, as in `asa_engine.server.keys`.
        keys: Further keys, in the file's form.
        tls_cert: File of the certificate and its chain (PEM).
        tls_key: File of its private key (PEM).
        store: File or address of a database that streams with an id are kept in; `None` takes
            none.
        store_key: 32 bytes that what is kept is encrypted by.
        keep_s: How long a stream is kept after it was last heard of, or scored.
        store_bytes: How large the store may grow.
        otlp_endpoint: Address of a collector that spans of requests go to; "" for none.
        insecure: Listen beyond the loopback without keys or TLS, as behind a proxy.
    """

    bundle: Path | None = None
    backend: str = AUTO
    precision: str = AUTO
    threads: int = 1
    workers: int = 1
    host: str = "127.0.0.1"
    port: int = 8770
    max_streams: int = 32
    max_uploads: int = 8
    max_connections: int = 512
    max_upload_bytes: int = 32 * 2**20
    max_upload_s: float = 900.0
    max_stream_s: float = 3600.0
    idle_timeout_s: float = 30.0
    drain_s: float = 10.0
    allow_origins: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    keys_file: Path | None = None
    keys: str = field(default="", repr=False)
    tls_cert: Path | None = None
    tls_key: Path | None = None
    store: str | Path | None = field(default=None, repr=False)  # may hold a password
    store_key: bytes | None = field(default=None, repr=False)
    keep_s: float = 3600.0
    store_bytes: int = 2**30
    otlp_endpoint: str = ""
    insecure: bool = False

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            UsageError: A number is out of range, or others could listen in.
        """
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise UsageError(f"{name} must be from {least} to {most}, not {value}")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise UsageError("TLS needs a certificate and its key", hint="--tls-cert and --tls-key")
        missing = []
        if self.keys_file is None and not self.keys:
            missing.append("API keys (--keys)")
        if self.tls_cert is None:
            missing.append("TLS (--tls-cert, --tls-key)")
        if missing and not self.insecure and not is_loopback(self.host):
            raise UsageError(
                f"{self.host} is reached from elsewhere, which asks for {' and '.join(missing)}",
                hint="or pass --insecure where a proxy before the server has both",
            )


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address or name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
