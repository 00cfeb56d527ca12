"""Objectives of generated answers: supervised fine-tuning and bounded preference optimisation."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["bounded_dpo", "response_log_probability", "supervised_fine_tuning"]


def response_log_probability(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """Return the mean log-probability of each response's tokens, [N] (system S5 takes means).

    Args:
        logits: z [N, T, V]; those at step t are of the token at step t.
        tokens: int64 [N, T].
        mask: 1 where a token is of the response, at least one a row, [N, T].
    """
    picked = -F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none")
    kept = mask.to(picked.dtype)
    return (picked * kept).sum(1) / kept.sum(1)


def supervised_fine_tuning(log_probability: Tensor) -> Tensor:
    """Return minus the mean over the batch of `response_log_probability`."""
    return -log_probability.mean()


def bounded_dpo(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    *,
    beta: float = 0.1,
    mix: float = 0.5,
) -> Tensor:
    """Return the bounded direct preference objective, the mean over pairs (system S5).

    -log sigma(beta (log pi(w)/ref(w) - log pi_mix(l)/ref(l))), pi_mix = mix pi + (1 - mix) ref.
    With r = log pi(l) - log ref(l) the rejected term is log(mix e^r + 1 - mix), which no r brings
    below log(1 - mix): pushing the rejected response down pays only so much. `mix` 1 is DPO
    (Rafailov et al. 2023, equation 7).

    Args:
        chosen: log pi(w) of the preferred responses, [N].
        rejected: log pi(l) of the others, [N].
        reference_chosen: log ref(w), from the model without its adapter, [N].
        reference_rejected: log ref(l), [N].
        beta: Sharpness.
        mix: lambda in (0, 1].

    Raises:
        ValueError: `mix` is out of range.
    """
    if not 0 < mix <= 1:
        raise ValueError(f"mix is {mix}; it must be above 0 and at most 1")
    gain = chosen - reference_chosen
    loss = rejected - reference_rejected
    if mix < 1:
        floor = torch.full_like(loss, math.log1p(-mix))
        loss = torch.logaddexp(loss + math.log(mix), floor)
    return -F.logsigmoid(beta * (gain - loss)).mean()
