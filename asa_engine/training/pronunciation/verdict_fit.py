"""The verdicts' networks and limits, chosen on speaker-disjoint folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asa_engine.graders.pronunciation.measures import Array
from asa_engine.training.pronunciation.recipe import VerdictsRecipe
from asa_engine.training.pronunciation.studio import Case, Read
from asa_engine.training.pronunciation.verdicts import (
    Detection,
    fit_odds,
    limit_for,
    limit_refusing,
)

__all__ = ["Verdicts", "learn_verdicts"]


class Verdicts(NamedTuple):
    """The networks' tensors, by the judge's names, and how well each finds what it looks for."""

    tensors: dict[str, Array]
    figures: dict[str, Any]


class _Rows(NamedTuple):
    """Examples of one verdict.

    Attributes:
        rows: Numbers, [N, F].
        labels: Whether it is so, [N].
        folds: Fold of each one's speaker, [N].
    """

    rows: Array
    labels: NDArray[np.bool_]
    folds: NDArray[np.int64]


def learn_verdicts(
    reads: Sequence[Read],
    cases: Mapping[str, Sequence[Case]],
    folds: NDArray[np.int64],
    how: VerdictsRecipe,
    seed: int,
) -> Verdicts:
    """Learn what tells words left out, speech put in, and other texts.

    Args:
        reads: Readings as they are.
        cases: `cut`, `short` and `other` readings.
        folds: Of each reading.
        how: The recipe.
        seed: Of the networks.
    """
    tables = {
        "omission": _words(reads, cases["cut"], folds),
        "insertion": _gaps(reads, cases["short"], folds),
        "mismatch": _readings(reads, cases, folds),
    }
    tensors: dict[str, Array] = {}
    figures: dict[str, Any] = {}
    for kind, table in tables.items():
        odds = np.zeros(len(table.rows))
        for fold in np.unique(table.folds):
            held = table.folds == fold
            network = fit_odds(table.rows[~held], table.labels[~held], how, seed)
            odds[held] = network(table.rows[held])
        found = _limit(kind, odds, table.labels, how)
        figures[kind] = {**found.to_dict(), "examples": int(table.labels.sum())}
        final = fit_odds(table.rows, table.labels, how, seed)
        tensors |= {f"{kind}.{name}": value for name, value in final.tensors.items()}
    return Verdicts(tensors, figures)


def _limit(
    kind: str, odds: NDArray[np.float64], labels: NDArray[np.bool_], how: VerdictsRecipe
) -> Detection:
    if kind == "mismatch":
        return limit_refusing(odds, labels, how.refused)
    return limit_for(odds, labels, how.false_alarms)


def _words(reads: Sequence[Read], cut: Sequence[Case], folds: NDArray[np.int64]) -> _Rows:
    parts = []
    for read in reads:
        if read.text is not None and read.asked is not None:
            rows = read.asked
            # What the experts give nearly nothing may not have been said at all.
            kept = rows[read.text.targets.words > _LEAST_SAID]
            parts.append((kept, np.zeros(len(kept), bool), read.reading))
    for case in cut:
        parts.append((case.asked, np.arange(len(case.asked)) == case.word, case.reading))
    return _joined(parts, folds)


def _gaps(reads: Sequence[Read], short: Sequence[Case], folds: NDArray[np.int64]) -> _Rows:
    parts = [
        (read.gaps, np.zeros(len(read.gaps), bool), read.reading)
        for read in reads
        if read.gaps is not None
    ]
    parts += [(case.gaps, np.arange(len(case.gaps)) == case.word, case.reading) for case in short]
    return _joined(parts, folds)


def _readings(
    reads: Sequence[Read], cases: Mapping[str, Sequence[Case]], folds: NDArray[np.int64]
) -> _Rows:
    parts = [
        (read.text.described.reading[None], np.zeros(1, bool), read.reading)
        for read in reads
        if read.text is not None
    ]
    for kind, some in cases.items():
        parts += [
            (case.described.reading[None], np.full(1, kind == "other"), case.reading)
            for case in some
        ]
    return _joined(parts, folds)


def _joined(
    parts: Sequence[tuple[Array, NDArray[np.bool_], int]], folds: NDArray[np.int64]
) -> _Rows:
    return _Rows(
        np.concatenate([rows for rows, _, _ in parts]),
        np.concatenate([labels for _, labels, _ in parts]),
        np.concatenate([np.full(len(rows), folds[index]) for rows, _, index in parts]),
    )


_LEAST_SAID = 2.0
