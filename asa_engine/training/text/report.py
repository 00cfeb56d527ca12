"""The comparison's figures: each objective over its seeds, and confusion matrices as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asa_engine.evaluation.metrics import accuracy, confusion, macro_accuracy, macro_f1, pcc, rmse
from asa_engine.graders.text.config import TextConfig
from asa_engine.training.duration import error_by_duration
from asa_engine.training.text.corpus import Side

__all__ = ["dev_error", "expected_scores", "figures", "summary"]


def figures(logits: NDArray[np.float64], dev: Side, config: TextConfig) -> dict[str, float]:
    """Return one run's figures on the dev side.

    Accuracy, macro accuracy and macro F1 are of the likeliest class; correlation and error are of
    the expected score against the experts' score, not against its class.

    Args:
        logits: [n, C].
        dev: The dev side, n.
        config: The grader's.
    """
    counts = confusion(logits.argmax(axis=1), dev.labels, len(config.classes))
    expected = expected_scores(logits, config)
    return {
        "accuracy": accuracy(counts),
        "macro_accuracy": macro_accuracy(counts),
        "macro_f1": macro_f1(counts),
        "pcc": pcc(expected, dev.scores),
        "rmse": rmse(expected, dev.scores),
    }


def expected_scores(logits: NDArray[np.float64], config: TextConfig) -> NDArray[np.float64]:
    """Return sum_k p_k s_k of each row, held to the scale, [n]."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    share = powers / powers.sum(axis=1, keepdims=True)
    aspect = config.aspect
    scores: NDArray[np.float64] = (share @ np.array(config.class_scores)).clip(
        aspect.scale_min, aspect.scale_max
    )
    return scores


def summary(
    logits: Mapping[str, NDArray[np.float64]], dev: Side, config: TextConfig
) -> dict[str, Any]:
    """Return every objective's figures: each run, mean and deviation, confusion over all runs.

    The deviation is that of a sample (n - 1); None for a single run. `baseline` always says the
    commonest class and the mean score of the dev side: what needs no reading.

    Args:
        logits: Objective -> [runs, n, C].
        dev: The dev side, n.
        config: The grader's.
    """
    objectives: dict[str, Any] = {}
    confusions: dict[str, list[list[int]]] = {}
    for name, runs in logits.items():
        of_seeds = [figures(run, dev, config) for run in runs]
        objectives[name] = {
            metric: {
                "mean": _rounded(np.mean([run[metric] for run in of_seeds])),
                "deviation": _rounded(np.std([run[metric] for run in of_seeds], ddof=1))
                if len(of_seeds) > 1
                else None,
                "runs": [_rounded(run[metric]) for run in of_seeds],
            }
            for metric in of_seeds[0]
        }
        counts = [confusion(run.argmax(axis=1), dev.labels, len(config.classes)) for run in runs]
        confusions[name] = np.sum(counts, axis=0).tolist()
    commonest = np.bincount(dev.labels, minlength=len(config.classes)).argmax()
    always = confusion(np.full(len(dev), commonest), dev.labels, len(config.classes))
    return {
        "objectives": objectives,
        "baseline": {
            "accuracy": _rounded(accuracy(always)),
            "macro_accuracy": _rounded(macro_accuracy(always)),
            "macro_f1": _rounded(macro_f1(always)),
            "rmse": _rounded(dev.scores.std()),
        },
        "confusion": confusions,
    }


def _rounded(value: float | np.floating[Any]) -> float | None:
    """Return a figure of four places; `None` where it is not defined, which JSON has no NaN for."""
    return round(float(value), 4) if np.isfinite(value) else None


def dev_error(dev: Side, predicted: NDArray[np.float64]) -> tuple[tuple[float, float], ...]:
    """Return `error_by_duration`; empty where the manifest states no durations."""
    seconds = np.array([u.duration_s or np.nan for u in dev.utterances])
    if not np.isfinite(seconds).all():
        return ()
    return error_by_duration(seconds, predicted, dev.scores)
