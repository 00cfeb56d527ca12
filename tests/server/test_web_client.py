"""The client for web pages goes on when the server is killed, and says why where it cannot."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audio_samples import RATE_HZ, speech
from server_client import Client, pcm

import asa_engine as asa
from asa_engine.server.keys import new_key

SCRIPT = Path(__file__).parents[1] / "node" / "stream_client.mjs"
ANSWER = pcm(speech(6.3, seed=3))  # windows close a second and two after the first piece is kept
PROGRAM = "import sys; from asa_engine.cli.main import main; sys.exit(main())"


def _node() -> list[str]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js runs the client")
    major = int(subprocess.check_output([node, "--version"], text=True)[1:].split(".")[0])
    if major < 20:
        pytest.skip(f"Node.js {major} has no WebSocket")
    return [node] if major > 21 else [node, "--experimental-websocket", "--no-warnings"]


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    path = tmp_path / "answer.pcm"
    path.write_bytes(ANSWER)
    return path


def test_it_goes_on_when_the_server_is_killed(
    fake_bundle: Path, tmp_path: Path, spoken: Path, offline: asa.Engine
) -> None:
    node = _node()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def serving() -> Any:
        options = ["--bundle", str(fake_bundle), "--backend", "fake", "--workers", "1"]
        kept = ["--port", port, "--store", str(tmp_path / "streams.db")]
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "serve", *options, *kept],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline()
        return process

    def kill(process: Any) -> None:
        process.kill()
        process.wait()
        process.stdout.close()

    server = serving()
    command = [*node, str(SCRIPT), f"ws://127.0.0.1:{port}", str(spoken)]
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
            try:
                assert client.stdout is not None
                told: list[dict[str, Any]] = []
                killed_at = 0
                for line in client.stdout:
                    told.append(json.loads(line))
                    saved = told[-1].get("progress", {}).get("saved", 0)
                    if saved and not killed_at:
                        killed_at = len(told)
                        kill(server)
                        server = serving()
            finally:
                client.kill()
    finally:
        kill(server)
    assert killed_at
    expected = offline.assess((np.frombuffer(ANSWER, "<i2"), RATE_HZ)).to_dict()
    assert told[-1].keys() == {"assessment"}
    for part in ("scores", "prior", "validity", "receipt"):
        assert told[-1]["assessment"].get(part) == expected.get(part)


def test_it_says_why_it_cannot(with_server: Any, tmp_path: Path, spoken: Path) -> None:
    node = _node()
    key, line = new_key("page")

    async def run(client: Client, *arguments: str) -> dict[str, Any]:
        url = client.server.url.replace("http", "ws", 1)
        process = await asyncio.create_subprocess_exec(
            *node, str(SCRIPT), url, str(spoken), *arguments, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        told: dict[str, Any] = json.loads(out.splitlines()[-1])
        return told

    async def without_a_store(client: Client) -> None:
        told = await run(client)
        assert told["error"] == "BadRequest"
        assert "--store" in told["message"]

    async def with_a_key(client: Client) -> None:
        assert "assessment" in await run(client, key)

    with_server(without_a_store)
    with_server(with_a_key, keys=line, store=tmp_path / "streams.db")
