"""The WebSocket protocols: PCM in, provisional scores out while it comes, then the final ones.

client                              server
                                    {"type": "resume", "offset": n}, where the stream has an id
binary: raw PCM, cut anywhere
                                    {"type": "provisional", "scores": {...}, "windows": n}
{"type": "finish"}
                                    {"type": "rationale", "text": ...}, from graders that write one
                                    {"type": "final", "assessment": {...}}, close 1000
                                    or, at any time,
                                    {"type": "error", "error", "message", "hint", ...}, close

A session, for graders of them, has its responses one after another, before it is finished:

{"type": "begin", "part": "P1"}
binary: raw PCM
{"type": "end"}
                                    {"type": "response", "part": "P1", "validity": {...}}
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from starlette.websockets import WebSocket, WebSocketDisconnect

from asa_engine.assessment import Assessment
from asa_engine.audio import MAX_SAMPLE_RATE_HZ, MIN_SAMPLE_RATE_HZ
from asa_engine.errors import AsaError, AudioError
from asa_engine.server.jobs import StreamJob
from asa_engine.server.keys import bounded
from asa_engine.server.messages import Heard, Piece, Provisional
from asa_engine.server.metrics import Metrics
from asa_engine.server.pool import Pool
from asa_engine.server.refusal import (
    BadRequest,
    InternalError,
    Refusal,
    TooLarge,
    TooSlow,
    close_code,
)
from asa_engine.server.resuming import KeptStream, KeptStreams, stream_id
from asa_engine.server.session_job import SessionJob
from asa_engine.server.settings import Settings
from asa_engine.server.texts import texts_of
from asa_engine.server.watch import Patience, Watch

__all__ = ["FORMATS", "MAX_FRAME_BYTES", "check_kind", "live"]

FORMATS: Final = {"s16le": "<i2", "f32le": "<f4"}
MAX_FRAME_BYTES: Final = 2**20
MAX_CHANNELS: Final = 8
SUBPROTOCOL: Final = "asa"
SLOWEST: Final = 20.0  # seconds that may pass for each second of audio, on average
PAUSE_S: Final = 120.0  # between a session's responses: a task is read, an answer thought of
_MAX_REASON_BYTES: Final = 123  # RFC 6455, section 5.5

_log = logging.getLogger("asa_engine.server")


async def live(
    socket: WebSocket,
    pool: Pool,
    metrics: Metrics,
    settings: Settings,
    watch: Watch,
    kept: KeptStreams | None,
    *,
    sessions: bool = False,
) -> None:
    """Answer one WebSocket from its opening to its close: a stream, or a session."""
    # A browser that brings a key as a subprotocol wants another one chosen.
    await socket.accept(SUBPROTOCOL if SUBPROTOCOL in socket.scope["subprotocols"] else None)
    try:
        try:
            check_kind(pool, sessions=sessions)
            kind = SessionJob if sessions else StreamJob
            key = socket.scope["state"].get("key")
            most_s = bounded(settings.max_stream_s, key and key.most_s)
            job, terms = _job(kind, socket.query_params, metrics, most_s)
            job.trace = socket.scope["state"].get("trace")
            async with _keeping(socket, kept, terms, job) as stream:
                if stream is not None and stream.saved.result is not None:
                    await _send(socket, stream.saved.result, settings.idle_timeout_s)
                else:
                    with pool.admit(job, key):
                        await _converse(socket, job, settings, watch, stream)
        except AsaError as error:
            told = _text({"type": "error", **error.to_dict(), **_when(error)})
            await _send(socket, told, settings.idle_timeout_s)
            reason = str(error).encode()[:_MAX_REASON_BYTES].decode(errors="ignore")
            await socket.close(close_code(error), reason)
        else:
            await socket.close()
    except (ConnectionError, WebSocketDisconnect):
        if (valve := socket.scope["state"].get("valve")) is not None:
            valve.abort()


def check_kind(pool: Pool, *, sessions: bool) -> None:
    """Check that the grader scores what comes.

    Raises:
        BadRequest: It scores sessions and a recording comes, or the other way round.
    """
    grader = pool.engine.grader
    if pool.engine.hears_sessions and not sessions:
        raise BadRequest(
            f"the {grader} grader scores whole sessions, not recordings", hint="open /v1/session"
        )
    if sessions and not pool.engine.hears_sessions:
        raise BadRequest(
            f"the {grader} grader scores recordings, not sessions", hint="open /v1/stream"
        )


@contextlib.asynccontextmanager
async def _keeping(
    socket: WebSocket, kept: KeptStreams | None, terms: Mapping[str, Any], job: StreamJob
) -> AsyncIterator[KeptStream | None]:
    """Keep the stream, for the block, if it has an id.

    Raises:
        Refusal: It cannot be kept.
    """
    if "id" not in socket.query_params:
        yield None
        return
    if isinstance(job, SessionJob):
        raise BadRequest("sessions are not kept", hint="leave out the id")
    if kept is None:
        raise BadRequest("this server keeps no streams", hint="leave out the id, or use --store")
    name = stream_id(socket.query_params["id"])
    key = socket.scope["state"].get("key")
    stream = await kept.come(name, "" if key is None else key.name, terms, job)
    try:
        yield stream
    except (AudioError, TooLarge):  # it would end so again
        await kept.forget(name)
        raise
    finally:
        stream.leave()
        kept.leave(name, job)


def _job(
    kind: type[StreamJob], query: Mapping[str, str], metrics: Metrics, max_s: float
) -> tuple[StreamJob, dict[str, Any]]:
    """Return the job that a query asks for, and its terms as JSON values."""
    others = {"sample_rate_hz", "channels", "format", "id"}
    texts = texts_of(query, others, takes_texts=kind is StreamJob)
    if "sample_rate_hz" not in query:
        raise BadRequest(
            "sample_rate_hz is missing",
            hint="say the microphone's rate: ?sample_rate_hz=48000; a wrong one gives wrong scores",
        )
    rate_hz = _whole(query, "sample_rate_hz", MIN_SAMPLE_RATE_HZ, MAX_SAMPLE_RATE_HZ)
    channels = _whole(query, "channels", 1, MAX_CHANNELS) if "channels" in query else 1
    name = query.get("format", "s16le")
    if name not in FORMATS:
        raise BadRequest(f"format is {name!r}", hint=f"choose from {', '.join(FORMATS)}")
    job = kind(
        metrics, max_s, texts, sample_rate_hz=rate_hz, dtype=FORMATS[name], channels=channels
    )
    given = {each: getattr(texts, each) for each in texts.given()}
    return job, {"sample_rate_hz": rate_hz, "format": name, "channels": channels, **given}


def _whole(query: Mapping[str, str], name: str, least: int, most: int) -> int:
    """Return a parameter that is a whole number within bounds."""
    text = query[name]
    if text.isascii() and text.isdigit() and len(text) <= len(str(most)):
        value = int(text)
        if least <= value <= most:
            return value
    raise BadRequest(
        f"{name} is {text[:100]!r}", hint=f"whole numbers from {least} to {most} are taken"
    )


async def _converse(
    socket: WebSocket,
    job: StreamJob,
    settings: Settings,
    watch: Watch,
    stream: KeptStream | None,
) -> None:
    """Send what the job says until its last message.

    Raises:
        AsaError: What the client is to be told before the close.
        ConnectionError: The client is gone, or takes nothing.
    """
    idle_s = settings.idle_timeout_s
    too_slow = TooSlow(
        f"no audio came for {idle_s:g} s, or too little to be speech",
        hint="send audio as it is spoken, silence too, then finish",
    )
    if stream is not None:
        await _send(socket, _text({"type": "resume", "offset": stream.size}), idle_s)
    with Patience(watch, idle_s, lambda: job.post(too_slow)) as patience:
        if isinstance(job, SessionJob):
            patience.rest(PAUSE_S)
        reader = asyncio.create_task(_read(socket, job, patience, stream))
        try:
            async with asyncio.timeout(settings.max_stream_s):
                await _tell(socket, job, idle_s, stream)
        except TimeoutError:
            raise TooLarge(
                f"the stream was open for {settings.max_stream_s:g} s",
                hint="finish it and open another",
            ) from None
        finally:
            reader.cancel()
            await asyncio.wait([reader])


async def _tell(
    socket: WebSocket, job: StreamJob, idle_s: float, stream: KeptStream | None
) -> None:
    while True:
        message = await job.next()
        if message is None:
            raise ConnectionResetError
        if isinstance(message, AsaError):
            raise message
        if isinstance(message, Assessment):
            final = _text({"type": "final", "assessment": message.to_dict()})
            if stream is not None:  # before it is told: what was told is never lost
                await stream.finish(final)
            return await _send(socket, final, idle_s)
        await _send(socket, _text(_told(message, stream)), idle_s)


def _told(message: Provisional | Piece | Heard, stream: KeptStream | None) -> dict[str, Any]:
    if isinstance(message, Piece):
        return {"type": "rationale", "text": message.text}
    if isinstance(message, Heard):
        validity = dataclasses.asdict(message.validity)
        return {"type": "response", "part": message.part, "validity": validity}
    told = {"type": "provisional", "scores": message.scores, "windows": message.windows}
    if message.words:
        told["words"] = message.words
    if stream is not None:
        told["saved"] = stream.size
    return told


async def _read(
    socket: WebSocket, job: StreamJob, patience: Patience, stream: KeptStream | None
) -> None:
    """Feed the job what the client sends; what goes wrong becomes the job's last message."""
    valve = socket.scope["state"].get("valve")
    try:
        if stream is not None:
            with patience.held():
                async for piece in stream.audio():
                    await job.feed(piece)
        while True:
            frame = await socket.receive()
            if frame["type"] == "websocket.disconnect":
                return job.post(None)
            arrived_s = valve.arrived_s if valve else time.perf_counter()
            if (pcm := frame.get("bytes")) is None:
                _heed(frame["text"], job, arrived_s, patience)
            else:
                with patience.held():
                    if stream is not None:
                        await stream.keep(pcm)
                    await job.feed(pcm)
                if pcm:
                    patience.heard(SLOWEST * job.seconds(pcm))
    except AsaError as error:
        job.post(error)
    except Exception:
        _log.exception("reading a stream failed")
        job.post(InternalError())


def _heed(text: str, job: StreamJob, arrived_s: float, patience: Patience) -> None:
    """Do what a text frame says."""
    value: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(text)
    said = value.get("type") if isinstance(value, dict) else None
    if said == "finish":
        job.finish(arrived_s)
        patience.stop()
    elif said == "begin" and isinstance(job, SessionJob):
        job.begin(value.get("part"))
        patience.rest(0.0)
    elif said == "end" and isinstance(job, SessionJob):
        job.end()
        patience.rest(PAUSE_S)
    else:
        known = ["begin", "end", "finish"] if isinstance(job, SessionJob) else ["finish"]
        raise BadRequest(
            "a text frame that is not understood",
            hint=f'known: {{"type": ...}} with {", ".join(known)}',
        )


def _when(error: AsaError) -> dict[str, int]:
    """Return when to come again, which over HTTP is a header."""
    after = error.told_headers().get("Retry-After") if isinstance(error, Refusal) else None
    return {} if after is None else {"retry_after_s": int(after)}


def _text(message: Mapping[str, Any]) -> str:
    return json.dumps(message, allow_nan=False)


async def _send(socket: WebSocket, text: str, timeout_s: float) -> None:
    """Send one message.

    Raises:
        ConnectionError: The client is gone, or did not take it in time.
    """
    try:
        async with asyncio.timeout(timeout_s):
            await socket.send_text(text)
    except (TimeoutError, WebSocketDisconnect):
        raise ConnectionResetError from None
