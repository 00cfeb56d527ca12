"""Figures of a speech LLM on the dev speakers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asa_engine.evaluation.metrics import defined, krc, mae, pcc, rmse, srcc
from asa_engine.graders.speech_llm.model import SpeechLLM
from asa_engine.training.data import Corpus

__all__ = ["decodings", "figures", "label_shares", "of_recordings"]


def decodings(
    grader: SpeechLLM, answers: Tensor, dev: Corpus, owners: Tensor
) -> dict[str, dict[str, Any]]:
    """Return figures of answers to chunks [C, K]: soft and hard decoding and labels; or regression.

    Args:
        grader: Whose answers they are.
        answers: Of every chunk.
        dev: The recordings.
        owners: Which recording each chunk is of, int64 [C].
    """
    if grader.head is not None:
        return {"regression": figures(of_recordings(grader.scores(answers), owners), dev)}
    hard = torch.tensor(grader.config.prompt.label_scores)[answers.argmax(-1)][:, None]
    found: dict[str, dict[str, Any]] = {
        name: figures(of_recordings(scores, owners), dev)
        for name, scores in (("soft", grader.scores(answers)), ("hard", hard))
    }
    return {**found, "labels": label_shares(grader.config.prompt.label_scores, answers, dev)}


def label_shares(
    label_scores: Sequence[float], answers: Tensor, dev: Corpus
) -> dict[str, list[float]]:
    """Return how often each label is said, how likely it is held, and how often experts mean it.

    A label said more often than meant, whatever was heard, is what a model favours by its place or
    its letter.

    Args:
        label_scores: Of the labels, K of them.
        answers: Logits of every chunk, [C, K].
        dev: The recordings, whose scores count for the nearest label.
    """
    count = len(label_scores)
    said = torch.bincount(answers.argmax(-1), minlength=count) / len(answers)
    meant = torch.tensor(
        np.abs(dev.scores[:, :1] - np.array(label_scores)).argmin(1), dtype=torch.long
    )
    shares = {
        "said": said,
        "likely": answers.double().softmax(-1).mean(0),
        "meant": torch.bincount(meant, minlength=count) / len(dev),
    }
    return {name: [round(float(x), 4) for x in share] for name, share in shares.items()}


def of_recordings(scores: Tensor, owners: Tensor) -> Tensor:
    """Return the mean of each recording's chunks' scores, [n, A], as the run time does.

    Args:
        scores: Of every chunk, [C, A].
        owners: Which recording each chunk is of, int64 [C], ascending.
    """
    sums = scores.new_zeros(int(owners[-1]) + 1, scores.shape[1]).index_add_(0, owners, scores)
    return sums / torch.bincount(owners)[:, None]


def figures(scores: Tensor, dev: Corpus) -> dict[str, float | None]:
    """Return the figures of scores [n, 1] against the experts' medians; None where undefined."""
    said, wanted = scores[:, 0].double().numpy(), dev.scores[:, 0]
    values = {metric.__name__: metric(said, wanted) for metric in (pcc, srcc, krc, rmse, mae)}
    return defined(values, digits=4)
