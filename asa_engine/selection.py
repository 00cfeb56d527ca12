"""Which backend, precision and thread count to run: asked for, or chosen and said why."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from asa_engine.bundle import Bundle
from asa_engine.errors import BackendError, BundleError, UsageError
from asa_engine.files import read_json
from asa_engine.runtimes import RUNTIMES, runtime

__all__ = [
    "AUTO",
    "FAKE",
    "PRECISIONS",
    "TUNING_NAME",
    "Choice",
    "choose",
    "choose_threads",
    "default_threads",
    "is_held",
    "usable_cores",
]

AUTO = "auto"
FAKE = "fake"
"""The backend of users' tests, which takes any bundle of its grader."""
TUNING_NAME = "tuning.json"
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int4", "mixed")
MAX_THREADS = 256
_DEFAULT_MAX_THREADS = 4


@dataclass(frozen=True, slots=True)
class Choice:
    """A backend at a precision, and how it came to be chosen.

    Attributes:
        backend: Key in `RUNTIMES`.
        precision: One of `PRECISIONS`.
        reason: One line for the receipt.
    """

    backend: str
    precision: str
    reason: str


def usable_cores() -> int:
    """Return the cores this process may use; all of the machine where nothing tells (macOS)."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def default_threads() -> int:
    """Return the cores this process may use, at most four: windows are small."""
    return max(1, min(_DEFAULT_MAX_THREADS, usable_cores()))


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


def choose_threads(bundle: Bundle, choice: Choice, threads: int | None = None) -> tuple[int, str]:
    """Return a thread count, and why that one.

    What the caller names comes first, then what `asa-engine tune` found fastest for the chosen
    variant, where that many cores are at hand, then the default.

    Raises:
        UsageError: It is not between 1 and 256.
        BundleError: The bundle's tuning table is malformed.
    """
    if threads is not None:
        return check_threads(threads), "asked for"
    tuned = _tuned_threads(bundle, choice)
    if tuned is None:
        return default_threads(), f"the cores at hand, at most {_DEFAULT_MAX_THREADS}"
    if tuned > usable_cores():
        return default_threads(), f"tuned for {tuned}, more than the cores at hand"
    return tuned, "tuned"


def _tuned_threads(bundle: Bundle, choice: Choice) -> int | None:
    """The first trial of the variant is its fastest; a table that no hash vouches for is none."""
    if TUNING_NAME not in bundle.artifacts:
        return None
    table = read_json(bundle.path / TUNING_NAME, BundleError)
    try:
        counts = [
            trial["threads"]
            for trial in table["trials"]
            if trial["fits"]
            and (trial["backend"], trial["precision"]) == (choice.backend, choice.precision)
        ]
    except (KeyError, TypeError):
        counts = [None]
    if not all(type(count) is int and 1 <= count <= MAX_THREADS for count in counts):
        raise BundleError(
            f"{bundle.path / TUNING_NAME} is malformed", hint="run 'asa-engine tune' again"
        )
    return counts[0] if counts else None


def is_held(bundle: Bundle, backend: str = AUTO, precision: str = AUTO) -> bool:
    """Return whether a bundle holds a variant of this kind; PyTorch's only where it is named."""
    kinds = [(b, p) for b, p in bundle.variants() if b != "torch" or backend == b]
    return any(backend in (AUTO, b) and precision in (AUTO, p) for b, p in kinds)


def choose(bundle: Bundle, backend: str = AUTO, precision: str = AUTO) -> Choice:
    """Choose what to run; nothing named by the caller is ever replaced.

    Raises:
        UsageError: An unknown backend or precision is named.
        BackendError: What is named cannot run here, or nothing can.
    """
    if backend not in (AUTO, *RUNTIMES):
        names = ", ".join((AUTO, *RUNTIMES))
        raise UsageError(f"unknown backend {backend!r}", hint=f"choose from {names}")
    if precision not in (AUTO, *PRECISIONS):
        names = ", ".join((AUTO, *PRECISIONS))
        raise UsageError(f"unknown precision {precision!r}", hint=f"choose from {names}")
    if backend == FAKE:
        return Choice(backend, "fp32" if precision == AUTO else precision, "asked for")
    order = list(bundle.auto)
    if backend != AUTO or precision != AUTO:
        order += [variant for variant in bundle.variants() if variant not in order]
    wanted = [(b, p) for b, p in order if backend in (AUTO, b) and precision in (AUTO, p)]
    if not wanted:
        have = ", ".join(f"{b}/{p}" for b, p in bundle.variants())
        raise BackendError(
            f"{bundle.name} has no artifact for backend {backend} at precision {precision}",
            hint=f"it has {have}; others are made by 'asa-engine export'",
        )
    skipped: dict[str, list[str]] = {}
    for name, level in wanted:
        state = runtime(name).availability()
        if state.usable:
            return Choice(name, level, _reason(backend, precision, skipped))
        skipped.setdefault(state.reason, []).append(f"{name}/{level}")
    if len(skipped) == 1 and backend != AUTO:
        raise BackendError(f"the {backend} backend cannot run here", hint=next(iter(skipped)))
    raise BackendError(f"no backend of {bundle.name} can run here", hint=_listed(skipped))


def _listed(skipped: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{', '.join(variants)}: {why}" for why, variants in skipped.items())


def _reason(backend: str, precision: str, skipped: Mapping[str, Sequence[str]]) -> str:
    if backend != AUTO and precision != AUTO:
        return "asked for"
    said = "auto: first in the bundle's order of speed within the drift budget"
    if backend != AUTO or precision != AUTO:
        said += f", given backend {backend} and precision {precision}"
    return f"{said}; skipped {_listed(skipped)}" if skipped else said
