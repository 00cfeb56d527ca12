"""What is trained on where several experts scored: what they agree on, by a named rule."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from asa_engine.errors import ManifestError, UsageError
from asa_engine.evaluation.manifest import Utterance, is_number

__all__ = ["TARGETS", "check_targets", "target_of"]

MANIFEST: Final = "medians"


def _mean(scores: Sequence[float]) -> float:
    return float(np.mean(scores))


def _median(scores: Sequence[float]) -> float:
    return float(np.median(scores))


def _majority(scores: Sequence[float]) -> float:
    """Return what most experts say; of what as many say, what is nearest to the mean, then less."""
    counts = collections.Counter(scores)
    most, mean = max(counts.values()), _mean(scores)
    said = [score for score, count in counts.items() if count == most]
    return min(said, key=lambda score: (abs(score - mean), score))


_OF_RATERS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "raters": _mean,
    "raters_median": _median,
    "raters_majority": _majority,
}
TARGETS: Final = (*_OF_RATERS, MANIFEST)
"""`raters`: the mean of the experts' own scores; `raters_median` and `raters_majority`: theirs;
`medians`: the manifest's `scores`, whatever its makers made of the experts'."""


def check_targets(where: str, targets: str) -> None:
    """Raise `UsageError` where there is no such rule; `where` is the recipe's file."""
    if targets not in TARGETS:
        raise UsageError(
            f"{where} [data]: targets is {targets!r}", hint=f"choose from {', '.join(TARGETS)}"
        )


def target_of(utterance: Utterance, name: str, targets: str) -> float:
    """Return the score that a recording is trained on.

    Args:
        utterance: The manifest's line.
        name: Of the score.
        targets: One of `TARGETS`.

    Raises:
        ManifestError: The line lacks it, or it is no finite number.
    """
    raters = utterance.extra.get("raters") or {}
    found: Any = utterance.scores.get(name)
    if targets != MANIFEST:
        found = raters.get(name) if isinstance(raters, Mapping) else None
    scores = found if isinstance(found, list) else [found]
    if not scores or not all(map(is_number, scores)):
        raise ManifestError(
            f"{utterance.id} lacks {targets} for {name}",
            hint="name every score on every line, as numbers"
            + ("" if targets == MANIFEST else f", or train on {MANIFEST}"),
        )
    if targets == MANIFEST:
        return float(scores[0])
    return _OF_RATERS[targets]([float(score) for score in scores])
