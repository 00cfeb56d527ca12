"""The HTTP routes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from importlib import metadata
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import web

from asa_engine.assessment import Assessment
from asa_engine.errors import AsaError
from asa_engine.graders import GRADERS, grader_entry
from asa_engine.server.jobs import UploadJob
from asa_engine.server.live import live
from asa_engine.server.metrics import CONTENT_TYPE, Metrics
from asa_engine.server.pool import Pool
from asa_engine.server.refusal import (
    Full,
    InternalError,
    Refusal,
    TooLarge,
    TooSlow,
    WrongMediaType,
    http_status,
)
from asa_engine.server.settings import Settings
from asa_engine.server.texts import texts_of

__all__ = ["Api"]

RETRY_AFTER_S: Final = 2
_HINT: Final = "curl --data-binary @answer.flac sends a file as it is"

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_log = logging.getLogger("asa_engine.server")


class _Forbidden(Refusal):
    """A web page of another origin."""

    http_status = 403
    close_code = 1008


class Api:
    """The handlers, and what they share.

    Args:
        settings: Limits and allowed origins.
        pool: Started worker threads.
        metrics: Where requests are counted.
    """

    def __init__(self, settings: Settings, pool: Pool, metrics: Metrics) -> None:
        self._settings = settings
        self._pool = pool
        self._metrics = metrics

    def application(self) -> web.Application:
        """Return the application."""
        app = web.Application(middlewares=[self._answer])
        app.add_routes(
            [
                web.post("/v1/assess", self._assess),
                web.get("/v1/stream", self._stream),
                web.get("/v1/health", self._health),
                web.get("/v1/graders", self._graders),
                web.get("/metrics", self._render_metrics),
                web.options("/v1/assess", self._preflight),
            ]
        )
        return app

    @web.middleware
    async def _answer(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Keep other origins out, turn errors into JSON, count."""
        try:
            self._check_origin(request)
            response = await handler(request)
        except AsaError as error:
            response = _json(error.to_dict(), http_status(error))
            if isinstance(error, Full):
                response.headers["Retry-After"] = str(RETRY_AFTER_S)
        except web.HTTPException as error:
            response = _json(
                {"error": "HTTPError", "message": f"{error.status} {error.reason}", "mend": ""},
                error.status,
            )
        except Exception:
            _log.exception("%s failed", request.path)
            response = _json(InternalError().to_dict(), InternalError.http_status)
        resource = request.match_info.route.resource
        self._metrics.request(resource.canonical if resource else "other", response.status)
        origin = request.headers.get("Origin")
        if origin in self._settings.allow_origins and not response.prepared:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Vary"] = "Origin"
        return response

    def _check_origin(self, request: web.Request) -> None:
        """Refuse pages of other sites: browsers let them open WebSockets to any address."""
        origin = request.headers.get("Origin")
        if origin is None or origin in self._settings.allow_origins:
            return
        if urlsplit(origin).netloc.lower() != request.host.lower():
            raise _Forbidden(
                f"pages of {origin[:200]!r} may not use this server",
                mend="start it with --allow-origin to let them",
            )

    async def _assess(self, request: web.Request) -> web.Response:
        most = self._settings.max_upload_bytes
        if request.content_type.startswith("multipart/"):
            raise WrongMediaType("a form is not an audio file", mend=_HINT)
        if (request.content_length or 0) > most:
            raise _too_large(most)
        texts = texts_of(request.query)
        job = UploadJob(self._metrics, self._settings.max_stream_s, texts)
        # The place comes before the body, so that at most `max_streams` bodies are in memory.
        with self._pool.admit(job):
            job.start(await self._body(request))
            message = await job.next()
            if not isinstance(message, Assessment):
                raise message if isinstance(message, AsaError) else InternalError()
            return _json(message.to_dict())

    async def _body(self, request: web.Request) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.max_stream_s):
                while not request.content.at_eof():
                    async with asyncio.timeout(self._settings.idle_timeout_s):
                        body += await request.content.readany()
                    if len(body) > self._settings.max_upload_bytes:
                        raise _too_large(self._settings.max_upload_bytes)
        except TimeoutError:
            raise TooSlow("the body did not come in time", mend="send it again") from None
        return bytes(body)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        return await live(request, self._pool, self._metrics, self._settings)

    async def _health(self, request: web.Request) -> web.Response:
        draining = self._pool.draining
        told = {
            "status": "draining" if draining else "ok",
            "engine_version": metadata.version("asa-engine"),
            "open": self._pool.open_jobs,
            "max_streams": self._settings.max_streams,
            "workers": self._settings.workers,
        }
        return _json(told, 503 if draining else 200)

    async def _graders(self, request: web.Request) -> web.Response:
        engine = self._pool.engine
        entries = [grader_entry(name) for name in GRADERS]
        told = {
            "serving": {
                "grader": engine.grader,
                "bundle": engine.bundle.name,
                "bundle_version": engine.bundle.version,
                "bundle_sha256": engine.bundle.sha256,
                "backend": engine.choice.backend,
                "precision": engine.choice.precision,
                "chosen": engine.choice.reason,
                "threads": engine.threads,
            },
            "graders": [
                {"name": e.name, "summary": e.summary, "exact_when": e.exact_when} for e in entries
            ],
        }
        return _json(told)

    async def _render_metrics(self, request: web.Request) -> web.Response:
        text = self._metrics.render(self._pool.open_jobs, self._pool.waiting_s)
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})

    async def _preflight(self, request: web.Request) -> web.Response:
        return web.Response(
            status=204,
            headers={
                "Access-Control-Allow-Methods": "POST",
                "Access-Control-Allow-Headers": "Content-Type",
            },
        )


def _json(value: Any, status: int = 200) -> web.Response:
    return web.json_response(value, status=status)


def _too_large(most: int) -> TooLarge:
    return TooLarge(
        f"the body is larger than {most} bytes",
        mend="send FLAC instead of WAV, cut it into parts, or stream it",
    )
