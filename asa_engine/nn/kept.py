"""Pretrained models that loads share for a while, in place of reading each from disk again."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

__all__ = ["keep_loaded", "kept"]

T = TypeVar("T")
_MODELS: ContextVar[dict[Hashable, Any] | None] = ContextVar("models", default=None)


@contextmanager
def keep_loaded() -> Iterator[None]:
    """Keep what is loaded inside the block until its end; a block within another adds nothing."""
    if _MODELS.get() is not None:
        yield
        return
    token = _MODELS.set({})
    try:
        yield
    finally:
        _MODELS.reset(token)


def kept(key: Hashable, load: Callable[[], T]) -> T:
    """Return what `load` returned for this key inside `keep_loaded`; outside, load it."""
    models = _MODELS.get()
    if models is None:
        return load()
    if key not in models:
        models[key] = load()
    found: T = models[key]
    return found
