"""Who may pass from Serve's proxy, which listens where it was told and asks nobody."""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from asa_engine.server.settings import Settings, is_loopback

__all__ = ["Gate"]

_NOT_HERE: Final = (
    b'{"error": "Forbidden", "message": "reached from elsewhere, this asks for API keys and TLS", '
    b'"hint": "or for insecure=1, where a proxy before the cluster has both"}'
)


class Gate:
    """Lets nobody in from elsewhere without API keys and TLS, wherever the proxy listens.

    Args:
        app: What answers.
        settings: With the keys.
        sees_clients: Whether a request tells where it came in; behind HAProxy, which has no TLS
            here and reaches a replica over the loopback, it does not.
    """

    def __init__(self, app: ASGIApp, settings: Settings, *, sees_clients: bool = True) -> None:
        self._app = app
        self._sees_clients = sees_clients
        self._is_open = settings.insecure
        self._has_keys = bool(settings.keys_file or settings.keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request or WebSocket, or the questions of Serve's start."""
        if scope["type"] == "lifespan":
            return await _lifespan(receive, send)
        host, _ = scope.get("server") or ("", 0)
        is_safe = self._has_keys and scope.get("scheme") in ("https", "wss")
        if self._is_open or (self._sees_clients and (is_safe or is_loopback(host))):
            return await self._app(scope, receive, send)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": _NOT_HERE})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        asked = (await receive())["type"]
        await send({"type": f"{asked}.complete"})
        if asked == "lifespan.shutdown":
            return
