"""The WebSocket protocol: PCM in, provisional scores out while it comes, the final ones at the end.

client                              server
binary: raw PCM, cut anywhere
                                    {"type": "provisional", "scores": {...}, "windows": n}
{"type": "finish"}
                                    {"type": "final", "assessment": {...}}, close 1000
                                    or, at any time,
                                    {"type": "error", "error", "message", "mend", ...}, close
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import WSMsgType, web

from asa_engine.assessment import Assessment
from asa_engine.audio import MAX_SAMPLE_RATE_HZ, MIN_SAMPLE_RATE_HZ, SAMPLE_RATE_HZ
from asa_engine.errors import AsaError
from asa_engine.server.jobs import StreamJob
from asa_engine.server.metrics import Metrics
from asa_engine.server.pool import Pool
from asa_engine.server.refusal import BadRequest, InternalError, TooLarge, TooSlow, close_code
from asa_engine.server.settings import Settings
from asa_engine.server.texts import texts_of

__all__ = ["FORMATS", "MAX_FRAME_BYTES", "live"]

FORMATS: Final = {"s16le": "<i2", "f32le": "<f4"}
MAX_FRAME_BYTES: Final = 2**20
CLOSE_HANDSHAKE_S: Final = 5.0
_MAX_REASON_BYTES: Final = 123  # RFC 6455, section 5.5

_log = logging.getLogger("asa_engine.server")


async def live(
    request: web.Request, pool: Pool, metrics: Metrics, settings: Settings
) -> web.WebSocketResponse:
    """Answer one WebSocket from its opening to its close."""
    # No compression: a small frame must not unpack into a large one.
    socket = web.WebSocketResponse(
        timeout=CLOSE_HANDSHAKE_S, max_msg_size=MAX_FRAME_BYTES, compress=False
    )
    await socket.prepare(request)
    try:
        try:
            job = _job(request.query, metrics, settings.max_stream_s)
            with pool.admit(job):
                await _converse(socket, job, settings)
        except AsaError as error:
            await _send(socket, {"type": "error", **error.to_dict()}, settings.idle_timeout_s)
            reason = str(error).encode()[:_MAX_REASON_BYTES].decode(errors="ignore")
            await socket.close(code=close_code(error), message=reason.encode())
        else:
            await socket.close()
    except ConnectionError:
        if request.transport is not None and not socket.closed:
            request.transport.abort()
    return socket


def _job(query: Mapping[str, str], metrics: Metrics, max_s: float) -> StreamJob:
    texts = texts_of(query, {"sample_rate_hz", "format"})
    rate = query.get("sample_rate_hz", str(SAMPLE_RATE_HZ))
    in_range = (
        rate.isascii()
        and rate.isdigit()
        and len(rate) <= len(str(MAX_SAMPLE_RATE_HZ))
        and MIN_SAMPLE_RATE_HZ <= int(rate) <= MAX_SAMPLE_RATE_HZ
    )
    if not in_range:
        raise BadRequest(
            f"sample_rate_hz is {rate!r}",
            mend=f"whole numbers from {MIN_SAMPLE_RATE_HZ} to {MAX_SAMPLE_RATE_HZ} are taken",
        )
    name = query.get("format", "s16le")
    if name not in FORMATS:
        raise BadRequest(f"format is {name!r}", mend=f"choose from {', '.join(FORMATS)}")
    return StreamJob(metrics, max_s, texts, sample_rate_hz=int(rate), dtype=FORMATS[name])


async def _converse(socket: web.WebSocketResponse, job: StreamJob, settings: Settings) -> None:
    """Send what the job says until its last message.

    Raises:
        AsaError: What the client is to be told before the close.
        ConnectionError: The client is gone, or takes nothing.
    """
    reader = asyncio.create_task(_read(socket, job, settings.idle_timeout_s))
    try:
        async with asyncio.timeout(settings.max_stream_s):
            while True:
                message = await job.next()
                if message is None:
                    raise ConnectionResetError
                if isinstance(message, AsaError):
                    raise message
                if isinstance(message, Assessment):
                    final = {"type": "final", "assessment": message.to_dict()}
                    return await _send(socket, final, settings.idle_timeout_s)
                told = {
                    "type": "provisional",
                    "scores": message.scores,
                    "windows": message.windows,
                }
                await _send(socket, told, settings.idle_timeout_s)
    except TimeoutError:
        raise TooLarge(
            f"the stream was open for {settings.max_stream_s:g} s",
            mend="finish it and open another",
        ) from None
    finally:
        reader.cancel()
        await asyncio.wait([reader])


async def _read(socket: web.WebSocketResponse, job: StreamJob, idle_timeout_s: float) -> None:
    """Feed the job what the client sends; what goes wrong becomes the job's last message."""
    finished = False
    try:
        while True:
            frame = await socket.receive(timeout=None if finished else idle_timeout_s)
            if frame.type is WSMsgType.BINARY:
                await job.feed(frame.data)
            elif frame.type is WSMsgType.TEXT:
                _check_finish(frame.data)
                job.finish()
                finished = True
            else:  # closed by the client, or by the library over a malformed or oversized frame
                return job.post(None)
    except AsaError as error:
        job.post(error)
    except TimeoutError:
        job.post(
            TooSlow(f"nothing came for {idle_timeout_s:g} s", mend="send audio, or a ping, or end")
        )
    except Exception:
        _log.exception("reading a stream failed")
        job.post(InternalError())


def _check_finish(text: str) -> None:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or value.get("type") != "finish":
        raise BadRequest(
            "a text frame that is not understood", mend='the one known is {"type": "finish"}'
        )


async def _send(
    socket: web.WebSocketResponse, message: Mapping[str, Any], timeout_s: float
) -> None:
    """Send one message.

    Raises:
        ConnectionError: The client is gone, or did not take it in time.
    """
    try:
        async with asyncio.timeout(timeout_s):
            await socket.send_json(message)
    except TimeoutError:
        raise ConnectionResetError from None
