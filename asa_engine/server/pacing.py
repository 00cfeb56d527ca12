"""Connections: how many there are, and how much of the event loop's time one may take.

uvicorn hands a protocol up to 256 KiB at a time, which may hold tens of thousands of tiny frames
or chunks, each of them some microseconds of Python. Here a connection is read in small parts, with
the rest of the loop between them, and one whose bytes cost more than speech ever does is read from
less often: its own back-pressure then holds it back, and nobody else waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any, Final, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request

__all__ = ["Config", "HttpConnection", "LiveConnection", "Pace", "sweep"]

LEAST_PART_BYTES: Final = 512  # half a millisecond of tiny frames
MOST_PART_BYTES: Final = 65_536
FREE_S_PER_BYTE: Final = 20e-9  # large frames and bodies cost less than that
USUAL_SHARE: Final = 0.02  # of the loop's time: frames of 10 ms cost a quarter of it
DEAR_SHARE: Final = 0.1  # for all connections together that cost more
BURST_S: Final = 0.02
LONGEST_WAIT_S: Final = 1.0
LAST_WORDS_S: Final = 5.0  # for a client to take what was written before the close

_FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)


class Pace:
    """What all connections of a server share.

    Args:
        max_connections: How many may be open at once.

    Attributes:
        refused: How many were turned away.
    """

    def __init__(self, max_connections: int) -> None:
        self.max_connections = max_connections
        self.refused = 0
        self._in_debt: set[Valve] = set()

    @property
    def rate(self) -> float:
        """Seconds of the loop's time that a dear connection gets every second."""
        return DEAR_SHARE / max(1, len(self._in_debt))

    @property
    def held_back(self) -> int:
        """How many connections are held back now."""
        return len(self._in_debt)

    def note(self, valve: Valve, *, is_in_debt: bool) -> None:
        """Take note of who is held back."""
        (self._in_debt.add if is_in_debt else self._in_debt.discard)(valve)


class Config(uvicorn.Config):
    """uvicorn's, with the pace that the connections find here."""

    pace: Pace


class Valve(asyncio.Transport):
    """The transport as a protocol sees it: what is read passes in parts, as `Pace` allows.

    Attributes:
        arrived_s: When the bytes that are being read came, on `time.perf_counter`.
    """

    def __init__(self, transport: asyncio.Transport, protocol: _Paced, pace: Pace) -> None:
        super().__init__()
        self.arrived_s = time.perf_counter()
        self._transport = transport
        self._protocol = protocol
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._pending = b""
        self._is_held = False  # by the protocol
        self._is_stuck = False  # the client does not take what is written
        self._turn: asyncio.Handle | None = None
        self._debt_s = 0.0
        self._is_dear = False
        self._part_bytes = LEAST_PART_BYTES
        self._paid_at_s = self.arrived_s

    def take(self, data: bytes) -> None:
        """Take what was read from the socket."""
        self.arrived_s = time.perf_counter()
        self._pending += data
        if self._turn is None:
            self._pass_on()

    def serve(self, protocol: _Paced) -> None:
        """Pass on to another protocol from now on: the connection was upgraded."""
        self._protocol = protocol

    def stick(self, is_stuck: bool) -> None:
        """Read nothing from a client that does not take what is written."""
        self._is_stuck = is_stuck
        if is_stuck:
            self._transport.pause_reading()
        self._schedule(0.0)

    def lost(self) -> None:
        """Forget what has not been passed on."""
        self._pending = b""
        self._pace.note(self, is_in_debt=False)
        if self._turn is not None:
            self._turn.cancel()

    def _pass_on(self) -> None:
        self._turn = None
        if self._is_held or self._is_stuck or self._transport.is_closing():
            return self._transport.pause_reading()
        wait_s = 0.0
        if self._pending:
            size = self._part_bytes
            part, self._pending = self._pending[:size], self._pending[size:]
            # The thread's own time: waiting for the interpreter lock is not the client's doing.
            start = time.thread_time()
            self._protocol.parse(part)
            cost_s = time.thread_time() - start - size * FREE_S_PER_BYTE
            wait_s = self._charge(cost_s)
            self._part_bytes = LEAST_PART_BYTES if cost_s > 0 else min(2 * size, MOST_PART_BYTES)
        if self._pending or wait_s:
            self._transport.pause_reading()
            self._schedule(wait_s)
        else:
            self._transport.resume_reading()

    def _charge(self, cost_s: float) -> float:
        """Return for how long not to read."""
        now = time.perf_counter()
        rate = self._pace.rate if self._is_dear else USUAL_SHARE
        paid_s = rate * (now - self._paid_at_s)
        left_s = self._debt_s - paid_s
        self._debt_s = max(0.0, left_s) + max(0.0, cost_s)
        self._paid_at_s = now
        # Held back from the burst's end until all is paid: who floods on stays so.
        self._is_dear = self._debt_s > BURST_S or (self._is_dear and left_s > 0)
        self._pace.note(self, is_in_debt=self._is_dear)
        return min(max(0.0, (self._debt_s - BURST_S) / self._pace.rate), LONGEST_WAIT_S)

    def _schedule(self, wait_s: float) -> None:
        if self._turn is not None or self._is_held or self._is_stuck:
            return
        if wait_s:
            self._turn = self._loop.call_later(wait_s, self._pass_on)
        else:
            self._turn = self._loop.call_soon(self._pass_on)

    # What uvicorn asks of a transport.

    def pause_reading(self) -> None:
        """Pass nothing on; reading stops if more comes meanwhile, which is seldom."""
        self._is_held = True

    def resume_reading(self) -> None:
        """Pass on again, on the loop's next round."""
        self._is_held = False
        if self._pending or not self._transport.is_reading():
            self._schedule(0.0)

    def close(self) -> None:
        """Close once what was written is taken, and without that after a while."""
        if not self._transport.is_closing():
            self._loop.call_later(LAST_WORDS_S, self._transport.abort)
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def is_closing(self) -> bool:
        """Tell whether it is closed, or about to be."""
        return self._transport.is_closing()

    def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        """Write."""
        self._transport.write(data)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what the transport tells."""
        return self._transport.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Let the socket's events go to another protocol."""
        self._transport.set_protocol(protocol)


class _Paced(asyncio.Protocol):
    """What both protocols share: a valve before the parser."""

    valve: Valve

    def parse(self, data: bytes) -> None:
        """Parse bytes: a few of what was read."""
        super().data_received(data)

    def data_received(self, data: bytes) -> None:
        self.valve.take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.valve.lost()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        self.valve.stick(True)
        super().pause_writing()

    def resume_writing(self) -> None:
        self.valve.stick(False)
        super().resume_writing()


class HttpConnection(_Paced, H11Protocol):
    """HTTP/1.1, in parts; turned away where there are too many connections."""

    config: Config
    unasked_since_s: float | None = None
    """Since when no request is being answered, as `sweep` found it."""
    _is_refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        own = cast(asyncio.Transport, transport)
        pace = self.config.pace
        self.valve = Valve(own, self, pace)
        if len(self.connections) >= pace.max_connections:
            pace.refused += 1
            self._is_refused = True
            own.write(_FULL)
            own.close()
            return
        super().connection_made(self.valve)

    def data_received(self, data: bytes) -> None:
        if not self._is_refused:
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._is_refused:
            super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        # The WebSocket parser takes a shorter line than texts need: its request has a plain one,
        # and `LiveConnection` puts the target back.
        self.app_state = {**self.app_state, "target": event.target}
        plain = h11.Request(
            method=event.method,
            target=b"/",
            headers=event.headers,
            http_version=event.http_version,
        )
        super().handle_websocket_upgrade(plain)

    @property
    def is_unasked(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete


class LiveConnection(_Paced, WebSocketsSansIOProtocol):
    """A WebSocket, in parts; what they hold of samples reaches the application in one piece.

    Samples are cut anywhere, so that frames may be joined: a thousand tiny ones cost the
    application no more than one.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.close_timeout = LAST_WORDS_S
        self._samples: list[bytes] = []

    def parse(self, data: bytes) -> None:
        super().parse(data)
        self._pass_samples()

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "bytes" and not self.close_sent:
            self._samples += self.frames
            self.frames = []
        else:
            self._pass_samples()
            super().send_receive_event_to_app()

    def handle_close(self, event: Frame) -> None:
        self._pass_samples()
        super().handle_close(event)

    def _pass_samples(self) -> None:
        samples = b"".join(self._samples)
        self._samples.clear()
        if not samples or self.close_sent:
            return
        self.queue.put_nowait({"type": "websocket.receive", "bytes": samples, "text": None})
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.valve = cast(Valve, transport)
        self.valve.serve(self)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self.handshake_initiated:
            super().data_received(data)
        else:  # the request, which uvicorn passes on itself
            self.parse(data)

    def handle_connect(self, event: Request) -> None:
        event.path = self.app_state["target"].decode("ascii")
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.scope["state"]["valve"] = self.valve


def sweep(connections: Iterable[object], now_s: float, longest_s: float) -> None:
    """Close connections on which nothing is asked, or a request's head does not end.

    Args:
        connections: uvicorn's.
        now_s: Seconds that the process was awake.
        longest_s: How long they may stay so.
    """
    for connection in tuple(connections):
        if not isinstance(connection, HttpConnection):
            continue
        if not connection.is_unasked:
            connection.unasked_since_s = None
        elif connection.unasked_since_s is None:
            connection.unasked_since_s = now_s
        elif now_s - connection.unasked_since_s > longest_s:
            connection.valve.abort()
