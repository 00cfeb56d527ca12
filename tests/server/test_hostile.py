"""Clients that flood, trickle, hold on and hold back. Each hurts only itself."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from audio_samples import RATE_HZ, encoded, speech
from raw_client import FINISH, PING, RawClient, frame
from server_client import Client, listen, pcm, streamed

from asa_engine.server import live, pacing
from asa_engine.server.jobs import StreamJob

ANSWER = speech(1.2, seed=3)


@pytest.mark.parametrize("payload", [b"", b"\0"], ids=["empty", "one byte"])
def test_a_flood_of_tiny_frames_leaves_the_loop_to_others(
    with_server: Any, monkeypatch: pytest.MonkeyPatch, payload: bytes
) -> None:
    frames = 6000
    loop_round = 0
    parsed: Counter[int] = Counter()
    fed: list[bytes] = []
    handle, feed = pacing.LiveConnection.handle_bytes, StreamJob.feed

    def noting(self: pacing.LiveConnection, event: Any) -> None:
        parsed[loop_round] += 1
        handle(self, event)

    async def feeding(self: StreamJob, data: bytes) -> None:
        fed.append(data)
        await feed(self, data)

    monkeypatch.setattr(pacing.LiveConnection, "handle_bytes", noting)
    monkeypatch.setattr(StreamJob, "feed", feeding)

    async def count() -> None:
        nonlocal loop_round
        while True:
            await asyncio.sleep(0)
            loop_round += 1

    async def scenario(client: Client) -> None:
        counting = asyncio.create_task(count())
        async with RawClient(client.server.url) as flooder:
            await flooder.open_stream()
            await flooder.send(frame(payload) * frames + frame(pcm(ANSWER)) + FINISH)
            while sum(parsed.values()) < frames + 1:
                await asyncio.sleep(0.01)
            await client.until_open(0)
        counting.cancel()
        most = pacing.LEAST_PART_BYTES // len(frame(payload)) + 1
        assert max(parsed.values()) <= most
        assert b"".join(fed) == payload * frames + pcm(ANSWER)
        assert len(fed) < frames / 10

    with_server(scenario)


def test_a_dear_connection_is_read_from_less_often(with_server: Any) -> None:
    async def scenario(client: Client) -> None:
        flood = frame(b"\0\0") * 20_000

        async def flooding(flooder: RawClient) -> None:
            while True:
                await flooder.send(flood)

        async with RawClient(client.server.url) as flooder:
            await flooder.open_stream()
            sending = asyncio.create_task(flooding(flooder))
            while not pacing_debt(client):
                await asyncio.sleep(0.01)
            assert (await streamed(client, pcm(ANSWER)))[-1]["type"] == "final"
            sending.cancel()
        await client.until_open(0)
        assert pacing_debt(client) == 0

    with_server(scenario)


def pacing_debt(client: Client) -> int:
    """Return how many connections are held back."""
    return client.server.pace.held_back


def test_the_time_to_score_starts_when_finish_arrives(
    with_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    heed = live._heed

    def slow(*arguments: Any) -> None:
        time.sleep(0.2)  # the loop comes late to what has arrived
        heed(*arguments)

    monkeypatch.setattr(live, "_heed", slow)

    async def scenario(client: Client) -> None:
        final = (await streamed(client, pcm(ANSWER)))[-1]["assessment"]
        assert final["timing"]["time_to_score_ms"] >= 200

    with_server(scenario)


def test_connections_are_counted(with_server: Any) -> None:
    async def scenario(client: Client) -> None:
        async with RawClient(client.server.url) as first, RawClient(client.server.url):
            async with RawClient(client.server.url) as third:
                head = (await third.reader.read()).decode()
                assert head.startswith("HTTP/1.1 503 ")
                assert "Retry-After" in head
            assert "200 OK" in await first.ask("GET /livez HTTP/1.1\nHost: localhost")

    with_server(scenario, max_connections=2)


def test_a_connection_that_asks_nothing_is_closed(
    with_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asa_engine.server.serving.KEEPALIVE_S", 0.2)

    async def scenario(client: Client) -> None:
        async with RawClient(client.server.url) as silent, RawClient(client.server.url) as endless:
            await endless.send(b"GET /livez HTTP/1.1\r\n")
            for number in range(1000):
                try:
                    await endless.send(f"X-{number}: x\r\n".encode())
                except ConnectionError:
                    break
                await asyncio.sleep(0.02)
            else:
                pytest.fail("a head that does not end is waited for")
            await silent.until_closed()

    with_server(scenario, idle_timeout_s=0.4)


def test_a_trickled_body_is_not_waited_for(with_server: Any) -> None:
    async def trickle() -> Any:
        while True:
            yield b"\0"
            await asyncio.sleep(0.02)

    async def scenario(client: Client) -> None:
        async with client.assess(trickle()) as response:
            assert response.status == 408
        await client.until_open(0)

    with_server(scenario, idle_timeout_s=0.3)


@pytest.mark.parametrize("sent", [frame(b"", PING), frame(b""), frame(b"\0\0")])
def test_what_is_no_speech_holds_no_place(with_server: Any, sent: bytes) -> None:
    async def scenario(client: Client) -> None:
        async with RawClient(client.server.url) as holder:
            await holder.open_stream()
            await client.until_open(1)
            for _ in range(500):
                try:
                    await holder.send(sent)
                except ConnectionError:
                    break
                if not sum(client.server.pool.open_jobs.values()):
                    break
                await asyncio.sleep(0.02)
            await client.until_open(0)

    with_server(scenario, idle_timeout_s=0.3)


def test_a_client_that_takes_nothing_is_not_read_from(with_server: Any) -> None:
    async def scenario(client: Client) -> None:
        async with RawClient(client.server.url) as deaf:
            await deaf.open_stream()
            pings = frame(bytes(125), PING) * 500
            deaf.writer.transport.pause_reading()
            for _ in range(2000):  # 130 MB, more than all buffers between
                try:
                    await asyncio.wait_for(deaf.send(pings), 1.0)
                except TimeoutError:
                    break
            else:
                pytest.fail("pongs pile up")
        await client.until_open(0)

    with_server(scenario, idle_timeout_s=60.0)


PROGRAM = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (96, 96))
from asa_engine.cli.main import main
sys.exit(main())
"""


def _serving(fake_bundle: Path, program: str, *options: str) -> Any:
    given = ["--bundle", str(fake_bundle), "--backend", "fake", "--port", "0", "--workers", "1"]
    return subprocess.Popen(
        [sys.executable, "-c", program, "serve", *given, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_storm_of_connections_is_a_few_lines(fake_bundle: Path) -> None:
    pytest.importorskip("resource")
    with _serving(fake_bundle, PROGRAM) as process:
        try:
            url = process.stdout.readline().split()[-1]

            async def storm() -> None:
                clients = [RawClient(url) for _ in range(300)]
                for client in clients:
                    await client.__aenter__()
                await asyncio.sleep(1.5)
                for client in clients:
                    await client.__aexit__()
                async with asyncio.timeout(30):
                    while True:
                        async with RawClient(url) as client:
                            answer = await client.ask("GET /livez HTTP/1.1\nHost: localhost")
                        if "200 OK" in answer:
                            return
                        await asyncio.sleep(0.1)

            asyncio.run(storm())
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
        assert len(process.stderr.read().splitlines()) < 20


TALKATIVE = """
import sys, logging
from asa_engine.cli.main import main
from asa_engine.server import serving
log = logging.getLogger("asa_engine.server")
look = serving.sweep
def sweep(*arguments):
    for _ in range(100):
        log.error("x" * 1000)
    look(*arguments)
serving.sweep = sweep
sys.exit(main())
"""


def test_a_log_that_nobody_reads_holds_nobody_up(fake_bundle: Path) -> None:
    with _serving(fake_bundle, TALKATIVE) as process:
        try:
            url = process.stdout.readline().split()[-1]

            async def scenario() -> None:
                async with asyncio.timeout(30), RawClient(url) as client:
                    await asyncio.sleep(1.5)  # the pipe is full by then
                    answer = await client.ask("GET /livez HTTP/1.1\nHost: localhost")
                    assert "200 OK" in answer

            asyncio.run(scenario())
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()


def test_a_process_that_was_stopped_blames_nobody(fake_bundle: Path) -> None:
    import aiohttp

    program = "import sys; from asa_engine.cli.main import main; sys.exit(main())"
    with _serving(fake_bundle, program, "--idle-timeout-s", "2") as process:
        try:
            url = process.stdout.readline().split()[-1]

            async def scenario() -> None:
                chunk = pcm(ANSWER)[: RATE_HZ // 5]
                async with (
                    asyncio.timeout(60),
                    aiohttp.ClientSession() as session,
                    session.ws_connect(f"{url}/v1/stream?sample_rate_hz=16000") as socket,
                ):
                    for index in range(45):
                        await socket.send_bytes(chunk)
                        await asyncio.sleep(0.1)
                        if index == 5:
                            process.send_signal(signal.SIGSTOP)
                        if index == 35:
                            process.send_signal(signal.SIGCONT)
                    await socket.send_json({"type": "finish"})
                    assert (await listen(socket))[-1]["type"] == "final"

            asyncio.run(scenario())
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()


HANGING = """
import sys, time
import uvicorn
from asa_engine.cli.main import main
from asa_engine.server import serving
serving.LAST_WORDS_S = serving.JOIN_S = 0.1
serving.MARGIN_S = 0.5
async def hang(self, sockets=None):
    time.sleep(3600)
uvicorn.Server.shutdown = hang
sys.exit(main())
"""


def test_stopping_has_an_end(fake_bundle: Path) -> None:
    with _serving(fake_bundle, HANGING, "--drain-s", "0.1") as process:
        try:
            process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 1
        finally:
            process.kill()
        assert "stopping took too long" in process.stderr.read()


def test_a_fault_is_not_counted_as_dropped(
    with_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> Any:
        raise MemoryError

    async def scenario(client: Client) -> None:
        monkeypatch.setattr("asa_engine.server.app._written", full)
        async with client.assess(encoded(ANSWER)) as response:
            assert response.status == 500
        async with client.get("/metrics") as response:
            page = await response.text()
        assert re.search(r'asa_ended_total\{kind="upload",outcome="failed"\} 1', page)

    with_server(scenario)


def test_health_reads_nothing_from_disk(with_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(client: Client) -> None:
        opened: list[Any] = []
        monkeypatch.setattr(os, "listdir", opened.append)
        monkeypatch.setattr("importlib.metadata.version", opened.append)
        async with client.get("/v1/health") as response:
            assert response.status == 200
        assert opened == []

    with_server(scenario)
