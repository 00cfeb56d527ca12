"""Objectives of a speech LLM that answers with a label token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from asa_engine.objectives.acoustic import soft_bins

__all__ = ["expected_score", "fair_average", "label_cross_entropy", "soft_label_cross_entropy"]


def expected_score(logits: Tensor, label_scores: Sequence[float]) -> Tensor:
    """Return soft decoding's score, sum_k p_k s_k with p = softmax over the labels alone, [N].

    System S3; the softmax over the labels' logits is what the whole vocabulary's becomes when it
    is renormalised over them.

    Args:
        logits: Of the label tokens at the answer's position, [N, K].
        label_scores: s_k, K of them.
    """
    return logits.softmax(-1) @ torch.tensor(label_scores, dtype=logits.dtype, device=logits.device)


def fair_average(logits: Tensor, target: Tensor, label_scores: Sequence[float]) -> Tensor:
    """Return the fair average, 1/N sum_n (sum_k p_nk s_k - y_n)^2 (system S3).

    The paper names it and gives no formula: this is ours, with p renormalised over the labels.

    Args:
        logits: Of the label tokens, [N, K].
        target: y, in scale units, [N].
        label_scores: s_k, ascending, K of them.
    """
    return F.mse_loss(expected_score(logits, label_scores), target)


def soft_label_cross_entropy(
    logits: Tensor, target: Tensor, label_scores: Sequence[float]
) -> Tensor:
    """Return the cross-entropy with each score split linearly between its neighbouring labels.

    -1/N sum_n sum_k q_nk log p_nk, q as `soft_bins` has it. Arguments as of `fair_average`.
    """
    return F.cross_entropy(logits, soft_bins(target, label_scores))


def label_cross_entropy(logits: Tensor, target: Tensor, label_scores: Sequence[float]) -> Tensor:
    """Return the cross-entropy of each score's nearest label; of two as near, the higher.

    Arguments as of `fair_average`.
    """
    scores = torch.tensor(label_scores, dtype=target.dtype, device=target.device)
    middles = (scores[1:] + scores[:-1]) / 2
    return F.cross_entropy(logits, torch.bucketize(target, middles, right=True))
