"""`asa-engine serve --ray` in a cluster of two nodes: one server's answers, whatever dies."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import soundfile
from ray_cluster import RayCluster
from server_client import agree_final, listen, pcm, resume_offset, speak

import asa_engine as asa

DEMO = Path(__file__).parents[2] / "examples/audio/demo.flac"
LIMIT_S = 90.0  # a hang fails; nothing is measured
REPLICA = "ray::ServeReplica:"
RATE_HZ = 16_000


@dataclass
class Served:
    """A server on Ray.

    Attributes:
        url: Where.
        cluster: What runs it.
    """

    url: str
    cluster: RayCluster

    def run(self, scenario: Callable[[Served, aiohttp.ClientSession], Awaitable[None]]) -> None:
        """Run a client within the time limit."""

        async def whole() -> None:
            async with asyncio.timeout(LIMIT_S), aiohttp.ClientSession() as session:
                await scenario(self, session)

        asyncio.run(whole())

    def stream(self, session: aiohttp.ClientSession, more: str = "") -> Any:
        return session.ws_connect(f"{self.url}/v1/stream?sample_rate_hz={RATE_HZ}{more}")


@pytest.fixture(scope="module")
def served(cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The acoustic grader in one replica, or two where streams ask for it, on one store."""
    folder = tmp_path_factory.mktemp("served")
    command = [sys.executable, "-P", "-m", "asa_engine", "serve", "--ray", "--port", "0"]
    command += ["--bundle", "acoustic", "--max-streams", "4", "--max-replicas", "2"]
    command += ["--store", str(folder / "streams.db"), "--drain-s", "2"]
    with (folder / "errors.txt").open("w+") as errors:
        process = subprocess.Popen(
            command, env=cluster.environment, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        assert process.stdout is not None
        timer = threading.Timer(LIMIT_S, process.kill)
        timer.start()
        with process, process.stdout as output:
            try:
                line = output.readline()
                timer.cancel()
                errors.seek(0)
                assert line.startswith("listening on http://127.0.0.1:"), errors.read()[-3000:]
                yield Served(line.split()[-1], cluster)
            finally:
                timer.cancel()
                process.terminate()
            assert process.wait(60) == 0


@pytest.fixture(scope="module")
def offline() -> asa.Engine:
    """One process."""
    return asa.load("acoustic", threads=1)


@pytest.fixture(scope="module")
def speech() -> bytes:
    """Real speech, as PCM."""
    samples, rate_hz = soundfile.read(DEMO, dtype="float32")
    assert rate_hz == RATE_HZ
    return pcm(samples)


def _expected(offline: asa.Engine, data: bytes) -> dict[str, Any]:
    return offline.assess((np.frombuffer(data, "<i2"), RATE_HZ)).to_dict()


def test_a_file_and_a_stream_have_the_scores_of_one_process(
    served: Served, offline: asa.Engine, speech: bytes
) -> None:
    async def scenario(served: Served, session: aiohttp.ClientSession) -> None:
        async with session.post(f"{served.url}/v1/assess", data=DEMO.read_bytes()) as answer:
            assert answer.status == 200
            agree_final({"type": "final", "assessment": await answer.json()}, in_one)
        async with served.stream(session) as socket:
            _, messages = await asyncio.gather(speak(socket, speech), listen(socket))
        assert messages[0]["type"] == "provisional"
        agree_final(messages[-1], _expected(offline, speech))

    in_one = offline.assess(DEMO).to_dict()
    served.run(scenario)


def test_refusals_are_those_of_one_server(served: Served) -> None:
    async def scenario(served: Served, session: aiohttp.ClientSession) -> None:
        answers = {}
        for path, headers in (("/nothing", {}), ("/livez", {"Host": "evil.example"})):
            async with session.get(served.url + path, headers=headers) as answer:
                answers[path] = answer.status, (await answer.json())["error"]
        assert answers == {"/nothing": (404, "HTTPError"), "/livez": (421, "Misdirected")}
        async with served.stream(session, "&made=up") as socket:
            assert [each["error"] for each in await listen(socket)] == ["BadRequest"]
            assert socket.close_code == 1008

    served.run(scenario)


def test_streams_in_flight_bring_another_replica(
    served: Served, offline: asa.Engine, speech: bytes
) -> None:
    async def scenario(served: Served, session: aiohttp.ClientSession) -> None:
        assert len(served.cluster.processes(REPLICA)) == 1
        sockets = [await served.stream(session) for _ in range(4)]
        at = 0
        while len(served.cluster.processes(REPLICA)) < 2:
            for socket in sockets:
                await socket.send_bytes(speech[at : at + 3200])
            at += 3200
            await asyncio.sleep(0.25)
        data = speech[:at]
        for socket in sockets:
            await socket.send_json({"type": "finish"})
            agree_final((await listen(socket))[-1], _expected(offline, data))

    served.run(scenario)


def test_a_stream_outlives_its_replica(served: Served, offline: asa.Engine, speech: bytes) -> None:
    async def scenario(served: Served, session: aiohttp.ClientSession) -> None:
        name, half = "&id=0123456789abcdef", len(speech) // 2 // 2 * 2
        async with served.stream(session, name) as socket:
            assert await resume_offset(socket) == 0
            await socket.send_bytes(speech[:half])
            while not (await socket.receive_json()).get("saved"):
                pass
            # Which of them has the stream nobody tells.
            for replica in served.cluster.processes(REPLICA):
                os.kill(replica, 9)
            while not socket.closed:
                await socket.receive()
        while True:
            try:
                async with served.stream(session, name) as socket:
                    offset = await resume_offset(socket)
                    assert 0 < offset <= half
                    _, said = await asyncio.gather(speak(socket, speech[offset:]), listen(socket))
                    break
            except (aiohttp.ClientError, TypeError):  # the new ones are not there yet
                await asyncio.sleep(0.5)
        agree_final(said[-1], _expected(offline, speech))
        async with session.get(f"{served.url}/v1/streams/{name[4:]}") as answer:
            assert (await answer.json())["assessment"] == said[-1]["assessment"]

    served.run(scenario)


def test_nothing_listens_beyond_the_loopback_and_nothing_is_reported(served: Served) -> None:
    if shutil.which("ss") is None:
        pytest.skip("ss (Debian: iproute2) is not installed")
    found = [each for each in served.cluster.processes("") if each != served.cluster.process.pid]
    ports = subprocess.run(["ss", "-Htulnp"], capture_output=True, text=True, check=True).stdout
    own = [line for line in ports.splitlines() if any(f"pid={each}," in line for each in found)]
    assert len(own) > 8
    addresses = {line.split()[4].rpartition(":")[0] for line in own}
    assert addresses <= {"127.0.0.1", "[::ffff:127.0.0.1]", "[::1]"}, own
    for each in (*served.cluster.raylets(), *served.cluster.processes("dashboard")):
        assert b"RAY_USAGE_STATS_ENABLED=0" in Path(f"/proc/{each}/environ").read_bytes()
