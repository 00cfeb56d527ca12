"""The texts of a request: what was read, and the task, as parameters of the address."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from asa_engine.request import Request
from asa_engine.server.refusal import BadRequest

__all__ = ["MAX_LINE_BYTES", "joined", "texts_of"]

# The request line holds the texts, percent-encoded: up to 12 bytes for a character.
MAX_LINE_BYTES: Final = 2**18

_TEXTS: Final = ("text", "prompt")


def texts_of(
    query: Mapping[str, str], others: Collection[str] = (), *, takes_texts: bool = True
) -> Request:
    """Return the texts in a query.

    Args:
        query: Parameters of the address.
        others: What else may stand there.
        takes_texts: Whether texts may stand there at all.

    Raises:
        BadRequest: Something unknown stands there.
        UsageError: A text cannot be used.
    """
    known = {*others, *_TEXTS} if takes_texts else {*others}
    if unknown := query.keys() - known:
        raise BadRequest(
            f"unknown parameter {min(unknown)!r}", hint=f"known: {', '.join(sorted(known))}"
        )
    return Request(**{name: query[name] for name in _TEXTS if name in query})


def joined(query: Mapping[str, str], form: Mapping[str, str]) -> dict[str, str]:
    """Return what stands in the address and what stands in the form.

    Raises:
        BadRequest: Something stands in both.
    """
    if twice := query.keys() & form.keys():
        raise BadRequest(f"{min(twice)} is in the address and in the form", hint="give it once")
    return {**query, **form}
