"""Listen, and stop without losing what is running."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from asa_engine.engine import Engine, load, open_bundle
from asa_engine.errors import UsageError
from asa_engine.server.app import Api
from asa_engine.server.live import MAX_FRAME_BYTES
from asa_engine.server.logs import logging_to_stderr, patient_handler
from asa_engine.server.metrics import Metrics
from asa_engine.server.pacing import Config, HttpConnection, LiveConnection, Pace, sweep
from asa_engine.server.pool import JOIN_S, Pool
from asa_engine.server.settings import Settings
from asa_engine.server.store import Keeper, Store, StoreError
from asa_engine.server.texts import MAX_LINE_BYTES
from asa_engine.server.traces import Traces
from asa_engine.server.watch import Watch

__all__ = ["LOOK_S", "Server", "Workplace", "listening_sockets", "running", "serve", "working"]

BACKLOG: Final = 128
KEEPALIVE_S: Final = 30
LAST_WORDS_S: Final = 5  # for close handshakes, once everything running has been dismissed
PING_S: Final = 20.0  # finds connections whose other end is gone without a word
MARGIN_S: Final = 10.0  # over all that stopping should take, before the process ends anyhow
SPARE_FILES: Final = 64  # descriptors that are not connections
LOOK_S: Final = 0.25

_log = logging.getLogger("asa_engine.server")


@dataclass(frozen=True, slots=True)
class Server:
    """A server that listens.

    Attributes:
        url: Where, e.g. "http://127.0.0.1:8770".
        settings: What it was told.
        pool: Its worker threads.
        pace: What its connections share.
    """

    url: str
    settings: Settings
    pool: Pool
    pace: Pace

    async def drain(self) -> None:
        """Refuse what is new; let what is running end within the limit, then dismiss it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain_s):
                await self.pool.drain()


@dataclass(frozen=True, slots=True)
class Workplace:
    """What scores, without what listens.

    Attributes:
        settings: What it was told.
        metrics: Where requests are counted.
        pool: Its worker threads, started.
        keeper: Keeps streams that have an id, started; `None` where none are kept.
        traces: Where spans of requests go; `None` where they are not asked for.
    """

    settings: Settings
    metrics: Metrics
    pool: Pool
    keeper: Keeper | None
    traces: Traces | None = None

    def application(self, watch: Watch) -> ASGIApp:
        """Return the ASGI application over it."""
        shared = self.pool, self.metrics, watch, self.keeper, self.traces
        return Api(self.settings, *shared).application()


@contextlib.asynccontextmanager
async def working(settings: Settings) -> AsyncIterator[Workplace]:
    """Load the engines and open the store, for the block.

    Raises:
        AsaError: The bundle cannot be loaded, or does not score.
    """
    bundle = await asyncio.to_thread(
        open_bundle, settings.bundle, settings.backend, settings.precision
    )

    def load_engine() -> Engine:
        return load(
            bundle,
            backend=settings.backend,
            precision=settings.precision,
            threads=settings.threads,
        )

    metrics = Metrics()
    traces = None
    if settings.otlp_endpoint:
        traces = Traces(settings.otlp_endpoint, metadata.version("asa-engine"))
    live = dict.fromkeys(("stream", "session"), settings.max_streams)
    places = {**live, "upload": settings.max_uploads}
    pool = Pool(load_engine, workers=settings.workers, places=places, metrics=metrics)
    keeper = _keeper(settings, metrics)
    try:
        if keeper is not None:
            await asyncio.to_thread(keeper.start)
        await asyncio.to_thread(pool.start)
        yield Workplace(settings, metrics, pool, keeper, traces)
    finally:
        await asyncio.to_thread(pool.stop)
        if keeper is not None:
            await asyncio.to_thread(keeper.stop)
        if traces is not None:
            await asyncio.to_thread(traces.stop)


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Server]:
    """Load the engines and listen, for the block.

    Raises:
        AsaError: The bundle cannot be loaded, or does not score.
        UsageError: The address cannot be listened on.
    """
    sockets = listening_sockets(settings.host, settings.port)
    try:
        async with working(settings) as place, _listening(place, sockets) as pace:
            host, port = sockets[0].getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            scheme = "http" if settings.tls_cert is None else "https"
            yield Server(f"{scheme}://{shown}:{port}", settings, place.pool, pace)
    finally:
        for each in sockets:
            each.close()


def _keeper(settings: Settings, metrics: Metrics) -> Keeper | None:
    place = settings.store
    if place is None:
        return None

    def opened() -> Store:
        from asa_engine.server.store.places import open_store  # most servers do without it

        return open_store(place, settings.store_bytes, settings.store_key)

    def told(error: StoreError) -> None:
        metrics.store_failed()
        _log.error("the store failed: %s", error)

    return Keeper(opened, settings.keep_s, told)


@contextlib.asynccontextmanager
async def _listening(place: Workplace, sockets: list[socket.socket]) -> AsyncIterator[Pace]:
    """Answer connections, for the block; then tell what still runs that it ends."""
    settings, pool, metrics = place.settings, place.pool, place.metrics
    pace = Pace(_connections_at_most(settings.max_connections))

    def look(awake_s: float, late_s: float) -> None:
        metrics.lag(late_s)
        metrics.connections(len(server.server_state.connections), pace.refused)
        sweep(server.server_state.connections, awake_s, KEEPALIVE_S)

    watch = Watch(min(LOOK_S, settings.idle_timeout_s / 8), look)
    config = Config(
        place.application(watch),
        http=HttpConnection,
        ws=LiveConnection,
        ws_max_size=MAX_FRAME_BYTES,
        ws_ping_interval=PING_S,
        ws_ping_timeout=PING_S,
        # A small frame must not unpack into a large one.
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEPALIVE_S,
        timeout_graceful_shutdown=LAST_WORDS_S,
        h11_max_incomplete_event_size=MAX_LINE_BYTES,
        backlog=BACKLOG,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )
    config.pace = pace
    try:
        config.load()
    except OSError as failure:  # TLS errors, too
        raise UsageError(
            f"TLS cannot be set up: {failure.strerror or failure}",
            hint="give a certificate and its key as PEM files, the key without a password",
        ) from None
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    asyncio.get_running_loop().set_exception_handler(patient_handler())
    await server.startup(sockets)
    tasks = [asyncio.create_task(watch.run()), asyncio.create_task(server.main_loop())]
    try:
        yield pace
    finally:
        pool.draining = True
        pool.dismiss()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                await pool.until_empty()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await server.shutdown(sockets)


def listening_sockets(host: str, port: int) -> list[socket.socket]:
    """Return sockets bound to every address of a host.

    Raises:
        UsageError: One cannot be had.
    """
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            sockets.append(socket.create_server(address[:2], family=family, backlog=BACKLOG))
            sockets[-1].setblocking(False)
    except (OSError, UnicodeError) as failure:
        for each in sockets:
            each.close()
        reason = getattr(failure, "strerror", None) or failure
        raise UsageError(
            f"cannot listen on {host}:{port}: {reason}", hint="choose another --host or --port"
        ) from None
    return sockets


def _connections_at_most(asked: int) -> int:
    """Return how many connections the process has file descriptors for, up to what is asked."""
    try:
        import resource
    except ImportError:  # Windows
        return asked
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = asked + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return asked
    allowed = max(1, soft - min(SPARE_FILES, soft // 2))
    _log.warning("%d connections at most: there are %d file descriptors", allowed, soft)
    return allowed


def serve(settings: Settings, *, announce: Callable[[Server], None]) -> None:
    """Serve until SIGTERM or SIGINT; a second one cuts the waiting short.

    Args:
        settings: How.
        announce: Called once the server listens.

    Raises:
        AsaError: As for `running`.
    """
    with logging_to_stderr():
        asyncio.run(_serve(settings, announce))


async def _serve(settings: Settings, announce: Callable[[Server], None]) -> None:
    told, hurry = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        (hurry if told.is_set() else told).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stop)
        except NotImplementedError:  # Windows' event loops
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))
    async with running(settings) as server:
        announce(server)
        await told.wait()
        _end_in_time(settings.drain_s + 2 * LAST_WORDS_S + JOIN_S + MARGIN_S)
        tasks = [asyncio.create_task(server.drain()), asyncio.create_task(hurry.wait())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()


def _end_in_time(seconds: float) -> None:
    """End the process after so long, whatever still hangs then."""

    def end() -> None:
        _log.error("stopping took too long: the process ends")
        for handler in _log.handlers:
            handler.close()
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
