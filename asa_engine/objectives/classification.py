"""Objectives of graders that classify: cross-entropy, focal loss, balancing logit variation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

__all__ = ["balanced_logit_variation", "cross_entropy", "focal_loss", "variation_scales"]


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of hard labels, -1/N sum_n log softmax(z_n)_{y_n}.

    Args:
        logits: z [N, C].
        target: y, int64 [N].
    """
    return F.cross_entropy(logits, target)


def focal_loss(logits: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """Return the focal loss, -1/N sum_n (1 - p_n)^gamma log p_n with p_n = softmax(z_n)_{y_n}.

    Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 4; gamma 2 is their choice.

    Args:
        logits: z [N, C].
        target: y, int64 [N].
        gamma: How strongly examples that are right already are played down; 0 is cross-entropy.
    """
    log_p = logits.log_softmax(-1).gather(-1, target[:, None]).squeeze(-1)
    if gamma == 0:
        return -log_p.mean()
    # 1 - p by expm1, which keeps its digits where p is near one; the floor keeps the gradient of
    # a power below one finite there.
    missed = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)
    return -(missed.pow(gamma) * log_p).mean()


def variation_scales(counts: Sequence[int]) -> Tensor:
    """Return alpha_k = log(N / q_k) / max_j log(N / q_j) for class counts q_k that sum to N.

    The rarer a class, the larger; the rarest has 1 (system S1, section III.B). Taken once from
    the whole data set, never from a batch.

    Args:
        counts: Examples of each of C classes, at least two of them, each at least 1.

    Returns:
        float32 [C] in (0, 1].

    Raises:
        ValueError: A class has no example, or there are fewer than two.
    """
    if len(counts) < 2 or min(counts) < 1:
        raise ValueError(f"each of two or more classes needs examples, not {list(counts)}")
    rarity = torch.log(sum(counts) / torch.tensor(counts, dtype=torch.float64))
    return (rarity / rarity.max()).float()


def balanced_logit_variation(
    logits: Tensor,
    target: Tensor,
    scales: Tensor,
    sigma: float,
    clamp: float | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Return the cross-entropy of logits that vary, the rare classes' most: the BLV loss.

    z_k + alpha_k |delta_k| with delta_k ~ N(0, sigma^2), drawn anew for every example and class
    (system S1, section III.B). It belongs to training alone: at inference there is no noise.

    Args:
        logits: z [N, C].
        target: y, int64 [N].
        scales: alpha [C], of `variation_scales`.
        sigma: Standard deviation of delta; 0 is cross-entropy.
        clamp: Hold delta to [-clamp, clamp], as published code does at 1; `None` does not.
        generator: Where chance comes from; torch's default otherwise.
    """
    delta = sigma * torch.randn(
        logits.shape, generator=generator, dtype=logits.dtype, device=logits.device
    )
    if clamp is not None:
        delta = delta.clamp(-clamp, clamp)
    return F.cross_entropy(logits + scales.to(logits) * delta.abs(), target)
