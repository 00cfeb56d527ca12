"""Objectives of ordered classes: the multi-margin ordinal loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["REDUCTIONS", "AdjacentDistances", "mmo"]

INITIAL_DISTANCES = (0.5, 1.0)
REDUCTIONS = ("triples", "pairs")


class AdjacentDistances(nn.Module):
    """Learned distances d_t = softplus(theta_t) > 0 between neighbouring classes, [C - 1].

    Args:
        classes: Number C of classes.
        generator: Draws the initial distances, uniform in 0.5 to 1.
    """

    def __init__(self, classes: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        drawn = torch.empty(classes - 1).uniform_(*INITIAL_DISTANCES, generator=generator)
        self.theta = nn.Parameter(torch.log(torch.expm1(drawn)))

    def forward(self) -> Tensor:
        """Return the distances, [C - 1]."""
        return F.softplus(self.theta)


def mmo(logits: Tensor, labels: Tensor, distances: Tensor, reduction: str = "triples") -> Tensor:
    """Return the multi-margin ordinal loss.

    The mean, or another reduction, over all triples (i, j, k) of the batch with y_j = y_i, j != i
    and y_k != y_i of max(0, d(y_i, y_k) + cos(z_i, z_k) - cos(z_i, z_j)), where d adds up the
    distances between neighbouring classes on the way from y_i to y_k (system S2's paper, equations
    8 and 9). Zero where the batch has no such triple.

    Args:
        logits: z [N, C].
        labels: Classes y, int64 [N].
        distances: Between neighbouring classes, [C - 1].
        reduction: One of `REDUCTIONS`: `triples` is the mean over triples; `pairs` adds up the
            negatives of a pair (i, j) and takes the mean over pairs, as N-pair losses do (Sohn
            2016), and is larger by the mean number of negatives. The paper says neither.

    Raises:
        ValueError: There is no such reduction.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}; it must be one of {REDUCTIONS}")
    places = torch.cat((distances.new_zeros(1), distances.cumsum(0)))[labels]
    apart = (places[:, None] - places[None, :]).abs()
    unit = F.normalize(logits, dim=1)
    near = unit @ unit.T
    same = labels[:, None] == labels[None, :]
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    # Axes: anchor i, positive j, negative k.
    margins = F.relu((apart + near)[:, None, :] - near[:, :, None])
    valid = positive[:, :, None] & ~same[:, None, :]
    count = valid.any(2) if reduction == "pairs" else valid
    return (margins * valid).sum() / count.sum().clamp_min(1)
