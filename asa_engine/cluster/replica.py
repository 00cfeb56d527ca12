"""A replica: one server's workers, routes and limits, behind Serve's proxy, not a port."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import ray.serve._private.replica as serve_replica
from ray import serve
from ray._common.tls_utils import add_port_to_grpc_server
from ray.serve._private import constants
from ray.util import get_node_ip_address
from starlette.types import ASGIApp

from asa_engine.cluster.gate import Gate
from asa_engine.cluster.scale import Scale
from asa_engine.errors import BackendError
from asa_engine.server.logs import logging_to_stderr
from asa_engine.server.pool import Pool
from asa_engine.server.serving import LOOK_S, working
from asa_engine.server.settings import Settings
from asa_engine.server.watch import Watch

__all__ = ["Replica", "application"]


class Replica:
    """The engines of one server, loaded where Ray placed it.

    Args:
        settings: Its limits. Host, port and TLS are the proxy's.
    """

    def __init__(self, settings: Settings) -> None:
        _stay_on_this_address()
        self._settings = settings
        self._until_end = contextlib.AsyncExitStack()
        self._pool: Pool | None = None

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        """Load the engines, open the store, and return what answers; Serve asks for it once."""
        self._until_end.enter_context(logging_to_stderr())
        place = await self._until_end.enter_async_context(working(self._settings))
        self._pool = place.pool
        interval_s = min(LOOK_S, self._settings.idle_timeout_s / 8)
        watch = Watch(interval_s, lambda awake_s, late_s: place.metrics.lag(late_s))
        watching = asyncio.create_task(watch.run())
        self._until_end.callback(watching.cancel)
        is_direct = constants.RAY_SERVE_ENABLE_HA_PROXY or constants.RAY_SERVE_ENABLE_DIRECT_INGRESS
        return Gate(place.application(watch), self._settings, sees_clients=not is_direct)

    async def check_health(self) -> None:
        """Let Serve replace a replica one of whose workers has ended."""
        if self._pool is not None and not self._pool.is_whole:
            raise BackendError("a worker ended")

    async def __del__(self) -> None:
        # Serve's way to end a replica, once nothing is open on it or the time for that is over.
        if self._pool is not None:
            self._pool.draining = True
            self._pool.dismiss()
        await self._until_end.aclose()


def _stay_on_this_address() -> None:
    """Let the port that Serve opens in every replica be one of this node's address alone.

    It is for other replicas, takes pickled requests from whoever reaches it, and would be on every
    interface.
    """

    def add(server: Any, address: str) -> Any:
        port = address.rpartition(":")[2]
        return add_port_to_grpc_server(server, f"{get_node_ip_address()}:{port}")

    serve_replica.add_port_to_grpc_server = add


def application(settings: Settings, scale: Scale) -> Any:
    """Return a Serve application of replicas with these settings."""
    kind = serve.deployment(serve.ingress()(Replica), **scale.deployment(settings))
    return kind.bind(settings)
