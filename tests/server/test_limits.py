"""Hostile, slow and vanished clients; a full server; faults. Each hurts only itself."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
from typing import Any

import numpy as np
import pytest
from audio_samples import RATE_HZ, encoded, noise, speech
from children import held
from server_client import Client, listen, pcm, speak, streamed

from asa_engine.errors import UsageError
from asa_engine.graders.acoustic.backends.fake import FakeBackend
from asa_engine.server.settings import Settings

ANSWER = speech(2.2, seed=3)


@pytest.mark.parametrize(
    ("data", "status", "error", "words"),
    [
        (b"", 422, "AudioError", "empty"),
        (b"hello, this is text", 422, "AudioError", "text, not audio"),
        (encoded(ANSWER)[:9000], 422, "AudioError", "cut short"),
        (encoded(ANSWER, "FLAC")[:9000], 422, "AudioError", ""),
        (bytes(200_001), 413, "TooLarge", "larger than 200000 bytes"),
        (encoded(noise(20.0), "OGG"), 413, "TooLarge", "longer than is taken"),
    ],
    ids=["empty", "text", "cut wav", "cut flac", "large", "long"],
)
def test_a_bad_upload_is_told_why(
    with_server: Any, data: bytes, status: int, error: str, words: str
) -> None:
    async def scenario(client: Client) -> None:
        async with client.assess(data) as response:
            told = await response.json()
        assert response.status == status
        assert told["error"] == error
        assert words in told["message"]
        async with client.assess(encoded(ANSWER)) as response:
            assert response.status == 200

    with_server(scenario, max_upload_bytes=200_000, max_upload_s=15.0)


def test_a_body_of_untold_length_is_bounded(with_server: Any) -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield bytes(65_536)

    async def scenario(client: Client) -> None:
        async with client.assess(endless()) as response:
            assert response.status == 413

    with_server(scenario, max_upload_bytes=100_000)


def test_unknown_routes_answer_in_json(with_server: Any) -> None:
    async def scenario(client: Client) -> None:
        async with client.get("/v1/nothing") as response:
            assert response.status == 404
            assert "404" in (await response.json())["message"]
        async with client.get("/v1/assess") as response:
            assert response.status == 405

    with_server(scenario)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("?sample_rate_hz=16k", "sample_rate_hz"),
        ("?sample_rate_hz=100", "sample_rate_hz"),
        ("?sample_rate_hz=-16000", "sample_rate_hz"),
        ("?sample_rate_hz=" + "9" * 5000, "sample_rate_hz"),
        ("?format=mp3", "format"),
        ("?rate=16000", "unknown parameter"),
    ],
)
def test_wrong_parameters_are_named(with_server: Any, query: str, words: str) -> None:
    async def scenario(client: Client) -> None:
        async with client.stream(query) as socket:
            (told,) = await listen(socket)
        assert told["type"] == "error"
        assert told["error"] == "BadRequest"
        assert words in told["message"]
        assert socket.close_code == 1008

    with_server(scenario)


async def _send_nan(socket: Any) -> None:
    await socket.send_bytes(np.array([0.0, np.nan], "<f4").tobytes())


async def _send_huge_values(socket: Any) -> None:
    await socket.send_bytes(np.array([0.0, 1e30], "<f4").tobytes())


async def _send_half_a_sample(socket: Any) -> None:
    await speak(socket, pcm(ANSWER)[:-1])


async def _send_nothing(socket: Any) -> None:
    await speak(socket, b"")


async def _send_words(socket: Any) -> None:
    await socket.send_str("finish")


async def _send_unknown_type(socket: Any) -> None:
    await socket.send_json({"type": "start"})


async def _send_deep_json(socket: Any) -> None:
    await socket.send_str("[" * 100_000)


@pytest.mark.parametrize(
    ("act", "error", "code"),
    [
        (_send_nan, "AudioError", 1007),
        (_send_huge_values, "AudioError", 1007),
        (_send_half_a_sample, "AudioError", 1007),
        (_send_nothing, "AudioError", 1007),
        (_send_words, "BadRequest", 1008),
        (_send_unknown_type, "BadRequest", 1008),
        (_send_deep_json, "BadRequest", 1008),
    ],
)
def test_a_bad_stream_hurts_only_itself(with_server: Any, act: Any, error: str, code: int) -> None:
    async def scenario(client: Client) -> None:
        async with client.stream() as other:
            await other.send_bytes(pcm(ANSWER))
            async with client.stream("?format=f32le") as socket:
                await act(socket)
                told = (await listen(socket))[-1]
            assert (told["type"], told["error"]) == ("error", error)
            assert socket.close_code == code
            await other.send_json({"type": "finish"})
            assert (await listen(other))[-1]["type"] == "final"
        await client.until_open(0)

    with_server(scenario, workers=1)


def test_an_oversized_frame_closes_the_stream(with_server: Any) -> None:
    async def scenario(client: Client) -> None:
        async with client.stream() as socket:
            await socket.send_bytes(bytes(2**20 + 2))
            await listen(socket)
        assert socket.close_code == 1009
        await client.until_open(0)

    with_server(scenario)


def test_a_full_server_says_try_again(with_server: Any) -> None:
    async def scenario(client: Client) -> None:
        async with client.stream() as first:
            await client.until_open(1)
            async with client.stream() as second:
                (told,) = await listen(second)
            assert told["error"] == "Full"
            assert told["retry_after_s"] == 2
            assert second.close_code == 1013
            async with client.assess(encoded(ANSWER)) as response:
                assert response.status == 200
            await speak(first, pcm(ANSWER))
            assert (await listen(first))[-1]["type"] == "final"

    with_server(scenario, max_streams=1)


async def _stuck() -> Any:
    """Yield the beginning of an upload, and no more."""
    yield bytes(1000)
    await asyncio.sleep(3600)


def test_uploads_have_places_of_their_own(with_server: Any) -> None:
    async def scenario(client: Client) -> None:
        upload = asyncio.ensure_future(client.assess(_stuck()))
        await client.until_open(1)
        async with client.assess(encoded(ANSWER)) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) > 0
        assert (await streamed(client, pcm(ANSWER)))[-1]["type"] == "final"
        upload.cancel()
        await client.until_open(0)
        async with client.assess(encoded(ANSWER)) as response:
            assert response.status == 200

    with_server(scenario, max_streams=1, max_uploads=1)


@pytest.mark.parametrize("polite", [True, False])
def test_a_dropped_connection_frees_its_place(with_server: Any, polite: bool) -> None:
    async def scenario(client: Client) -> None:
        socket = await client.stream()
        await socket.send_bytes(pcm(ANSWER))
        await client.until_open(1)
        if polite:
            await socket.close()
        else:
            socket._response.connection.transport.abort()
        await client.until_open(0)
        messages = await streamed(client, pcm(ANSWER))
        assert messages[-1]["type"] == "final"

    with_server(scenario, max_streams=1)


def test_a_dropped_upload_frees_its_place(with_server: Any) -> None:
    async def scenario(client: Client) -> None:
        upload = asyncio.ensure_future(client.assess(_stuck()))
        await client.until_open(1)
        upload.cancel()
        await client.until_open(0)

    with_server(scenario)


def test_nobody_works_for_an_upload_that_was_dropped(
    with_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(client: Client) -> None:
        begun, go_on = held(monkeypatch, FakeBackend, "encode")
        upload = asyncio.ensure_future(client.assess(encoded(np.tile(ANSWER, 10))))
        await asyncio.to_thread(begun.wait, 30)
        upload.cancel()
        try:
            await client.until_open(0)
        finally:
            go_on.set()
        assert (await streamed(client, pcm(ANSWER)))[-1]["type"] == "final"
        async with client.get("/metrics") as response:
            lines = (await response.text()).splitlines()
        # The window that was being encoded, and the three of the stream.
        assert "asa_windows_encoded_total 4.0" in lines
        assert 'asa_ended_total{kind="upload",outcome="dropped"} 1.0' in lines

    with_server(scenario, workers=1)


def test_nothing_is_unpacked(with_server: Any) -> None:
    async def scenario(client: Client) -> None:
        async with client.stream(compress=15) as socket:
            assert socket.compress == 0

    with_server(scenario)


def test_silent_clients_are_dropped(with_server: Any) -> None:
    async def scenario(client: Client) -> None:
        async with client.stream() as socket:
            (told,) = await listen(socket)
        assert told["error"] == "TooSlow"
        assert socket.close_code == 1008

        async def stuck() -> Any:
            yield bytes(1000)
            await asyncio.sleep(30)

        async with client.assess(_stuck()) as response:
            assert response.status == 408
        await client.until_open(0)

    with_server(scenario, idle_timeout_s=0.2)


def test_a_stream_has_an_end(with_server: Any) -> None:
    async def scenario(client: Client) -> None:
        async with client.stream() as long:
            await long.send_bytes(bytes(2 * RATE_HZ * 3))
            told = (await listen(long))[-1]
            assert "longer than 2 s" in told["message"]
            assert long.close_code == 1009
        async with client.stream() as slow:
            told = (await listen(slow))[-1]
            assert "open for 2 s" in told["message"]

    with_server(scenario, max_stream_s=2.0)


def test_a_fast_sender_is_held_back(with_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    encode = FakeBackend.encode

    def stuck(self: FakeBackend, *args: Any, **options: Any) -> Any:
        assert go_on.wait(60)
        return encode(self, *args, **options)

    frame = bytes(2**19)
    frames = 64  # 32 MiB: more than the buffers of any loopback

    async def scenario(client: Client) -> None:
        monkeypatch.setattr(FakeBackend, "encode", stuck)
        sent = 0

        async def send_all(socket: Any) -> None:
            nonlocal sent
            for _ in range(frames):
                await socket.send_bytes(frame)
                sent += 1

        async with client.stream() as socket:
            try:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(send_all(socket), 1.0)
                assert 0 < sent < frames
                # Two seconds may wait, and the frame that went over them.
                assert client.server.pool.waiting_s <= 2.0 + len(frame) / 2 / RATE_HZ
                async with client.get("/v1/health") as response:
                    assert response.status == 200
            finally:
                go_on.set()
            socket._response.connection.transport.abort()
        await client.until_open(0)

    with_server(scenario)


def test_a_long_upload_does_not_keep_a_speaker_waiting(
    with_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = encoded(np.tile(ANSWER, 100), "FLAC")
    encode = FakeBackend.encode

    def slow(self: FakeBackend, *args: Any, **options: Any) -> Any:
        time.sleep(0.02)
        return encode(self, *args, **options)

    async def scenario(client: Client) -> None:
        monkeypatch.setattr(FakeBackend, "encode", slow)
        ended = []

        async def upload() -> None:
            async with client.assess(io.BytesIO(long)) as response:
                assert response.status == 200
            ended.append("upload")

        uploading = asyncio.create_task(upload())
        await client.until_open(1)
        await streamed(client, pcm(ANSWER))
        ended.append("stream")
        await uploading
        assert ended == ["stream", "upload"]

    with_server(scenario, workers=1)


def test_a_fault_is_logged_and_not_shown(
    with_server: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: FakeBackend, *args: Any, **options: Any) -> Any:
        raise RuntimeError("a secret detail")

    async def scenario(client: Client) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(FakeBackend, "encode", broken)
            async with client.assess(encoded(ANSWER)) as response:
                assert response.status == 500
                assert "secret" not in await response.text()
            messages = await streamed(client, pcm(ANSWER))
            assert messages[-1]["error"] == "InternalError"
            assert "secret" not in json.dumps(messages)
        assert (await streamed(client, pcm(ANSWER)))[-1]["type"] == "final"

    with_server(scenario, workers=1)
    assert "a secret detail" in caplog.text


@pytest.mark.parametrize(
    "options", [{"workers": 0}, {"max_streams": 0}, {"max_upload_bytes": 2**40}, {"port": 70_000}]
)
def test_settings_are_bounded(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        Settings(**options)
