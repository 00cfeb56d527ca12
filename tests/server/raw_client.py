"""A client that keeps no rules: bytes on a socket."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from typing import Any, Self
from urllib.parse import urlsplit

BINARY, TEXT, PING = 0x2, 0x1, 0x9


def frame(payload: bytes = b"", opcode: int = BINARY) -> bytes:
    """Return a masked WebSocket frame (RFC 6455, section 5.2); the mask is zeros."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 2**16:
        length = b"\xfe" + struct.pack(">H", size)
    else:
        length = b"\xff" + struct.pack(">Q", size)
    return bytes([0x80 | opcode]) + length + bytes(4) + payload


FINISH = frame(b'{"type": "finish"}', TEXT)


class RawClient:
    """A connection to a server, for a block."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self._host, self._port = place.hostname, place.port
        self.reader: Any = None
        self.writer: Any = None

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(self._host, self._port)
        return self

    async def __aexit__(self, *ended: object) -> None:
        self.writer.transport.abort()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def ask(self, text: str) -> str:
        """Send a request of this head; return the head of the answer."""
        await self.send(text.replace("\n", "\r\n").encode() + b"\r\n\r\n")
        return (await self.reader.readuntil(b"\r\n\r\n")).decode()

    async def until_closed(self) -> None:
        """Wait until the server ends the connection."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(2**16):
                pass

    async def open_stream(self, query: str = "sample_rate_hz=16000") -> None:
        """Open a WebSocket."""
        head = await self.ask(
            f"GET /v1/stream?{query} HTTP/1.1\nHost: localhost\nUpgrade: websocket\n"
            "Connection: Upgrade\nSec-WebSocket-Version: 13\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
        )
        assert head.startswith("HTTP/1.1 101 ")
