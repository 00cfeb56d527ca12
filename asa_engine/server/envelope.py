"""What every request passes through: an id, access, errors as JSON, one line in the log."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from asa_engine.errors import AsaError
from asa_engine.server.access import Access
from asa_engine.server.keys import Keys, presented_key
from asa_engine.server.metrics import Metrics
from asa_engine.server.refusal import InternalError, Refusal, http_status
from asa_engine.server.traces import Traces

__all__ = ["CLIENT_GONE", "Envelope", "Known"]

CLIENT_GONE: Final = 499  # in the log and the metrics only, as nginx has it
SWITCHING: Final = 101
ID_HEADER: Final = "X-Request-ID"

_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_log = logging.getLogger("asa_engine.server")


STREAMS: Final = "/v1/streams/{id}"


def route_of(path: str) -> str:
    """Return the path of a route, whatever id stands in it."""
    return STREAMS if path.startswith("/v1/streams/") else path


@dataclass(frozen=True, slots=True)
class Known:
    """A path.

    Attributes:
        hint: What to do there, for requests that no route takes.
        scope: What an API key must be good for; `None` where none is asked for.
    """

    hint: str
    scope: str | None = None


class Envelope:
    """The application's outermost layer.

    Args:
        app: The routes.
        routes: Path -> what is to be known of it.
        access: From where requests may come.
        keys: Who may make them.
        metrics: Where requests are counted.
        traces: Where spans of them go, if anywhere.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Mapping[str, Known],
        access: Access,
        keys: Keys,
        metrics: Metrics,
        traces: Traces | None = None,
    ) -> None:
        self._app = app
        self._routes = routes
        self._access = access
        self._keys = keys
        self._metrics = metrics
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request or WebSocket."""
        start_s = time.perf_counter()
        headers = Headers(scope=scope)
        given = headers.get(ID_HEADER, "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        scope["app"] = self  # Starlette then raises what it refuses
        route = route_of(scope["path"])
        route = route if route in self._routes else "other"
        method = scope.get("method", "WEBSOCKET")
        trace = None
        if self._traces is not None:
            trace = scope["state"]["trace"] = self._traces.begin(headers, f"{method} {route}")
        status = 0
        name = ""

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "websocket.accept":
                status = SWITCHING
            elif message["type"].endswith(".response.start"):
                status = message["status"]
            if message["type"].endswith((".accept", ".response.start")):
                said = MutableHeaders(raw=message.setdefault("headers", []))
                said[ID_HEADER] = request_id
                if self._access.allows(origin := headers.get("Origin")):
                    said["Access-Control-Allow-Origin"] = str(origin)
                    said["Vary"] = "Origin"
                message["headers"] = said.raw
            await send(message)

        answer = None
        try:
            self._access.check(headers.get("Host"), headers.get("Origin"))
            name = self._check_key(scope, headers)
            await self._app(scope, receive, noting)
        except AsaError as error:
            answer = _told(error)
        except HTTPException as error:
            answer = self._not_served(error, scope["path"])
        except (ConnectionError, WebSocketDisconnect):
            status = status or CLIENT_GONE
        except Exception:
            _log.exception("a request failed", extra={"fields": {"request_id": request_id}})
            answer = _told(InternalError())
        if answer is not None and not status:
            await answer(scope, receive, noting)
        if trace is not None:
            trace.end(method, route, status)
        self._metrics.request(route, status)
        fields = {
            "request_id": request_id,
            "method": method,
            "route": route,
            "status": status,
            "seconds": round(time.perf_counter() - start_s, 4),
        }
        if name:
            fields["key"] = name
        _log.info("answered", extra={"fields": fields})

    def _check_key(self, scope: Scope, headers: Headers) -> str:
        """Return whose API key it is; nobody's where none is asked for."""
        known = self._routes.get(route_of(scope["path"]))
        is_free = known is None or known.scope is None or scope.get("method") == "OPTIONS"
        if is_free or not self._keys.are_required:
            return ""
        assert known is not None
        assert known.scope is not None
        given = presented_key(headers.get("Authorization"), scope.get("subprotocols", []))
        key = self._keys.check(given, known.scope)
        scope["state"]["key"] = key
        return key.name

    def _not_served(self, error: HTTPException, path: str) -> JSONResponse:
        known = self._routes.get(route_of(path))
        hint = known.hint if known else f"there are {', '.join(sorted(self._routes))}"
        said = {"error": "HTTPError", "message": f"{error.status_code} {error.detail}"}
        told = {**said, "hint": hint, "mend": hint}
        return JSONResponse(told, error.status_code, dict(error.headers or {}))


def _told(error: AsaError) -> JSONResponse:
    headers = error.told_headers() if isinstance(error, Refusal) else {}
    content: dict[str, Any] = error.to_dict()
    return JSONResponse(content, http_status(error), headers)
