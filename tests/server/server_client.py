"""What clients of a server under test do."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

# Here, because every test that needs it imports this module: all of them skip.
pytest.importorskip("aiohttp", reason="needs the extra 'server'")


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
