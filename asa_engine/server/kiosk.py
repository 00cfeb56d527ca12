"""The kiosk page from the loopback: the files of one folder, as they were when it began.

Only the standard library, so that a kiosk needs no extra. What is served is looked up by name in a
table made at the start; no path of a request ever reaches the file system.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from asa_engine.errors import UsageError

__all__ = ["HEADERS", "KioskServer", "files_of"]

_INDEX: Final = "index.html"
_TYPES: Final = {
    ".asa": "application/octet-stream",
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
}
_MOST_FILES: Final = 1000
_BLOCK_BYTES: Final = 2**18

HEADERS: Final[Mapping[str, str]] = {
    # As in the page's own policy, and in what its service worker answers.
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; "
    "style-src 'self'; img-src 'self'; media-src blob:; connect-src 'self'; worker-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    # Nothing of another origin shares the page's process.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # the service worker keeps what may be kept
}
"""What every answer says."""


class KioskServer(ThreadingHTTPServer):
    """Serves a built page on the loopback; `serve_forever` and `shutdown` as in the base.

    Args:
        folder: What `make kiosk` made.
        port: 0 for any that is free.

    Attributes:
        address: The page's address.

    Raises:
        UsageError: The folder holds no page, or the port is taken.
    """

    daemon_threads = True

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.files = files_of(folder)
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as failure:
            raise UsageError(
                f"port {port} cannot be listened on: {failure.strerror}", hint="choose another one"
            ) from None
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}
        self.address = f"http://127.0.0.1:{self.server_port}/"


def files_of(folder: Path) -> dict[str, Path]:
    """Return the files that are served, by their paths in addresses.

    Hidden ones, links that lead out of the folder, and kinds of files that a page does not have
    are left out.

    Raises:
        UsageError: There is no page in the folder, or more files than a page has.
    """
    root = folder.resolve()
    if not (root / _INDEX).is_file():
        raise UsageError(
            f"{folder} holds no {_INDEX}", hint="make kiosk builds the page, in build/kiosk"
        )
    found: dict[str, Path] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if (
            path.suffix in _TYPES
            and not any(part.startswith(".") for part in name.parts)
            and path.is_file()
            and path.resolve().is_relative_to(root)
        ):
            found[f"/{name.as_posix()}"] = path
        if len(found) > _MOST_FILES:
            raise UsageError(f"{folder} holds more files than a page", hint="name build/kiosk")
    found["/"] = root / _INDEX
    return found


class _Handler(BaseHTTPRequestHandler):
    server: KioskServer
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        # Another name for this machine is a page of somebody else's, which sent its visitor here.
        if self.headers.get("Host") not in self.server.hosts:
            return self._refuse(HTTPStatus.MISDIRECTED_REQUEST)
        path = self.server.files.get(unquote(urlsplit(self.path).path))
        if path is None:
            return self._refuse(HTTPStatus.NOT_FOUND)
        try:
            file = path.open("rb")
        except OSError:
            return self._refuse(HTTPStatus.NOT_FOUND)
        with file:
            left = path.stat().st_size
            self._begin(HTTPStatus.OK, _TYPES[path.suffix], left)
            while with_body and left and (block := file.read(min(left, _BLOCK_BYTES))):
                self.wfile.write(block)
                left -= len(block)
            self.close_connection |= with_body and left > 0

    def _refuse(self, status: HTTPStatus) -> None:
        body = f"{status.phrase}\n".encode()
        self._begin(status, "text/plain; charset=utf-8", len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _begin(self, status: HTTPStatus, kind: str, size: int) -> None:
        self.send_response_only(status)
        self.send_header("Date", formatdate(usegmt=True))
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(size))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: who used the kiosk is nobody's business."""
