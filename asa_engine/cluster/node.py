"""Join a Ray cluster, or start one on this machine, where nobody else reaches it."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Final
from urllib.parse import urlsplit

from asa_engine.errors import ArtifactError, BackendError

__all__ = ["in_cluster", "joins", "stay_on_loopback"]

ADDRESS: Final = "RAY_ADDRESS"
"""Ray's own variable: the cluster to join. Without it one is started on the loopback."""
CONNECT_S: Final = 10.0
_LOOPBACK: Final = "127.0.0.1"
_HINT: Final = "Ray's logs are in /tmp/ray/session_latest/logs"


def joins() -> bool:
    """Tell whether there is a cluster to join."""
    return bool(os.environ.get(ADDRESS))


@contextlib.contextmanager
def in_cluster() -> Iterator[int]:
    """Be part of a Ray cluster for the block; yield how many CPUs it has.

    Raises:
        ArtifactError: The extra is missing.
        BackendError: The cluster is not reached, or Ray does not start.
    """
    if find_spec("ray") is None:
        raise ArtifactError("ray is not installed", hint="pip install 'asa-engine[ray]'")
    # Every line that a replica logs, as it is; Ray reads these as it is imported.
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    import ray

    try:
        stay_on_loopback()
        with _private_files():
            if joins():
                _check_answers(os.environ[ADDRESS])
                ray.init(logging_level=logging.ERROR)
            else:
                # Without "local" it is the cluster that somebody started last on this machine.
                ray.init(
                    "local",
                    include_dashboard=False,
                    logging_level=logging.ERROR,
                    _node_ip_address=_LOOPBACK,
                )
    except Exception as failure:  # Ray's have no common base
        where = os.environ.get(ADDRESS) or "this machine"
        reason = (str(failure).strip() or type(failure).__name__).splitlines()[0]
        raise BackendError(f"Ray does not start on {where}: {reason}", hint=_HINT) from None
    try:
        yield int(ray.cluster_resources().get("CPU", 1))
    finally:
        ray.shutdown()


def stay_on_loopback() -> None:
    """Let Ray take 127.0.0.1 for this machine's address where this process starts or looks for one.

    On Linux it takes an address that others reach, even in place of a 127.0.0.1 that it is given,
    and opens its ports, which run what they are sent, on every interface. How a cluster elsewhere
    is joined does not change.
    """
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False


def _check_answers(address: str) -> None:
    """Find out at once what Ray would take many minutes to.

    Raises:
        OSError: Nobody listens there.
    """
    place = urlsplit(address if "//" in address else f"//{address}")
    if place.hostname and place.port:
        socket.create_connection((place.hostname, place.port), CONNECT_S).close()


@contextlib.contextmanager
def _private_files() -> Iterator[None]:
    """Let nobody else read what is written in the block: the cluster's token, its logs."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)
