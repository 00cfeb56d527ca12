"""Dev figures of a trained grader: overall, by group, by duration."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.graders.acoustic.model import AcousticGrader
from asa_engine.manifest import Utterance
from asa_engine.metrics import metrics, rmse
from asa_engine.training.data import Corpus
from asa_engine.training.recipe import Recipe
from asa_engine.training.state import Progress

__all__ = ["CHILD_MAX_AGE", "REPORT_NAME", "calibrated", "evaluate_dev", "write_report"]

REPORT_NAME = "report.json"
# Up to this age a speaker counts as a child: primary-school age, before the voice breaks.
CHILD_MAX_AGE = 12
DURATION_BINS = 4
MIN_BIN = 20


def evaluate_dev(grader: AcousticGrader, dev: Corpus) -> NDArray[np.float64]:
    """Return the offline reference's scores of every dev recording, [n, A]."""
    bar = tqdm(range(len(dev)), desc="dev speakers", unit="", leave=False)
    return np.array([grader.assess_samples(dev.samples(i)).scores for i in bar], dtype=np.float64)


def calibrated(
    config: AcousticConfig, dev: Corpus, predicted: NDArray[np.float64]
) -> AcousticConfig:
    """Return the configuration with each aspect's expected error by duration of speech.

    The dev recordings are cut into quarters by duration; each contributes its median duration
    and the root of its mean squared error. Fewer than 20 recordings a quarter make one entry.
    """
    seconds = dev.durations_s()
    bins = DURATION_BINS if len(dev) >= DURATION_BINS * MIN_BIN else 1
    parts = np.array_split(np.argsort(seconds, kind="stable"), bins)
    aspects = []
    for i, aspect in enumerate(config.aspects):
        table = {
            round(float(np.median(seconds[part])), 2): round(
                rmse(predicted[part, i], dev.scores[part, i]), 3
            )
            for part in parts
        }
        aspects.append(dataclasses.replace(aspect, sd=tuple(sorted(table.items()))))
    return dataclasses.replace(config, aspects=tuple(aspects))


def write_report(
    recipe: Recipe,
    dev: Corpus,
    predicted: NDArray[np.float64],
    progress: Progress,
    kernel: dict[str, Any] | None,
    seconds: float,
) -> str:
    """Return the training report as JSON text.

    It holds the recipe and its hash, dev figures (all, children up to 12 years, adults, women
    and girls, men and boys), the history of losses, and how long the last sitting took.
    """
    groups: dict[str, Callable[[Utterance], bool]] = {
        "all": lambda u: True,
        f"age up to {CHILD_MAX_AGE}": lambda u: u.age is not None and u.age <= CHILD_MAX_AGE,
        f"age above {CHILD_MAX_AGE}": lambda u: u.age is not None and u.age > CHILD_MAX_AGE,
        "gender f": lambda u: u.gender == "f",
        "gender m": lambda u: u.gender == "m",
    }
    names = [aspect.name for aspect in recipe.grader.aspects]
    figures: dict[str, Any] = {}
    for title, wanted in groups.items():
        rows = [i for i, utterance in enumerate(dev.utterances) if wanted(utterance)]
        if len(rows) < 2:
            continue
        figures[title] = {
            "n": len(rows),
            "speakers": len({dev.utterances[i].speaker for i in rows}),
            "aspects": {
                name: _finite(metrics(predicted[rows, i], dev.scores[rows, i]))
                for i, name in enumerate(names)
            },
        }
    report = {
        "recipe": recipe.name,
        "recipe_sha256": recipe.digest,
        "seed": recipe.seed,
        "threads": recipe.threads,
        "phases": [dataclasses.asdict(phase) for phase in recipe.phases],
        "augment": dataclasses.asdict(recipe.augment),
        "kernel": kernel,
        "dev": figures,
        "history": progress.history,
        "seconds": round(seconds, 1),
    }
    return json.dumps(report, indent=1) + "\n"


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    return {name: value if np.isfinite(value) else None for name, value in values.items()}
