"""Stopping: what runs may end, what does not end is told, the process exits with 0."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from audio_samples import encoded, speech
from server_client import Client, listen, pcm, speak

from asa_engine.cli import serve
from asa_engine.cli.main import main

ANSWER = speech(2.2, seed=3)

PROGRAM = "import sys; from asa_engine.cli.main import main; sys.exit(main())"
# As on Windows, whose event loops take no signal handlers.
BARE_PROGRAM = f"""
import asyncio
def refuse(*arguments): raise NotImplementedError
asyncio.SelectorEventLoop.add_signal_handler = refuse
{PROGRAM}
"""


def test_draining_refuses_what_is_new_and_finishes_what_runs(with_server: Any) -> None:
    async def scenario(client: Client) -> None:
        async with client.stream() as running:
            await running.send_bytes(pcm(ANSWER))
            await client.until_open(1)
            draining = asyncio.create_task(client.server.drain())
            await asyncio.sleep(0)
            async with client.get("/v1/health") as response:
                assert response.status == 503
                assert (await response.json())["status"] == "draining"
            async with client.assess(encoded(ANSWER)) as response:
                assert response.status == 503
                assert (await response.json())["error"] == "Stopping"
            async with client.stream() as late:
                (told,) = await listen(late)
            assert told["error"] == "Stopping"
            assert late.close_code == 1001
            assert not draining.done()
            await running.send_json({"type": "finish"})
            assert (await listen(running))[-1]["type"] == "final"
            await draining

    with_server(scenario)


def test_what_does_not_end_is_told(with_server: Any) -> None:
    async def scenario(client: Client) -> None:
        async with client.stream() as endless:
            await endless.send_bytes(pcm(ANSWER))
            await client.until_open(1)
            await client.server.drain()
            client.server.pool.dismiss()
            told = (await listen(endless))[-1]
        assert told["error"] == "Stopping"
        assert endless.close_code == 1001

    with_server(scenario, drain_s=0.1)


@pytest.mark.parametrize("program", [PROGRAM, BARE_PROGRAM], ids=["handler", "bare"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_a_running_stream_finish(
    fake_bundle: Path, number: signal.Signals, program: str
) -> None:
    import aiohttp

    options = ["--bundle", str(fake_bundle), "--backend", "fake", "--port", "0", "--drain-s", "30"]
    with subprocess.Popen(
        [sys.executable, "-c", program, "serve", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]

            async def scenario() -> None:
                async with (
                    asyncio.timeout(30),
                    aiohttp.ClientSession() as session,
                    session.ws_connect(f"{url}/v1/stream?sample_rate_hz=16000") as running,
                ):
                    await running.send_bytes(pcm(ANSWER))
                    assert (await running.receive_json())["type"] == "provisional"
                    process.send_signal(number)
                    while (await (await session.get(f"{url}/v1/health")).json())["status"] == "ok":
                        await asyncio.sleep(0.01)
                    await speak(running, pcm(ANSWER))
                    assert (await listen(running))[-1]["type"] == "final"

            asyncio.run(scenario())
            assert process.wait(30) == 0
        finally:
            process.kill()
        assert process.stderr is not None
        assert process.stderr.read().splitlines()[-1] == "stopped"


def _refused(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    """Return the exit code, and the one line on standard error."""
    code = main(["serve", "--port", "0", *options])
    (line,) = capsys.readouterr().err.splitlines()
    return code, line


def test_a_taken_port_is_one_clear_line(
    fake_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        options = ["--bundle", str(fake_bundle), "--backend", "fake", "--port", port]
        code, line = _refused(capsys, *options)
    assert code == 2
    assert f"cannot listen on 127.0.0.1:{port}" in line


def test_an_unusable_bundle_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = _refused(capsys, "--bundle", str(tmp_path))
    assert code == 4
    assert "holds neither" in line


def test_an_engine_that_does_not_load_stops_the_server(
    fake_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The fixture's artifacts are no ONNX files: every worker's engine fails to load.
    code, _ = _refused(capsys, "--bundle", str(fake_bundle), "--backend", "onnxruntime")
    assert code == 4


def test_a_missing_extra_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    code, line = _refused(capsys)
    assert code == 4
    assert "pip install 'asa-engine[server]'" in line
