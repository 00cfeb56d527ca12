"""Errors on the wire: which HTTP status and which WebSocket close code each one is.

Refusal                 status  close
|-- BadRequest             400   1008   a wrong parameter or message
|-- WrongMediaType         415   1003   a body or frame of the wrong kind
|-- TooLarge               413   1009   more bytes or seconds than are taken
|-- TooSlow                408   1008   nothing came, or nothing was taken, for too long
|-- Full                   503   1013   every slot is taken
|-- Stopping               503   1001   the server is shutting down
`-- InternalError          500   1011   a fault of the server, said in its log only
"""

from __future__ import annotations

from asa_engine.errors import AsaError, AudioError, UsageError

__all__ = [
    "BadRequest",
    "Full",
    "InternalError",
    "Refusal",
    "Stopping",
    "TooLarge",
    "TooSlow",
    "WrongMediaType",
    "close_code",
    "http_status",
]

_UNPROCESSABLE = 422
_INVALID_PAYLOAD = 1007


class Refusal(AsaError):
    """Base of what only a server says."""

    http_status = 500
    close_code = 1011


class BadRequest(Refusal):
    """A wrong parameter or message."""

    http_status = 400
    close_code = 1008


class WrongMediaType(Refusal):
    """A body or frame of the wrong kind."""

    http_status = 415
    close_code = 1003


class TooLarge(Refusal):
    """More bytes or seconds than are taken."""

    http_status = 413
    close_code = 1009


class TooSlow(Refusal):
    """Nothing came, or nothing was taken, for too long."""

    http_status = 408
    close_code = 1008


class Full(Refusal):
    """Every slot is taken; another try may find one."""

    http_status = 503
    close_code = 1013

    def __init__(self) -> None:
        super().__init__("the server is full", mend="try again in a few seconds")


class Stopping(Refusal):
    """The server is shutting down."""

    http_status = 503
    close_code = 1001

    def __init__(self) -> None:
        super().__init__("the server is shutting down", mend="connect again")


class InternalError(Refusal):
    """A fault of the server; what it is stands in its log, not in the answer."""

    def __init__(self) -> None:
        super().__init__("internal error", mend="the server's log says more")


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
