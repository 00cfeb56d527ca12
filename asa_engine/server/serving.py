"""Listen, and stop without losing what is running."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from asa_engine.bundle import Bundle
from asa_engine.engine import Engine, load
from asa_engine.errors import UsageError
from asa_engine.graders import grader_entry
from asa_engine.server.app import Api
from asa_engine.server.metrics import Metrics
from asa_engine.server.pool import Pool
from asa_engine.server.settings import Settings
from asa_engine.server.texts import MAX_LINE_BYTES

__all__ = ["Server", "running", "serve"]

KEEPALIVE_S: Final = 30.0
LAST_WORDS_S: Final = 5.0  # for close handshakes, once everything running has been dismissed


@dataclass(frozen=True, slots=True)
class Server:
    """A server that listens.

    Attributes:
        url: Where, e.g. "http://127.0.0.1:8770".
        settings: What it was told.
        pool: Its worker threads.
    """

    url: str
    settings: Settings
    pool: Pool

    async def drain(self) -> None:
        """Refuse what is new; let what is running end within the limit, then dismiss it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain_s):
                await self.pool.drain()


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Server]:
    """Load the engines and listen, for the block.

    Raises:
        AsaError: The bundle cannot be loaded.
        UsageError: The address cannot be listened on, or the grader scores sessions.
    """
    bundle = await asyncio.to_thread(Bundle.open, settings.bundle)
    if grader_entry(bundle.grader).session is not None:
        raise UsageError(
            f"the {bundle.grader} grader scores whole sessions, the server single recordings",
            mend="score sessions with 'asa-engine assess --session'",
        )

    def load_engine() -> Engine:
        return load(
            bundle,
            backend=settings.backend,
            precision=settings.precision,
            threads=settings.threads,
        )

    metrics = Metrics()
    pool = Pool(
        load_engine, workers=settings.workers, max_jobs=settings.max_streams, metrics=metrics
    )
    await asyncio.to_thread(pool.start)
    runner = web.AppRunner(
        Api(settings, pool, metrics).application(),
        access_log=None,
        handler_cancellation=True,  # a connection that drops frees its place
        keepalive_timeout=KEEPALIVE_S,
        max_line_size=MAX_LINE_BYTES,
        shutdown_timeout=LAST_WORDS_S,
    )
    try:
        await runner.setup()
        site = web.TCPSite(runner, settings.host, settings.port)
        try:
            await site.start()
        except OSError as failure:
            raise UsageError(
                f"cannot listen on {settings.host}:{settings.port}: {failure.strerror or failure}",
                mend="choose another --host or --port",
            ) from None
        host, port = runner.addresses[0][:2]
        shown = f"[{host}]" if ":" in host else host
        yield Server(f"http://{shown}:{port}", settings, pool)
    finally:
        pool.draining = True
        pool.dismiss()
        await runner.cleanup()
        await asyncio.to_thread(pool.stop)


def serve(settings: Settings, *, announce: Callable[[Server], None]) -> None:
    """Serve until SIGTERM or SIGINT; a second one cuts the waiting short.

    Args:
        settings: How.
        announce: Called once the server listens.

    Raises:
        AsaError: As for `running`.
    """
    asyncio.run(_serve(settings, announce))


async def _serve(settings: Settings, announce: Callable[[Server], None]) -> None:
    told, hurry = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        (hurry if told.is_set() else told).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    async with running(settings) as server:
        announce(server)
        await told.wait()
        tasks = [asyncio.create_task(server.drain()), asyncio.create_task(hurry.wait())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
