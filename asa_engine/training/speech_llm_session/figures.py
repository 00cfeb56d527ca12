"""Figures of a session grader on the dev sessions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from asa_engine.evaluation.metrics import defined, metrics
from asa_engine.graders.speech_llm_session.config import OVERALL, SessionConfig
from asa_engine.training.speech_llm_session.data import Speaker

__all__ = ["agreement", "figures", "with_errors"]


def figures(
    config: SessionConfig, said: NDArray[np.float64], dev: Sequence[Speaker]
) -> dict[str, dict[str, float | None]]:
    """Return figures of each part and of their mean, which is the overall score reported."""
    wanted = torch.stack([speaker.whole.targets for speaker in dev]).double().numpy()
    by_part = {
        part.name: agreement(said[:, index], wanted[:, index])
        for index, part in enumerate(config.parts)
    }
    return {**by_part, OVERALL: agreement(said[:, :-1].mean(1), wanted[:, -1])}


def agreement(said: NDArray[np.float64], wanted: NDArray[np.float64]) -> dict[str, float | None]:
    """Return the metrics of scores [n] against the experts', rounded; `None` where undefined."""
    return defined(metrics(said, wanted), digits=4)


def with_errors(
    config: SessionConfig, said: NDArray[np.float64], dev: Sequence[Speaker]
) -> SessionConfig:
    """Return the configuration with the dev sessions' error as each score's expected error."""
    wanted = torch.stack([speaker.whole.targets for speaker in dev]).double().numpy()
    reported = np.concatenate((said[:, :-1], said[:, :-1].mean(1, keepdims=True)), axis=1)
    errors = np.sqrt(((reported - wanted) ** 2).mean(0))
    frames = [sum(h.frames for h in speaker.heard.values()) for speaker in dev]
    seconds = round(float(np.median(frames)) / 50, 1)
    aspects = tuple(
        dataclasses.replace(aspect, sd=((seconds, round(float(error), 3)),))
        for aspect, error in zip(config.aspects, errors, strict=True)
    )
    return dataclasses.replace(config, speech=dataclasses.replace(config.speech, aspects=aspects))
