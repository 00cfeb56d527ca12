"""The HTTP routes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route, Router, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from asa_engine.assessment import Assessment
from asa_engine.errors import AsaError
from asa_engine.formats import FORMATS
from asa_engine.graders import grader_entries
from asa_engine.request import Request as Texts
from asa_engine.server.access import Access
from asa_engine.server.docs_page import docs_page
from asa_engine.server.envelope import Envelope, Known
from asa_engine.server.jobs import UploadJob
from asa_engine.server.keys import Keys, bounded
from asa_engine.server.live import check_kind, live
from asa_engine.server.metrics import CONTENT_TYPE, Metrics
from asa_engine.server.openapi import openapi
from asa_engine.server.pool import Pool
from asa_engine.server.refusal import (
    BadRequest,
    InternalError,
    NotKept,
    UpgradeRequired,
)
from asa_engine.server.resuming import KeptStreams, stream_id
from asa_engine.server.settings import Settings
from asa_engine.server.store import Keeper
from asa_engine.server.texts import joined, texts_of
from asa_engine.server.traces import Traces
from asa_engine.server.uploads import HINT, check_headers, read_upload
from asa_engine.server.watch import Watch

__all__ = ["Api"]

_CONTENT_TYPES: Final = {
    "json": "application/json",
    "azure": "application/json",
    "csv": "text/csv",
    "textgrid": "text/plain",
}
_ROUTES: Final = {
    "/v1/assess": Known(f"POST the file: {HINT}", "score"),
    "/v1/stream": Known("open it as a WebSocket", "score"),
    "/v1/session": Known("open it as a WebSocket", "score"),
    "/v1/streams/{id}": Known("GET it, or DELETE it", "score"),
    "/v1/health": Known("GET it", "watch"),
    "/v1/graders": Known("GET it", "watch"),
    "/metrics": Known("GET it", "watch"),
    "/livez": Known("GET it"),
    "/readyz": Known("GET it"),
    "/openapi.json": Known("GET it"),
    "/docs": Known("open it in a browser"),
}


class Api:
    """The handlers, and what they share.

    Args:
        settings: Limits, allowed origins and hosts.
        pool: Started worker threads.
        metrics: Where requests are counted.
        watch: The clock that clients are judged by.
        keeper: Keeps streams that have an id; started.
        traces: Where spans of requests go, if anywhere.
    """

    def __init__(
        self,
        settings: Settings,
        pool: Pool,
        metrics: Metrics,
        watch: Watch,
        keeper: Keeper | None = None,
        traces: Traces | None = None,
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._metrics = metrics
        self._watch = watch
        self._kept = None if keeper is None else KeptStreams(keeper)
        self._traces = traces
        self._version = metadata.version("asa-engine")

    def application(self) -> ASGIApp:
        """Return the application."""
        routes = [
            Route("/v1/assess", self._assess, methods=["POST", "OPTIONS"]),
            WebSocketRoute("/v1/stream", self._stream),
            Route("/v1/stream", self._not_a_socket),
            WebSocketRoute("/v1/session", self._session),
            Route("/v1/session", self._not_a_socket),
            Route("/v1/streams/{id}", self._kept_stream, methods=["GET", "DELETE", "OPTIONS"]),
            Route("/v1/health", self._health),
            Route("/v1/graders", self._graders),
            Route("/livez", self._live),
            Route("/readyz", self._ready),
            Route("/metrics", self._render_metrics),
            Route("/openapi.json", self._describe),
            Route("/docs", self._show_docs),
        ]
        access = Access(self._settings.allow_origins, self._settings.allow_hosts)
        router = Router(routes, redirect_slashes=False)
        keys = Keys(self._settings.keys_file, self._settings.keys)
        return Envelope(router, _ROUTES, access, keys, self._metrics, self._traces)

    async def _assess(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            return _preflight("POST")
        check_kind(self._pool, sessions=False)
        settings, key = self._settings, request.scope["state"].get("key")
        most_bytes = bounded(settings.max_upload_bytes, key and key.most_bytes)
        check_headers(request, most_bytes)
        texts, name = _asked(request.query_params)
        job = UploadJob(self._metrics, bounded(settings.max_upload_s, key and key.most_s), texts)
        job.trace = request.scope["state"].get("trace")
        # The place comes before the body, so that at most `max_uploads` bodies are in memory.
        with self._pool.admit(job, key):
            upload = await read_upload(
                request,
                self._watch,
                most_bytes=most_bytes,
                idle_s=settings.idle_timeout_s,
                most_s=settings.max_stream_s,
            )
            if upload.fields:
                texts, name = _asked(joined(request.query_params, upload.fields))
            job.start(upload.data, texts)
            del upload
            with _until_gone(request, job):
                message = await job.next()
            if message is None:
                raise ConnectionResetError
            if not isinstance(message, Assessment):
                raise message if isinstance(message, AsaError) else InternalError()
            return _written(message, name)

    async def _stream(self, socket: WebSocket) -> None:
        await self._live_speech(socket, sessions=False)

    async def _session(self, socket: WebSocket) -> None:
        await self._live_speech(socket, sessions=True)

    async def _live_speech(self, socket: WebSocket, *, sessions: bool) -> None:
        shared = self._pool, self._metrics, self._settings, self._watch, self._kept
        await live(socket, *shared, sessions=sessions)

    async def _not_a_socket(self, request: Request) -> Response:
        raise UpgradeRequired(
            "this is a WebSocket, not a page",
            hint=f"open ws://HOST{request.url.path} with a client of them",
        )

    async def _kept_stream(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            return _preflight("GET, DELETE")
        name, key = stream_id(request.path_params["id"]), request.scope["state"].get("key")
        owner = "" if key is None else key.name
        if self._kept is None:
            raise NotKept
        if request.method == "DELETE":
            await self._kept.delete(name, owner)
            return Response(status_code=204)
        saved = await self._kept.find(name, owner)
        told: dict[str, Any] = {"bytes": saved.size, "finished": saved.result is not None}
        if saved.result is not None:
            told["assessment"] = json.loads(saved.result)["assessment"]
        return JSONResponse(told)

    async def _live(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _ready(self, request: Request) -> Response:
        if self._pool.draining:
            return JSONResponse({"status": "draining"}, 503)
        if not self._pool.is_whole:
            return JSONResponse({"status": "a worker ended"}, 503)
        return JSONResponse({"status": "ok"})

    async def _health(self, request: Request) -> Response:
        draining = self._pool.draining
        told = {
            "status": "draining" if draining else "ok",
            "engine_version": self._version,
            "open": self._pool.open_jobs,
            "max_streams": self._settings.max_streams,
            "max_uploads": self._settings.max_uploads,
            "workers": self._settings.workers,
        }
        return JSONResponse(told, 503 if draining else 200)

    async def _graders(self, request: Request) -> Response:
        engine = self._pool.engine
        entries = grader_entries()[0].values()
        whole = engine.hears_sessions
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
                "parts": [part.name for part in engine.config.parts] if whole else [],
            },
            "graders": [
                {"name": e.name, "summary": e.summary, "exact_when": e.exact_when} for e in entries
            ],
        }
        return JSONResponse(told)

    async def _describe(self, request: Request) -> Response:
        return JSONResponse(openapi(self._version))

    async def _show_docs(self, request: Request) -> Response:
        page, headers = docs_page()
        return HTMLResponse(page, headers=headers)

    async def _render_metrics(self, request: Request) -> Response:
        page = self._metrics.render(self._pool.open_jobs, self._pool.waiting_s)
        return Response(page, headers={"Content-Type": CONTENT_TYPE})


@contextlib.contextmanager
def _until_gone(request: Request, job: UploadJob) -> Iterator[None]:
    """End the job when its client goes, for the block."""

    async def wait() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        job.post(None)

    waiting = asyncio.create_task(wait())
    try:
        yield
    finally:
        waiting.cancel()


def _asked(fields: Mapping[str, str]) -> tuple[Texts, str]:
    """Return the texts, and the name of the answer's form."""
    texts = texts_of(fields, {"format"})
    name = fields.get("format", "json")
    if name not in _CONTENT_TYPES:
        raise BadRequest(
            f"format is {name[:100]!r}", hint=f"choose from {', '.join(_CONTENT_TYPES)}"
        )
    return texts, name


def _preflight(methods: str) -> Response:
    headers = {
        "Access-Control-Allow-Methods": methods,
        "Access-Control-Allow-Headers": "Authorization, Content-Type",
    }
    return Response(status_code=204, headers=headers)


def _written(result: Assessment, name: str) -> Response:
    """Return an assessment in one of `asa_engine.formats`."""
    if name == "json":
        content: Any = result.to_dict()
        return JSONResponse(content)
    form = FORMATS[name]
    text = form.header + form.write(result, "")
    return Response(text, media_type=_CONTENT_TYPES[name])
