"""Serve from a Ray cluster until told to stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from asa_engine.cluster.node import in_cluster, joins
from asa_engine.cluster.scale import Scale
from asa_engine.engine import open_bundle
from asa_engine.errors import BackendError
from asa_engine.server.serving import listening_sockets
from asa_engine.server.settings import Settings, is_loopback

__all__ = ["serve_on_ray"]

NAME = "asa-engine"


def serve_on_ray(
    settings: Settings, scale: Callable[[int], Scale], *, announce: Callable[[str, Scale], None]
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: As for one server: limits are those of each replica.
        scale: From the cluster's CPUs.
        announce: Called with the address once it is served.

    Raises:
        AsaError: The bundle cannot be loaded, the address cannot be listened on, or Ray fails.
    """
    # What would keep every replica from starting is said here, in a line.
    open_bundle(settings.bundle, settings.backend, settings.precision)
    port = _free_port(settings.host, settings.port)
    with in_cluster() as cpus, _until_told() as told:
        chosen = scale(cpus)
        with _deployed(settings, chosen, port):
            scheme = "http" if settings.tls_cert is None else "https"
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            announce(f"{scheme}://{host}:{port}", chosen)
            told.wait()


@contextlib.contextmanager
def _deployed(settings: Settings, scale: Scale, port: int) -> Iterator[None]:
    from ray import serve

    from asa_engine.cluster.replica import application

    if serve.status().proxies:
        raise BackendError(
            "Serve runs in this cluster already, where and how it was started",
            hint="add the application to it: serve deploy; or end it: serve shutdown",
        )
    options = {
        "host": settings.host,
        "port": port,
        "ssl_certfile": settings.tls_cert and str(settings.tls_cert),
        "ssl_keyfile": settings.tls_key and str(settings.tls_key),
    }
    try:
        # Each node's own loopback would be of use to that node alone.
        where = "HeadOnly" if is_loopback(settings.host) else "EveryNode"
        quiet = {"enable_access_log": False, "log_level": "WARNING"}
        serve.start(http_options=options, proxy_location=where, logging_config=quiet)
        serve.run(application(settings, scale), name=NAME, route_prefix="/")
    except Exception as failure:  # Ray's have no common base
        with contextlib.suppress(Exception):
            serve.shutdown()
        told = str(failure).strip().splitlines() or [type(failure).__name__]
        raise BackendError(
            f"the replicas did not start: {told[-1]}",
            hint="Serve's logs are in /tmp/ray/session_latest/logs/serve",
        ) from None
    try:
        yield
    finally:
        serve.delete(NAME)  # lets end what is open, within --drain-s
        if joins():
            serve.shutdown()


def _free_port(host: str, port: int) -> int:
    """Return a port that can be listened on; Serve would go on without one."""
    sockets = listening_sockets(host, port)
    found: int = sockets[0].getsockname()[1]
    for each in sockets:
        each.close()
    return found


@contextlib.contextmanager
def _until_told() -> Iterator[threading.Event]:
    """Yield what is set by the first SIGTERM or SIGINT."""
    told = threading.Event()
    numbers = (signal.SIGTERM, signal.SIGINT)
    # Ray's own would end the process before the replicas are.
    before = [signal.signal(number, lambda *_: told.set()) for number in numbers]
    try:
        yield told
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
