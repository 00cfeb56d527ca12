"""What clients of a server under test do."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

# Here, because every test that needs them imports this module: all of them skip. The client is of
# another make than the server.
pytest.importorskip("uvicorn", reason="needs the extra 'server'")
pytest.importorskip("aiohttp", reason="needs the extra 'test'")

STREAM_ID = "0123456789abcdef"
RESUMABLE = f"?sample_rate_hz=16000&id={STREAM_ID}"


class Client:
    """An HTTP session bound to one running server."""

    def __init__(self, server: Any, session: Any) -> None:
        self.server = server
        self.session = session

    def get(self, path: str, **options: Any) -> Any:
        return self.session.get(self.server.url + path, **options)

    def assess(self, data: Any, **options: Any) -> Any:
        return self.session.post(self.server.url + "/v1/assess", data=data, **options)

    def stream(self, query: str = "", **options: Any) -> Any:
        if "sample_rate_hz" not in query:
            query = f"?sample_rate_hz=16000&{query.removeprefix('?')}"
        return self.session.ws_connect(f"{self.server.url}/v1/stream{query}", **options)

    async def until_open(self, count: int) -> None:
        """Wait until so many streams and uploads are open."""
        while sum(self.server.pool.open_jobs.values()) != count:
            await asyncio.sleep(0.01)


def pcm(samples: np.ndarray) -> bytes:
    """Return float samples as 16-bit little-endian PCM."""
    return np.round(samples * 32767).astype("<i2").tobytes()


async def speak(socket: Any, data: bytes, chunk_bytes: int = 3200) -> None:
    """Send PCM in chunks, then finish."""
    for start in range(0, len(data), chunk_bytes):
        await socket.send_bytes(data[start : start + chunk_bytes])
    await socket.send_json({"type": "finish"})


async def listen(socket: Any) -> list[dict[str, Any]]:
    """Return every message until the server closes."""
    return [message.json() async for message in socket]


def agree(served: dict[str, Any], offline: dict[str, Any], *more: str) -> None:
    """Check that everything but the timing is the same, to the last bit."""
    for part in ("grader", "scores", "prior", "validity", "receipt", *more):
        assert served.get(part) == offline.get(part), part


def agree_final(message: dict[str, Any], offline: dict[str, Any]) -> None:
    """Check that a stream's last message has the offline scores."""
    assert message["type"] == "final", message
    agree(message["assessment"], offline)


async def resume_offset(socket: Any) -> int:
    """Return the byte that the server wants a stream to go on from."""
    told = await socket.receive_json()
    assert told["type"] == "resume", told
    return int(told["offset"])


async def streamed(
    client: Client, data: bytes, query: str = "", chunk_bytes: int = 3200
) -> list[dict[str, Any]]:
    """Speak and listen at the same time; return every message."""
    async with client.stream(query) as socket:
        _, messages = await asyncio.gather(speak(socket, data, chunk_bytes), listen(socket))
        return messages


def values(assessment: dict[str, Any]) -> dict[str, float]:
    """Return score name -> value."""
    return {name: score["value"] for name, score in assessment["scores"].items()}
