"""`GET /docs`: the OpenAPI document as a page, with a form to try each operation.

One answer of our own, without anything from elsewhere: packages that carry Swagger UI are old or
bring a web framework with them, and their pages need a policy that lets inline styles in.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

__all__ = ["docs_page"]


@cache
def docs_page() -> tuple[str, Mapping[str, str]]:
    """Return the page, and the headers it goes with.

    Its script and style are in it, and allowed by their hashes alone; it reaches nothing but the
    server that it came from.
    """
    page, style, script = (_text(f"page.{kind}") for kind in ("html", "css", "js"))
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }
    return page.replace("{style}", style).replace("{script}", script), headers


def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
