"""Objectives of the acoustic grader: regression, the prior, phones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "concordance_loss",
    "multi_target_mse",
    "phone_ctc",
    "prior_cross_entropy",
    "soft_bins",
]


def multi_target_mse(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the squared error averaged over targets, then over the batch.

    L = 1/(N A) sum_n sum_a (y_hat_na - y_na)^2, the regression objective of the session grader
    (system S4: mean MSE over its targets).

    Args:
        predicted: [N, A].
        target: [N, A], in the same units.
    """
    return F.mse_loss(predicted, target)


def concordance_loss(predicted: Tensor, target: Tensor, eps: float = 1e-6) -> Tensor:
    """Return one minus the concordance correlation coefficient, averaged over targets.

    CCC = 2 cov(a, b) / (var a + var b + (mean a - mean b)^2), with the batch's own moments
    (Lin 1989, "A concordance correlation coefficient to evaluate reproducibility", eq. 1).
    It rewards what Pearson's correlation does and, unlike it, fixes scale and offset.

    Args:
        predicted: [N, A], N at least 2.
        target: [N, A].
        eps: Added to the denominator, which is zero where both are the same constant.
    """
    centred, wanted = predicted - predicted.mean(0), target - target.mean(0)
    covariance = (centred * wanted).mean(0)
    spread = centred.square().mean(0) + wanted.square().mean(0)
    offset = (predicted.mean(0) - target.mean(0)).square()
    return 1 - (2 * covariance / (spread + offset + eps)).mean()


def soft_bins(scores: Tensor, levels: Sequence[float]) -> Tensor:
    """Split each score linearly between its two neighbouring levels.

    A score a share t of the way from level k to k + 1 gives 1 - t to k and t to k + 1; scores
    outside the levels go to the nearest one. A score on a level gives the hard (one-hot) target.

    Args:
        scores: [N].
        levels: Ascending, L of them.

    Returns:
        Distributions [N, L] with mean level equal to the clipped score.
    """
    grid = torch.tensor(levels, dtype=scores.dtype, device=scores.device)
    clipped = scores.clamp(grid[0], grid[-1])
    upper = torch.searchsorted(grid, clipped).clamp(1, len(levels) - 1)
    share = (clipped - grid[upper - 1]) / (grid[upper] - grid[upper - 1])
    target = scores.new_zeros(len(scores), len(levels))
    target.scatter_(1, upper[:, None] - 1, (1 - share)[:, None])
    target.scatter_(1, upper[:, None], share[:, None])
    return target


def prior_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of the acoustic proficiency prior.

    L = -1/N sum_n sum_k q_nk log softmax(z_n)_k (system S4 trains the prior on score bins).

    Args:
        logits: z [N, L].
        target: Level indices, int64 [N] (hard), or distributions q, [N, L] (soft, `soft_bins`).
    """
    return F.cross_entropy(logits, target)


def phone_ctc(logits: Sequence[Tensor], phones: Sequence[Tensor]) -> Tensor:
    """Return the CTC loss of phone sequences, per phone.

    -sum_n log p(phones_n | logits_n) / sum_n |phones_n|, blank 0 (Graves et al. 2006, eq. 8).
    An utterance with fewer frames than its phones need adds nothing.

    Args:
        logits: Per utterance, [T, C].
        phones: Per utterance, int64 [P], labels 1 to C - 1.
    """
    frames = torch.tensor([len(item) for item in logits])
    counts = torch.tensor([len(item) for item in phones])
    padded = torch.nn.utils.rnn.pad_sequence(list(logits)).float().log_softmax(-1)
    loss = F.ctc_loss(
        padded, torch.cat(list(phones)), frames, counts, reduction="sum", zero_infinity=True
    )
    return loss / counts.sum()
