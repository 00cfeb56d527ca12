"""The comparison's figures and pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asa_engine.evaluation.metrics import accuracy, confusion, macro_accuracy, macro_f1, pcc, rmse
from asa_engine.graders.multi_aspect.config import MultiAspectConfig
from asa_engine.training.duration import errors_by_duration
from asa_engine.training.multi_aspect.corpus import Side
from asa_engine.training.multi_aspect.importance import feature_importance
from asa_engine.training.pictures import confusion_svg

__all__ = ["REPORT_NAME", "calibrated", "distances_svg", "figures", "pictures", "summary"]

REPORT_NAME = "training.json"
METRICS = ("accuracy", "macro_accuracy", "macro_f1", "pcc", "rmse")
_INK = ("#1f4e8c", "#b3541e", "#2e7d32", "#7b1fa2")

_Floats = NDArray[np.float64]


def expected(logits: _Floats, config: MultiAspectConfig) -> _Floats:
    """Return sum_k p_k s_k of logits [..., C]."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    share = powers / powers.sum(axis=-1, keepdims=True)
    return np.asarray(share @ np.array(config.class_scores))


def figures(logits: _Floats, dev: Side, aspect: int, config: MultiAspectConfig) -> dict[str, float]:
    """Return one run's figures on one aspect of the dev side.

    Accuracy, macro accuracy and macro F1 are of the likeliest class; correlation and error are of
    the expected score against the experts'.

    Args:
        logits: [n, A, C].
        dev: The dev side, n.
        aspect: Which of the A.
        config: The grader's.
    """
    counts = confusion(logits[:, aspect].argmax(1), dev.labels[:, aspect], len(config.classes))
    said = expected(logits[:, aspect], config)
    return {
        "accuracy": accuracy(counts),
        "macro_accuracy": macro_accuracy(counts),
        "macro_f1": macro_f1(counts),
        "pcc": pcc(said, dev.scores[:, aspect]),
        "rmse": rmse(said, dev.scores[:, aspect]),
    }


def summary(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    train: Side,
    dev: Side,
    config: MultiAspectConfig,
) -> dict[str, Any]:
    """Return every system's figures on every aspect over its seeds, distances and importances.

    The deviation is that of a sample (n - 1); None for a single run.

    Args:
        runs: System -> its runs, with `dev_logits` and `distances`.
        train: The train side.
        dev: The dev side.
        config: The grader's.
    """
    systems: dict[str, Any] = {}
    confusions: dict[str, Any] = {}
    for name, of_seeds in runs.items():
        logits = [np.array(run["dev_logits"]) for run in of_seeds]
        systems[name] = {
            aspect.name: _over_seeds([figures(run, dev, a, config) for run in logits])
            for a, aspect in enumerate(config.aspects)
        }
        confusions[name] = {
            aspect.name: np.sum(
                [
                    confusion(run[:, a].argmax(1), dev.labels[:, a], len(config.classes))
                    for run in logits
                ],
                axis=0,
            ).tolist()
            for a, aspect in enumerate(config.aspects)
        }
    sides = {"train": train, "dev": dev}
    return {
        "classes": list(config.classes),
        "sides": {
            name: {
                "n": len(side),
                "no_words": list(side.empty),
                "classes": {
                    aspect.name: side.counts(a, len(config.classes))
                    for a, aspect in enumerate(config.aspects)
                },
            }
            for name, side in sides.items()
        },
        "systems": systems,
        "parameters": {name: of_seeds[0]["parameters"] for name, of_seeds in runs.items()},
        "confusion": confusions,
        "distances": _distances(runs, config),
        "importance": _importances(train, config),
        "losses": {name: [run["losses"] for run in of_seeds] for name, of_seeds in runs.items()},
    }


def calibrated(config: MultiAspectConfig, dev: Side, logits: _Floats) -> MultiAspectConfig:
    """Return the configuration with each aspect's expected error by duration of speech.

    Unchanged where the manifest states no durations.
    """
    seconds = np.array([u.duration_s or np.nan for u in dev.utterances])
    if not np.isfinite(seconds).all():
        return config
    aspects = errors_by_duration(config.aspects, seconds, expected(logits, config), dev.scores)
    return dataclasses.replace(config, aspects=aspects)


def pictures(report: Mapping[str, Any], config: MultiAspectConfig) -> dict[str, str]:
    """Return the report's pictures, file name -> SVG: confusions, distances, importances."""
    drawn = {
        f"confusion-{aspect.name}.svg": confusion_svg(
            {name: of_seeds[aspect.name] for name, of_seeds in report["confusion"].items()},
            config.classes,
        )
        for aspect in config.aspects
    }
    for name, of_seeds in report["distances"].items():
        drawn[f"distances-{name}.svg"] = distances_svg(of_seeds, config.classes)
    drawn["importance.svg"] = _importance_svg(report["importance"])
    return drawn


def distances_svg(
    distances: Mapping[str, Mapping[str, Sequence[float]]], classes: Sequence[str]
) -> str:
    """Draw the learned distances between neighbouring classes (the paper's Figure 5).

    Args:
        distances: Aspect -> `mean` and `deviation` over the runs, [C - 1] each.
        classes: Their names.
    """
    top = 1.1 * max(m + d for f in distances.values() for m, d in zip(*_pair(f), strict=True))
    step, height, left = 90, 260, 60
    width = left + step * (len(classes) - 1) + 140
    parts = [_open(width, height + 70, "Learned distances between neighbouring classes")]
    for tick in np.linspace(0, top, 5):
        y = 20 + height * (1 - tick / top)
        parts.append(
            f'<line x1="{left}" x2="{width - 130}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
            f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:.2f}</text>'
        )
    for t in range(len(classes) - 1):
        label = f"{classes[t]} to {classes[t + 1]}"
        parts.append(
            f'<text x="{left + step * (t + 0.5)}" y="{height + 42}" text-anchor="middle">'
            f"{escape(label)}</text>"
        )
    for k, (name, found) in enumerate(distances.items()):
        ink, points = _INK[k % len(_INK)], []
        for t, (mean, spread) in enumerate(zip(*_pair(found), strict=True)):
            x = left + step * (t + 0.5) + 5 * (k - 1.5)
            y, reach = 20 + height * (1 - mean / top), height * spread / top
            points.append(f"{x:.1f},{y:.1f}")
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - reach:.1f}" y2="{y + reach:.1f}" '
                f'stroke="{ink}"/><circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{ink}"/>'
            )
        parts.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{ink}"/>')
        parts.append(
            f'<text x="{width - 120}" y="{40 + 20 * k}" fill="{ink}">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _importance_svg(importance: Mapping[str, Mapping[str, float]]) -> str:
    """Draw each named feature's importance for each aspect as bars, most important first."""
    names = sorted(
        next(iter(importance.values())),
        key=lambda name: -sum(weights[name] for weights in importance.values()),
    )
    row, left, bar = 13 * len(importance) + 10, 250, 380
    most = max(max(weights.values()) for weights in importance.values()) or 1.0
    parts = [_open(left + bar + 90, 40 + row * len(names), "Importance of named features")]
    for k, aspect in enumerate(importance):
        parts.append(f'<text x="{left + 110 * k}" y="20" fill="{_INK[k % 4]}">{aspect}</text>')
    for i, name in enumerate(names):
        y = 34 + row * i
        middle = y + row / 2
        parts.append(f'<text x="{left - 8}" y="{middle:.1f}" text-anchor="end">{name}</text>')
        for k, weights in enumerate(importance.values()):
            length = bar * weights[name] / most
            parts.append(
                f'<rect x="{left}" y="{y + 13 * k}" width="{length:.1f}" height="11" '
                f'fill="{_INK[k % 4]}"/><text x="{left + length + 5:.1f}" y="{y + 13 * k + 10}" '
                f'font-size="10">{weights[name]:.3f}</text>'
            )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _open(width: float, height: float, title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'font-family="sans-serif" font-size="13" role="img"><title>{title}</title>'
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#fff"/>'
    )


def _pair(weights: Mapping[str, Sequence[float]]) -> tuple[Sequence[float], Sequence[float]]:
    return weights["mean"], weights["deviation"]


def _over_seeds(of_seeds: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    return {
        metric: {
            "mean": round(float(np.mean([run[metric] for run in of_seeds])), 4),
            "deviation": round(float(np.std([run[metric] for run in of_seeds], ddof=1)), 4)
            if len(of_seeds) > 1
            else None,
            "runs": [round(run[metric], 4) for run in of_seeds],
        }
        for metric in METRICS
    }


def _distances(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], config: MultiAspectConfig
) -> dict[str, Any]:
    """Return mean and deviation over the runs of each MMO system's distances, by aspect."""
    return {
        name: {
            aspect.name: {
                "mean": [round(v, 4) for v in _stack(of_seeds, a).mean(0).tolist()],
                "deviation": [round(v, 4) for v in _stack(of_seeds, a).std(0).tolist()],
            }
            for a, aspect in enumerate(config.aspects)
        }
        for name, of_seeds in runs.items()
        if of_seeds[0]["distances"] is not None
    }


def _stack(of_seeds: Sequence[Mapping[str, Any]], aspect: int) -> _Floats:
    return np.array([run["distances"][aspect] for run in of_seeds])


def _importances(train: Side, config: MultiAspectConfig) -> dict[str, dict[str, float]]:
    names = sorted({name for example in train.examples for name in example.named})
    table = np.array([[e.named.get(name, 0.0) for name in names] for e in train.examples])
    return {
        aspect.name: {
            name: round(float(share), 4)
            for name, share in zip(
                names, feature_importance(table, train.scores[:, a]), strict=True
            )
        }
        for a, aspect in enumerate(config.aspects)
    }
