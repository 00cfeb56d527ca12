"""A server on the loopback, in the test's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from server_client import Client

import asa_engine as asa

aiohttp = pytest.importorskip("aiohttp", reason="needs the extra 'server'")

TIME_LIMIT_S = 60.0  # a hang fails; nothing is measured

WithServer = Callable[..., None]


@pytest.fixture
def with_server(fake_bundle: Path) -> WithServer:
    """Run `scenario(client)` against a server with these settings, within a time limit."""
    from asa_engine.server import Settings
    from asa_engine.server.serving import running

    def run(scenario: Callable[[Client], Awaitable[None]], **options: Any) -> None:
        settings = Settings(**{"bundle": fake_bundle, "backend": "fake", "port": 0, **options})

        async def whole() -> None:
            async with (
                asyncio.timeout(TIME_LIMIT_S),
                running(settings) as server,
                aiohttp.ClientSession() as session,
            ):
                await scenario(Client(server, session))

        asyncio.run(whole())

    return run


@pytest.fixture
def offline(fake_bundle: Path) -> asa.Engine:
    """The engine that a server's scores are compared with."""
    return asa.load(fake_bundle, backend="fake", threads=1)
