"""A server on the loopback, in the test's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import asa_engine as asa

if TYPE_CHECKING:
    from databases import PostgresqlServer
    from server_client import Client

TIME_LIMIT_S = 60.0  # a hang fails; nothing is measured

WithServer = Callable[..., None]


@pytest.fixture
def with_server(fake_bundle: Path) -> WithServer:
    """Run `scenario(client)` against a server with these settings, within a time limit."""
    import aiohttp
    from server_client import Client

    from asa_engine.server.serving import running
    from asa_engine.server.settings import Settings

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


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """A real server of PostgreSQL, which runs while the tests do."""
    from databases import postgresql_server

    with postgresql_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new store can be: in a file, or in a database of its own."""
    if request.param == "sqlite":
        return str(tmp_path / "streams.db")
    return str(request.getfixturevalue("postgresql").new())
