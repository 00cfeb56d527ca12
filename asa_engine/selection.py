"""Which backend, precision and thread count to run: asked for, or chosen and said why."""

from __future__ import annotations

import os
from dataclasses import dataclass

from asa_engine.backends import BACKENDS, UNSUPPORTED, backend_class
from asa_engine.bundle import Bundle
from asa_engine.errors import BackendError, UsageError

__all__ = ["AUTO", "PRECISIONS", "Choice", "choose", "default_threads"]

AUTO = "auto"
PRECISIONS = ("fp32", "bf16", "int8", "int4")
MAX_THREADS = 256
_DEFAULT_MAX_THREADS = 4


@dataclass(frozen=True, slots=True)
class Choice:
    """A backend at a precision, and how it came to be chosen.

    Attributes:
        backend: Key in `BACKENDS`.
        precision: One of `PRECISIONS`.
        reason: One line for the receipt.
    """

    backend: str
    precision: str
    reason: str


def default_threads() -> int:
    """Return the cores this process may use, at most four: windows are small."""
    return max(1, min(_DEFAULT_MAX_THREADS, len(os.sched_getaffinity(0))))


def check_threads(threads: int | None) -> int:
    """Return a usable thread count.

    Raises:
        UsageError: It is not between 1 and 256.
    """
    if threads is None:
        return default_threads()
    if not 1 <= threads <= MAX_THREADS:
        raise UsageError(f"threads must be between 1 and {MAX_THREADS}, not {threads}")
    return threads


def choose(bundle: Bundle, backend: str = AUTO, precision: str = AUTO) -> Choice:
    """Choose what to run; nothing named by the caller is ever replaced.

    Raises:
        UsageError: An unknown backend or precision is named.
        BackendError: What is named cannot run here, or nothing can.
    """
    if backend not in (AUTO, *BACKENDS, *UNSUPPORTED):
        names = ", ".join((AUTO, *BACKENDS))
        raise UsageError(f"unknown backend {backend!r}", mend=f"choose from {names}")
    if precision not in (AUTO, *PRECISIONS):
        names = ", ".join((AUTO, *PRECISIONS))
        raise UsageError(f"unknown precision {precision!r}", mend=f"choose from {names}")
    if backend in UNSUPPORTED:
        backend_class(backend)
    if backend == "fake":
        return Choice(backend, "fp32" if precision == AUTO else precision, "asked for")
    order = list(bundle.auto)
    if backend != AUTO or precision != AUTO:
        order += [variant for variant in bundle.variants() if variant not in order]
    wanted = [(b, p) for b, p in order if backend in (AUTO, b) and precision in (AUTO, p)]
    if not wanted:
        have = ", ".join(f"{b}/{p}" for b, p in bundle.variants())
        raise BackendError(
            f"{bundle.name} has no artifact for backend {backend} at precision {precision}",
            mend=f"it has {have}; others are made by 'asa-engine export'",
        )
    skipped: list[str] = []
    for name, level in wanted:
        found = backend_class(name).availability()
        if found.usable:
            return Choice(name, level, _reason(backend, precision, skipped))
        skipped.append(f"{name}/{level}: {found.reason}")
    raise BackendError(
        f"no backend of {bundle.name} can run here", mend="; ".join(dict.fromkeys(skipped))
    )


def _reason(backend: str, precision: str, skipped: list[str]) -> str:
    if backend != AUTO and precision != AUTO:
        return "asked for"
    said = "auto: first in the bundle's order of speed within the drift budget"
    if backend != AUTO or precision != AUTO:
        said += f", given backend {backend} and precision {precision}"
    return f"{said}; skipped {', '.join(skipped)}" if skipped else said
