"""Who may use the server: which names it answers to, and pages of which origins."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from asa_engine.server.refusal import Forbidden, Misdirected

__all__ = ["Access"]

_SHOWN = 200


class Access:
    """Checks what a browser tells of where a request comes from.

    A page of any site may open connections to any address. What keeps it out is its origin; and as
    an attacker's own name may be made to point here (DNS rebinding), an origin that agrees with the
    host is trusted only where the host is an address, "localhost", or a name that was allowed.

    Args:
        origins: Origins besides the server's own, such as "https://example.org".
        hosts: Names the server is reached under.
    """

    def __init__(self, origins: Iterable[str], hosts: Iterable[str]) -> None:
        self._origins = frozenset(origins)
        self._hosts = frozenset({"localhost", *(host.lower().rstrip(".") for host in hosts)})

    def check(self, host: str | None, origin: str | None) -> None:
        """Check the two headers.

        Raises:
            Misdirected: The server does not answer to that name.
            Forbidden: A page of another site.
        """
        name = _name(host or "")
        if name not in self._hosts and not _is_address(name):
            raise Misdirected(
                f"this server does not answer to {(host or '')[:_SHOWN]!r}",
                hint="start it with --allow-host NAME to let clients reach it under that name",
            )
        if origin is None or origin in self._origins:
            return
        if not host or _place(origin) != host.lower():
            raise Forbidden(
                f"pages of {origin[:_SHOWN]!r} may not use this server",
                hint="start it with --allow-origin to let them",
            )

    def allows(self, origin: str | None) -> bool:
        """Tell whether an origin besides the server's own was allowed."""
        return origin in self._origins


def _place(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
