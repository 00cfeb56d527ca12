"""Errors on the wire: which HTTP status and which WebSocket close code each one is.

Refusal                 status  close
|-- BadRequest             400   1008   a wrong parameter or message
|-- Unauthorized           401   1008   no API key, or one that is not in force
|-- Forbidden              403   1008   a page of another site; a key for other things
|-- Misdirected            421   1008   a name that the server does not answer to
|-- NotKept                404   1008   no stream of that id
|-- TakenOver              409   1008   the stream goes on over another connection, or was deleted
|-- StoreDown              503   1013   streams with an id cannot be kept now
|-- UpgradeRequired        426   1008   a plain request where a WebSocket is meant
|-- WrongMediaType         415   1003   a body or frame of the wrong kind
|-- TooLarge               413   1009   more bytes or seconds than are taken
|-- TooSlow                408   1008   nothing came, or nothing was taken, for too long
|-- TooMany                429   1013   the API key has as many open as it may
|-- TooOften               429   1013   the API key asks more often than it may
|-- Full                   503   1013   every slot is taken
|-- Stopping               503   1001   the server is shutting down
`-- InternalError          500   1011   a fault of the server, said in its log only
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from asa_engine.errors import AsaError, AudioError, UsageError

__all__ = [
    "BadRequest",
    "Forbidden",
    "Full",
    "InternalError",
    "Misdirected",
    "NotKept",
    "Refusal",
    "Stopping",
    "StoreDown",
    "TakenOver",
    "TooLarge",
    "TooMany",
    "TooOften",
    "TooSlow",
    "Unauthorized",
    "UpgradeRequired",
    "WrongMediaType",
    "close_code",
    "http_status",
]

_UNPROCESSABLE = 422
_INVALID_PAYLOAD = 1007


class Refusal(AsaError):
    """Base of what only a server says; each names its HTTP status, close code and headers."""

    http_status: ClassVar[int] = 500
    close_code: ClassVar[int] = 1011
    headers: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(
        cls,
        *,
        status: int | None = None,
        close: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init_subclass__()
        cls.http_status = cls.http_status if status is None else status
        cls.close_code = cls.close_code if close is None else close
        cls.headers = cls.headers if headers is None else headers

    def told_headers(self) -> Mapping[str, str]:
        """Return what the answer has in its head."""
        return self.headers


class BadRequest(Refusal, status=400, close=1008):
    """A wrong parameter or message."""


class Unauthorized(Refusal, status=401, close=1008, headers={"WWW-Authenticate": "Bearer"}):
    """No API key, or one that is not in force."""


class Forbidden(Refusal, status=403, close=1008):
    """A web page of another site, or a key that is for other things."""


class Misdirected(Refusal, status=421, close=1008):
    """A request to a name that is not the server's."""


class UpgradeRequired(
    Refusal, status=426, close=1008, headers={"Upgrade": "websocket", "Connection": "Upgrade"}
):
    """A plain request where a WebSocket is meant."""


class WrongMediaType(Refusal, status=415, close=1003, headers={"Accept-Encoding": "identity"}):
    """A body or frame of the wrong kind."""


class TooLarge(Refusal, status=413, close=1009):
    """More bytes or seconds than are taken."""


class TooSlow(Refusal, status=408, close=1008):
    """Nothing came, or nothing was taken, for too long."""


class _Later(Refusal):
    """What another try may change.

    Args:
        message: What was refused.
        after_s: When to try again.
    """

    def __init__(self, message: str, after_s: float) -> None:
        self._after_s = max(1, math.ceil(after_s))
        super().__init__(message, hint=f"try again in {self._after_s} s")

    def told_headers(self) -> dict[str, str]:
        return {"Retry-After": str(self._after_s)}


class Full(_Later, status=503, close=1013):
    """Every place of its kind is taken; another try may find one."""

    def __init__(self, after_s: float) -> None:
        super().__init__("the server is full", after_s)


class TooMany(Refusal, status=429, close=1013, headers={"Retry-After": "2"}):
    """The API key has as many streams and uploads open as it may."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"the API key has {most} open already, which is all it may",
            hint="try again when one has ended",
        )


class TooOften(_Later, status=429, close=1013):
    """The API key asks more often than it may."""

    def __init__(self, after_s: float) -> None:
        super().__init__("the API key asks more often than it may", after_s)


class NotKept(Refusal, status=404, close=1008):
    """No stream of that id is kept, or it is somebody else's."""

    def __init__(self) -> None:
        super().__init__("no stream of that id is kept", hint="begin it anew")


class TakenOver(Refusal, status=409, close=1008):
    """The stream goes on over another connection, or was deleted."""

    def __init__(self) -> None:
        super().__init__("the stream was taken over or deleted", hint="nothing more to do here")


class StoreDown(Refusal, status=503, close=1013, headers={"Retry-After": "2"}):
    """Streams with an id cannot be kept now."""

    def __init__(self) -> None:
        super().__init__(
            "streams cannot be kept now", hint="try again in a few seconds, or without an id"
        )


class Stopping(Refusal, status=503, close=1001):
    """The server is shutting down."""

    def __init__(self) -> None:
        super().__init__("the server is shutting down", hint="connect again")


class InternalError(Refusal):
    """A fault of the server; what it is stands in its log, not in the answer."""

    def __init__(self) -> None:
        super().__init__("internal error", hint="the server's log says more")


def http_status(error: AsaError) -> int:
    """Return the HTTP status of an error."""
    if isinstance(error, Refusal):
        return error.http_status
    if isinstance(error, AudioError):
        return _UNPROCESSABLE
    return BadRequest.http_status if isinstance(error, UsageError) else InternalError.http_status


def close_code(error: AsaError) -> int:
    """Return the WebSocket close code of an error."""
    if isinstance(error, Refusal):
        return error.close_code
    if isinstance(error, AudioError):
        return _INVALID_PAYLOAD
    return BadRequest.close_code if isinstance(error, UsageError) else InternalError.close_code
