"""Dev figures of a trained grader: overall, by group, by duration."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from asa_engine.evaluation.agreement import group_rows
from asa_engine.evaluation.metrics import defined, metrics
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.graders.acoustic.model import AcousticGrader
from asa_engine.training.acoustic.recipe import AcousticRecipe
from asa_engine.training.data import Corpus
from asa_engine.training.duration import errors_by_duration
from asa_engine.training.state import Progress

__all__ = ["REPORT_NAME", "calibrated", "evaluate_dev", "write_report"]

REPORT_NAME = "report.json"


def evaluate_dev(grader: AcousticGrader, dev: Corpus) -> NDArray[np.float64]:
    """Return the offline reference's scores of every dev recording, [n, A]."""
    bar = tqdm(range(len(dev)), desc="dev speakers", unit="", leave=False)
    return np.array([grader.assess_samples(dev.samples(i)).scores for i in bar], dtype=np.float64)


def calibrated(
    config: AcousticConfig, dev: Corpus, predicted: NDArray[np.float64]
) -> AcousticConfig:
    """Return the configuration with each aspect's expected error by duration of speech."""
    aspects = errors_by_duration(config.aspects, dev.durations_s(), predicted, dev.scores)
    return dataclasses.replace(config, aspects=aspects)


def write_report(
    recipe: AcousticRecipe,
    dev: Corpus,
    predicted: NDArray[np.float64],
    progress: Progress,
    kernel: dict[str, Any] | None,
    seconds: float,
) -> str:
    """Return the training report as JSON text.

    It holds the recipe and its hash, dev figures (all, and by group of age, gender and first
    language), the history of losses, and how long the last sitting took.
    """
    groups = {"all": list(range(len(dev))), **group_rows(dev.utterances)}
    names = [aspect.name for aspect in recipe.grader.aspects]
    figures: dict[str, Any] = {}
    for title, rows in groups.items():
        figures[title] = {
            "n": len(rows),
            "speakers": len({dev.utterances[i].speaker for i in rows}),
            "aspects": {
                name: defined(metrics(predicted[rows, i], dev.scores[rows, i]))
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
