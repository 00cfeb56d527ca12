"""How sure an agreement is, and for whom: intervals over speakers, groups, speakers' means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asa_engine.evaluation.manifest import Utterance
from asa_engine.evaluation.metrics import METRICS, defined, metrics

__all__ = ["CHILD_MAX_AGE", "by_speaker", "group_rows", "intervals"]

# Up to this age a speaker counts as a child: primary-school age, before the voice breaks.
CHILD_MAX_AGE = 12
CONFIDENCE = 0.95
RESAMPLES = 1000
SEED = 762
MOST_GROUPS = 100
_MOST_SCORES = 20_000_000  # of one metric over all resamples, so that a huge manifest ends
_UNDEFINED = 0.05

Scores = Mapping[str, NDArray[np.float64]]


def intervals(
    predicted: Scores, expected: Scores, units: Sequence[str], steps: Mapping[str, float]
) -> dict[str, Any]:
    """Return percentile bootstrap intervals of every metric, resampling speakers.

    Recordings of one speaker are alike, so whole speakers are drawn with replacement, with all
    their recordings (Efron and Tibshirani 1993, chapter 13; the clusters of Field and Welsh 2007).

    Args:
        predicted: Aspect -> scores [n].
        expected: Aspect -> the experts' [n].
        units: Who is drawn, of each recording [n]: its speaker.
        steps: Aspect -> step of its scale.

    Returns:
        JSON values: `confidence`, `resamples`, `seed`, and of each aspect metric -> [low, high];
        `None` where there is one speaker alone, or a metric is undefined in more than a twentieth
        of the resamples.
    """
    members = _members(units)
    count = min(RESAMPLES, max(100, _MOST_SCORES // len(units)))
    draws = np.random.default_rng(SEED).integers(0, len(members), (count, len(members)))
    samples = [np.concatenate([members[i] for i in draw]) for draw in draws]
    ends = [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)]
    aspects: dict[str, dict[str, list[float] | None]] = {}
    for name, said in predicted.items():
        figures = [metrics(said[rows], expected[name][rows], step=steps[name]) for rows in samples]
        aspects[name] = {}
        for metric in METRICS:
            values = np.array([each[metric] for each in figures])
            values = values[np.isfinite(values)]
            known = len(members) > 1 and len(values) >= (1 - _UNDEFINED) * count
            aspects[name][metric] = np.percentile(values, ends).tolist() if known else None
    return {"confidence": CONFIDENCE, "resamples": count, "seed": SEED, "aspects": aspects}


def by_speaker(
    predicted: Scores, expected: Scores, speakers: Sequence[str], steps: Mapping[str, float]
) -> dict[str, Any]:
    """Return the metrics of speakers' mean scores; empty unless each of two or more is named."""
    members = _members(speakers)
    if len(members) < 2 or not all(speakers):
        return {}
    aspects = {}
    for name, said in predicted.items():
        means = (np.array([values[rows].mean() for rows in members]) for values in
                 (said, expected[name]))  # fmt: skip
        aspects[name] = defined(metrics(*means, step=steps[name]))
    return {"n": len(members), "aspects": aspects}


def _members(units: Sequence[str]) -> list[NDArray[np.int64]]:
    rows: dict[str, list[int]] = {}
    for row, unit in enumerate(units):
        rows.setdefault(unit, []).append(row)
    return [np.array(group) for group in rows.values()]


def group_rows(utterances: Sequence[Utterance]) -> dict[str, list[int]]:
    """Return title -> rows of each group of two or more that the manifest tells of.

    Groups are children (up to 12 years) and others, and each gender and first language named; of
    more than a hundred the largest.
    """
    groups: dict[str, list[int]] = {}
    for row, utterance in enumerate(utterances):
        titles = []
        if utterance.age is not None:
            side = "up to" if utterance.age <= CHILD_MAX_AGE else "above"
            titles.append(f"age {side} {CHILD_MAX_AGE}")
        if utterance.gender:
            titles.append(f"gender {utterance.gender}")
        if utterance.first_language:
            titles.append(f"first language {utterance.first_language}")
        for title in titles:
            groups.setdefault(title, []).append(row)
    largest = sorted(groups, key=lambda title: (-len(groups[title]), title))[:MOST_GROUPS]
    return {title: groups[title] for title in sorted(largest) if len(groups[title]) > 1}
