"""Servers whose store is away, locked, full, wrong or shared: nobody loses a score, or a bit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from audio_samples import RATE_HZ, speech
from databases import PASSWORD, QUOTED, PostgresqlServer, postgresql_server
from server_client import RESUMABLE, STREAM_ID, Client, agree_final, listen, pcm, resume_offset

import asa_engine as asa
from asa_engine.cli.main import main
from asa_engine.server import resuming
from asa_engine.server.serving import running
from asa_engine.server.settings import Settings
from asa_engine.server.store.places import open_store

ANSWER = pcm(speech(6.3, seed=3))
OTHER = RESUMABLE.replace(STREAM_ID, "fedcba9876543210")
TIME_LIMIT_S = 120.0  # a hang fails; nothing is measured


@pytest.fixture(autouse=True)
def _short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of two seconds, so that an answer of six has several."""
    monkeypatch.setattr(resuming, "PIECE_TURNS", 2)


@pytest.fixture
def expected(offline: asa.Engine) -> dict[str, Any]:
    return offline.assess((np.frombuffer(ANSWER, "<i2"), RATE_HZ)).to_dict()


async def _send(socket: Any, start: int, stop: int = len(ANSWER)) -> None:
    for at in range(start, stop, 3200):
        await socket.send_bytes(ANSWER[at : min(at + 3200, stop)])


async def _finish(client: Client, query: str = RESUMABLE) -> Any:
    """Go on with a stream to its end, which may be kept already."""
    async with client.stream(query) as socket:
        told = await socket.receive_json()
        if told["type"] != "resume":
            return told
        await _send(socket, int(told["offset"]))
        await socket.send_json({"type": "finish"})
        return (await listen(socket))[-1]


async def _until_kept(client: Client, size: int) -> None:
    while True:
        async with client.get(f"/v1/streams/{STREAM_ID}") as response:
            if response.status == 200 and (await response.json())["bytes"] >= size:
                return
        await asyncio.sleep(0.05)


async def _until_refused(client: Client) -> None:
    """Wait until the store is found to be down."""
    while True:
        async with client.stream(OTHER) as socket:
            if (await socket.receive_json()).get("error") == "StoreDown":
                return
        await asyncio.sleep(0.05)


@pytest.fixture
def own() -> Iterator[PostgresqlServer]:
    """A server of PostgreSQL that may be stopped."""
    with postgresql_server() as server:
        yield server


def test_a_store_that_is_down_at_the_start_is_one_line(
    fake_bundle: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve = ["serve", "--bundle", str(fake_bundle), "--backend", "fake", "--port", "0"]
    monkeypatch.setenv("ASA_STORE", f"postgresql://asa:{QUOTED}@127.0.0.1:1/streams")
    for arguments, said in (
        ([], "postgresql://127.0.0.1:1/streams cannot be used as a store"),
        (["--store", "/proc/none/streams.db"], "cannot be used as a store"),
        (["--store", "redis://me:secret@host"], "a store cannot be in 'redis'"),
    ):
        assert main([*serve, *arguments]) == 2
        told = capfd.readouterr().err
        assert said in told
        assert told.count("\n") == 1
        for secret in (PASSWORD, QUOTED, "secret", "Traceback"):
            assert secret not in told


def test_a_store_that_goes_and_comes_back_misses_nothing(
    with_server: Any,
    own: PostgresqlServer,
    expected: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(client: Client) -> None:
        socket = await client.stream(RESUMABLE)
        await resume_offset(socket)
        await _send(socket, 0, 70_000)
        await _until_kept(client, 64_000)
        own.stop()
        await _send(socket, 70_000, 140_000)
        await _until_refused(client)
        await asyncio.to_thread(own.start)
        await _send(socket, 140_000, 205_000)
        await _until_kept(client, 192_000)  # three pieces, of which the second found it away
        await socket.close()
        agree_final(await _finish(client), expected)
        async with client.stream(OTHER) as socket:
            await _send(socket, await resume_offset(socket))
            own.stop()
            await socket.send_json({"type": "finish"})
            agree_final((await listen(socket))[-1], expected)
        async with client.get("/metrics") as response:
            page = await response.text()
        assert "asa_store_errors_total 0.0" not in page
        assert PASSWORD not in page

    with_server(scenario, store=own.new())
    for secret in (PASSWORD, QUOTED, "INSERT", STREAM_ID):
        assert secret not in caplog.text


@contextlib.contextmanager
def _locked(place: str, postgresql: PostgresqlServer | None) -> Iterator[None]:
    """Keep everybody else from writing to a store, for the block."""
    if postgresql is None:
        base: Any = sqlite3.connect(place, isolation_level=None)
        with contextlib.closing(base):
            base.execute("BEGIN EXCLUSIVE")
            yield
        return
    database = place.split("/")[-1 - place.split("?")[1].count("/")].split("?")[0]
    with contextlib.closing(postgresql.admin(database)) as base:
        base.execute("BEGIN")
        base.execute("LOCK TABLE asa_audio, asa_streams IN ACCESS EXCLUSIVE MODE")
        yield


def test_a_store_that_hangs_costs_nobody_a_score(
    with_server: Any,
    place: str,
    request: pytest.FixtureRequest,
    expected: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody else has a lock on it, for longer than a learner would wait."""
    monkeypatch.setattr(resuming, "WITHIN_S", 0.2)
    monkeypatch.setattr(resuming, "MOST_UNKEPT_BYTES", 100_000)
    own = request.getfixturevalue("postgresql") if "postgresql" in place else None

    async def scenario(client: Client) -> None:
        async with client.stream(RESUMABLE) as socket:
            await resume_offset(socket)
            await _send(socket, 0, 70_000)
            await _until_kept(client, 64_000)
            with _locked(place, own):
                await _send(socket, 70_000)
                await socket.send_json({"type": "finish"})
                agree_final((await listen(socket))[-1], expected)
                await _until_refused(client)
        monkeypatch.setattr(resuming, "WITHIN_S", 30.0)
        agree_final(await _finish(client, OTHER), expected)
        agree_final(await _finish(client), expected)

    with_server(scenario, store=place)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=24m,mode=0777", "tmpfs", str(folder)],
            stderr=subprocess.DEVNULL,
        ).returncode
    )
    if not mounted:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_full_disk_costs_nobody_a_score(
    with_server: Any,
    kind: str,
    small_disk: Path,
    own: PostgresqlServer,
    expected: dict[str, Any],
) -> None:
    place, filler = str(small_disk / "streams.db"), small_disk / "filler"
    if kind == "postgresql":
        for folder in (small_disk.parent, small_disk.parent.parent, small_disk.parents[2]):
            folder.chmod(0o755)  # of pytest's: who runs PostgreSQL passes
        place = own.new(tablespace=small_disk)

    def fill() -> None:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    async def scenario(client: Client) -> None:
        async with client.stream(RESUMABLE) as socket:
            await resume_offset(socket)
            await _send(socket, 0, 70_000)
            await _until_kept(client, 64_000)
            fill()
            await _send(socket, 70_000)
            await socket.send_json({"type": "finish"})
            agree_final((await listen(socket))[-1], expected)
        filler.unlink()
        agree_final(await _finish(client), expected)
        agree_final(await _finish(client, OTHER), expected)

    with_server(scenario, store=place)


def _on_two(
    bundle: Path, place: str, scenario: Callable[[Client, Client], Any], **options: Any
) -> None:
    """Run `scenario(here, there)` against two servers on one store."""
    settings = Settings(bundle=bundle, backend="fake", port=0, store=place, **options)

    async def whole() -> None:
        async with (
            asyncio.timeout(TIME_LIMIT_S),
            running(settings) as here,
            running(settings) as there,
            aiohttp.ClientSession() as session,
        ):
            await scenario(Client(here, session), Client(there, session))

    asyncio.run(whole())


@pytest.mark.parametrize("key", [None, b"k" * 32], ids=["plain", "encrypted"])
def test_a_stream_goes_on_at_another_server(
    fake_bundle: Path, place: str, expected: dict[str, Any], key: bytes | None
) -> None:
    """The earlier connection still hangs, and hears of it when it brings more."""

    async def scenario(here: Client, there: Client) -> None:
        async with here.stream(RESUMABLE) as hanging:
            await resume_offset(hanging)
            await _send(hanging, 0, 70_000)
            await _until_kept(there, 64_000)
            final = await _finish(there)
            agree_final(final, expected)
            await _send(hanging, 70_000, 140_000)
            assert (await listen(hanging))[-1]["error"] == "TakenOver"
        async with here.stream(RESUMABLE) as socket:
            assert await listen(socket) == [final]

    _on_two(fake_bundle, place, scenario, store_key=key)


def test_a_stream_that_another_server_deleted_ends(fake_bundle: Path, place: str) -> None:
    async def scenario(here: Client, there: Client) -> None:
        async with here.stream(RESUMABLE) as socket:
            await resume_offset(socket)
            await _send(socket, 0, 70_000)
            await _until_kept(there, 64_000)
            url = f"{there.server.url}/v1/streams/{STREAM_ID}"
            async with there.session.delete(url) as response:
                assert response.status == 204
            await _send(socket, 70_000, 140_000)
            assert (await listen(socket))[-1]["error"] == "TakenOver"

    _on_two(fake_bundle, place, scenario)
    store = open_store(place, 2**20)
    with store.transaction():
        assert store.find(STREAM_ID) is None
        assert store.audio(STREAM_ID, 0) == b""
    store.close()
