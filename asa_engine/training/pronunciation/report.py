"""What the folds say: agreement with the experts, for whom, and how sure; the limits and errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asa_engine.evaluation.agreement import by_speaker, group_rows, intervals
from asa_engine.evaluation.metrics import metrics, pcc
from asa_engine.graders.pronunciation.config import PronunciationConfig, Thresholds
from asa_engine.graders.pronunciation.measures import FRAMES_PER_S, Array
from asa_engine.training.pronunciation.network_fit import Example
from asa_engine.training.pronunciation.readings import ASPECTS, Reading
from asa_engine.training.pronunciation.verdicts import limit_for

__all__ = ["Outcome", "calibrated", "report_of"]

HOLDS = 0.683
"""Share of errors within one deviation."""
_BINS = 6
_POOR_WORD, _POOR_PHONE = 7.0, 1.0
_WORD_ALARMS = 0.02
_STEP = 1.0


@dataclass(frozen=True)
class Outcome:
    """What was said of every reading by those who had not heard its speaker.

    Attributes:
        readings: All of them.
        said: `text`, `free`, and `text-told` (the corpus's transcription) -> reading -> scores.
        words: The same -> reading -> accuracy of each word.
        phones: The same -> reading -> accuracy of each phone.
        examples: Reading -> its numbers and targets, by a dictionary.
        told: The same by the corpus's transcription.
    """

    readings: Sequence[Reading]
    said: Mapping[str, Mapping[int, NDArray[np.float64]]]
    words: Mapping[str, Mapping[int, Array]]
    phones: Mapping[str, Mapping[int, Array]]
    examples: Mapping[int, Example]
    told: Mapping[int, Example]


def calibrated(
    config: PronunciationConfig, outcome: Outcome, verdicts: Mapping[str, Any]
) -> PronunciationConfig:
    """Return the configuration with its limits and expected errors."""
    aspects = []
    shape: dict[str, tuple[tuple[float, float], ...]] = {}
    free: dict[str, tuple[tuple[float, float], ...]] = {}
    for number, aspect in enumerate(config.aspects):
        by_score, by_length = _errors(outcome, "text", number)
        aspects.append(dataclasses.replace(aspect, sd=by_length))
        shape[aspect.name] = by_score
        free_score, free[aspect.name] = _errors(outcome, "free", number)
        shape[f"free_{aspect.name}"] = free_score
    said, wanted = _joined(outcome, "words", "text")
    phones, wanted_phones = _joined(outcome, "phones", "text")
    limits = Thresholds(
        mismatch=verdicts["mismatch"]["limit"],
        omission=verdicts["omission"]["limit"],
        insertion=verdicts["insertion"]["limit"],
        mispronounced=round(-limit_for(-said, wanted < _POOR_WORD, _WORD_ALARMS).limit, 3),
        poor_phone=round(-limit_for(-phones, wanted_phones < _POOR_PHONE, _WORD_ALARMS).limit, 3),
    )
    return dataclasses.replace(
        config,
        aspects=tuple(aspects),
        free_sd=free,
        sd_by_score=shape,
        thresholds=limits,
        word_sd=_word_errors(said, wanted),
    )


def report_of(
    config: PronunciationConfig,
    outcome: Outcome,
    verdicts: Mapping[str, Any],
    kernels: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the figures as JSON values."""
    found: dict[str, Any] = {"kernels": dict(kernels), "verdicts": dict(verdicts)}
    for name, said in outcome.said.items():
        if name != "free-told":
            found[name] = _agreement(outcome, said)
    for name in ("text", "text-told"):
        for level, limit in (("words", _POOR_WORD), ("phones", _POOR_PHONE)):
            values, wanted = _joined(outcome, level, name)
            ours = (
                config.thresholds.mispronounced
                if level == "words"
                else config.thresholds.poor_phone
            )
            claimed, poor = values < ours, wanted < limit
            right = int((claimed & poor).sum())
            found[name][level] = {
                "n": len(values),
                "pcc": _number(pcc(values, wanted)),
                "mispronounced": {
                    "precision": round(right / max(1, int(claimed.sum())), 3),
                    "recall": round(right / max(1, int(poor.sum())), 3),
                    "false_alarms": round(float((claimed & ~poor).sum() / (~poor).sum()), 4),
                },
            }
    found["calibration"] = {name: _holds(config, outcome, name) for name in ("text", "free")}
    return found


def _agreement(outcome: Outcome, said: Mapping[int, NDArray[np.float64]]) -> dict[str, Any]:
    index = sorted(said)
    readings = [outcome.readings[i] for i in index]
    values = np.stack([said[i] for i in index])
    scores = np.stack([reading.scores for reading in readings])
    predicted = {name: values[:, i] for i, name in enumerate(ASPECTS)}
    expected = {name: scores[:, i] for i, name in enumerate(ASPECTS)}
    speakers = [reading.utterance.speaker for reading in readings]
    steps = dict.fromkeys(ASPECTS, _STEP)
    spread = intervals(predicted, expected, speakers, steps)
    aspects = {
        name: {
            key: _number(value)
            for key, value in metrics(predicted[name], expected[name], step=_STEP).items()
        }
        | {"pcc_interval": spread["aspects"][name]["pcc"]}
        for name in ASPECTS
    }
    groups = {}
    for title, rows in _groups(readings).items():
        groups[title] = {
            "n": len(rows),
            **{name: _number(pcc(predicted[name][rows], expected[name][rows])) for name in ASPECTS},
            "rmse_total": round(
                float(np.sqrt(np.square(values[rows, -1] - scores[rows, -1]).mean())), 4
            ),
        }
    means = by_speaker(predicted, expected, speakers, steps)
    return {
        "n": len(index),
        "mean_pcc": _number(float(np.mean([pcc(predicted[n], expected[n]) for n in ASPECTS]))),
        "aspects": aspects,
        "groups": groups,
        "speakers_pcc": {name: _number(one["pcc"]) for name, one in means["aspects"].items()},
    }


def _groups(readings: Sequence[Reading]) -> dict[str, NDArray[np.int64]]:
    """Return rows of each group: age, gender, and level of the experts' total."""
    found = {
        title: np.array(rows)
        for title, rows in group_rows([reading.utterance for reading in readings]).items()
    }
    total = np.array([reading.scores[-1] for reading in readings])
    for title, rows in (
        ("level low (total below 6)", total < 6),
        ("level middle (6 to 8)", (total >= 6) & (total < 9)),
        ("level high (9 and above)", total >= 9),
    ):
        if rows.sum() > 2:
            found[title] = np.flatnonzero(rows)
    return found


def _errors(
    outcome: Outcome, name: str, number: int
) -> tuple[tuple[tuple[float, float], ...], tuple[tuple[float, float], ...]]:
    """Return factors by score, and deviations by seconds of speech: what 68 % of errors keep to."""
    said = outcome.said[name]
    index = [i for i in sorted(said) if i in outcome.examples]
    values = np.array([said[i][number] for i in index])
    errors = np.abs(values - np.array([outcome.readings[i].scores[number] for i in index]))
    seconds = np.array([_speech_s(outcome.examples[i]) for i in index])
    whole = max(float(np.quantile(errors, HOLDS)), 1e-3)
    factors = [
        (
            round(float(values[rows].mean()), 3),
            round(float(np.quantile(errors[rows], HOLDS) / whole), 3),
        )
        for rows in _bins(values)
    ]
    at, by = zip(*factors, strict=True)
    relative = errors / np.interp(values, at, by)
    lengths = [
        (
            round(float(np.median(seconds[rows])), 2),
            round(float(np.quantile(relative[rows], HOLDS)), 3),
        )
        for rows in _bins(seconds)
    ]
    return tuple(factors), tuple(lengths)


def _bins(values: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    order = np.argsort(values, kind="stable")
    found: list[NDArray[np.int64]] = []
    last = -1e9
    for rows in np.array_split(order, min(_BINS, max(1, len(values) // 10))):
        middle = float(np.median(values[rows]))
        if middle > last + 1e-2:
            found.append(rows)
            last = middle
    return found or [order]


def _speech_s(example: Example) -> float:
    spans = example.described.segments.spans
    return float(spans[-1, 1] - spans[0, 0]) / FRAMES_PER_S


def _joined(
    outcome: Outcome, level: str, name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what was said of all words or phones, and the experts' scores where there are any."""
    examples = outcome.told if name.endswith("-told") else outcome.examples
    held = getattr(outcome, level)[name]
    index = sorted(held)
    said = np.concatenate([held[i] for i in index]).astype(np.float64)
    wanted = np.concatenate([getattr(examples[i].targets, level) for i in index])
    known = ~np.isnan(wanted)
    return said[known], wanted[known].astype(np.float64)


def _word_errors(
    said: NDArray[np.float64], wanted: NDArray[np.float64]
) -> tuple[tuple[float, float], ...]:
    pairs = []
    for rows in _bins(said):
        error = float(np.sqrt(np.square(said[rows] - wanted[rows]).mean()))
        pairs.append((round(float(said[rows].mean()), 3), round(error, 3)))
    return tuple(pairs)


def _holds(config: PronunciationConfig, outcome: Outcome, name: str) -> dict[str, Any]:
    """Return which share of the experts' scores lies within one stated deviation, by group."""
    said = outcome.said[name]
    index = [i for i in sorted(said) if i in outcome.examples]
    readings = [outcome.readings[i] for i in index]
    seconds = [_speech_s(outcome.examples[i]) for i in index]
    found: dict[str, Any] = {}
    aspects = config.aspects if name == "text" else config.free_aspects()
    for number, aspect in enumerate(aspects):
        key = aspect.name if name == "text" else f"free_{aspect.name}"
        inside = np.array(
            [
                abs(float(said[i][number]) - reading.scores[number])
                <= (config.sd_of(key, aspect, float(said[i][number]), length) or 0.0)
                for i, reading, length in zip(index, readings, seconds, strict=True)
            ]
        )
        found[aspect.name] = {"all": round(float(inside.mean()), 3)} | {
            title: round(float(inside[rows].mean()), 3) for title, rows in _groups(readings).items()
        }
    return found


def _number(value: float | None) -> float | None:
    """Return a figure with four digits; `None` where it is undefined."""
    return None if value is None or not np.isfinite(value) else round(float(value), 4)
