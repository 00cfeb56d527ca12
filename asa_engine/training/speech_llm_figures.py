"""Figures of a speech LLM on the dev speakers."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asa_engine.graders.speech_llm.model import SpeechLLM
from asa_engine.metrics import mae, pcc, rmse, srcc
from asa_engine.training.data import Corpus

__all__ = ["decodings", "error_by_duration", "figures"]


def decodings(
    grader: SpeechLLM, answers: Tensor, dev: Corpus
) -> dict[str, dict[str, float | None]]:
    """Return figures of answers [n, K]: soft and hard decoding, or regression."""
    if grader.head is not None:
        return {"regression": figures(grader.scores(answers), dev)}
    hard = torch.tensor(grader.config.prompt.label_scores)[answers.argmax(-1)][:, None]
    return {"soft": figures(grader.scores(answers), dev), "hard": figures(hard, dev)}


def figures(scores: Tensor, dev: Corpus) -> dict[str, float | None]:
    """Return the figures of scores [n, 1] against the experts' medians; None where undefined."""
    said, wanted = scores[:, 0].double().numpy(), dev.scores[:, 0]
    found = {metric.__name__: metric(said, wanted) for metric in (pcc, srcc, rmse, mae)}
    return {
        name: round(value, 4) if math.isfinite(value) else None for name, value in found.items()
    }


def error_by_duration(
    dev: Corpus, said: NDArray[np.float32], bins: int = 4
) -> tuple[tuple[float, float], ...]:
    """Return the expected error by seconds of speech, for `AspectConfig.sd`: by quarters."""
    seconds = dev.durations_s()
    table = {
        round(float(np.median(seconds[part])), 2): round(
            rmse(said[part].astype(np.float64), dev.scores[part, 0]), 3
        )
        for part in np.array_split(np.argsort(seconds, kind="stable"), bins)
        if len(part)
    }
    return tuple(sorted(table.items()))
