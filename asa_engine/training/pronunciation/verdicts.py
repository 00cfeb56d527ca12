"""What tells words left out, speech put in, and other texts: small networks and their limits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from asa_engine.graders.pronunciation.judge import CLIP
from asa_engine.training.pronunciation.network_fit import Array
from asa_engine.training.pronunciation.recipe import VerdictsRecipe

__all__ = ["Detection", "Odds", "detection_at", "fit_odds", "limit_for", "limit_refusing"]

_BATCH = 512


class Odds(NamedTuple):
    """A small network: its tensors by the judge's names, without the verdict's."""

    tensors: dict[str, Array]

    def __call__(self, rows: Array) -> NDArray[np.float64]:
        """Return log-odds [N] of rows [N, F]."""
        t = self.tensors
        x = np.clip((rows - t["mean"]) / t["scale"], -CLIP, CLIP)
        x = x @ t["fc1.weight"].T + t["fc1.bias"]
        x = x / (1 + np.exp(-np.maximum(x, -80)))
        found: NDArray[np.float64] = (x @ t["fc2.weight"].T + t["fc2.bias"])[:, 0].astype(float)
        return found


class Detection(NamedTuple):
    """How well something is found.

    Attributes:
        limit: Log-odds above which it is claimed.
        f1: Harmonic mean of precision and recall.
        precision: Share of claims that are right.
        recall: Share of the true ones that are claimed.
        false_alarms: Share of the others that are claimed.
    """

    limit: float
    f1: float
    precision: float
    recall: float
    false_alarms: float

    def to_dict(self) -> dict[str, float]:
        """Return the figures as JSON values."""
        return {name: round(float(value), 4) for name, value in self._asdict().items()}


def fit_odds(
    rows: Array, labels: NDArray[np.bool_], how: VerdictsRecipe, seed: int, *, decay: float = 0.01
) -> Odds:
    """Train a small network with one hidden layer to tell true rows from others."""
    torch.manual_seed(seed)
    chance = np.random.default_rng(seed)
    mean, scale = rows.mean(0), np.maximum(rows.std(0), 1e-4)
    x = torch.from_numpy(np.clip((rows - mean) / scale, -CLIP, CLIP).astype(np.float32))
    y = torch.from_numpy(labels.astype(np.float32))
    layers = nn.Sequential(nn.Linear(x.shape[1], how.width), nn.SiLU(), nn.Linear(how.width, 1))
    optimizer = torch.optim.AdamW(layers.parameters(), lr=3e-3, weight_decay=decay)
    batches = [
        batch
        for _ in range(how.epochs)
        for batch in np.array_split(chance.permutation(len(y)), max(1, len(y) // _BATCH))
    ]
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / len(batches))
        noisy = x[batch] + 0.1 * torch.randn(len(batch), x.shape[1])
        loss = F.binary_cross_entropy_with_logits(layers(noisy)[:, 0], y[batch])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    state = layers.state_dict()
    return Odds(
        {
            "mean": mean.astype(np.float32),
            "scale": scale.astype(np.float32),
            "fc1.weight": state["0.weight"].numpy(),
            "fc1.bias": state["0.bias"].numpy(),
            "fc2.weight": state["2.weight"].numpy(),
            "fc2.bias": state["2.bias"].numpy(),
        }
    )


def detection_at(odds: NDArray[np.float64], labels: NDArray[np.bool_], limit: float) -> Detection:
    """Return how well labels are found above a limit."""
    claimed = odds > limit
    right = int((claimed & labels).sum())
    precision = right / max(1, int(claimed.sum()))
    recall = right / max(1, int(labels.sum()))
    both = precision + recall
    alarms = int((claimed & ~labels).sum()) / max(1, int((~labels).sum()))
    return Detection(
        limit, 2 * precision * recall / both if both else 0.0, precision, recall, alarms
    )


def limit_for(
    odds: NDArray[np.float64], labels: NDArray[np.bool_], false_alarms: float
) -> Detection:
    """Return the limit with the best F1 among those with few enough false alarms."""
    tried = [
        detection_at(odds, labels, float(limit))
        for limit in np.quantile(odds[labels], np.linspace(0.0, 0.6, 61))
    ]
    allowed = [one for one in tried if one.false_alarms <= false_alarms]
    return max(allowed or tried, key=lambda one: one.f1 if allowed else -one.false_alarms)


def limit_refusing(odds: NDArray[np.float64], labels: NDArray[np.bool_], share: float) -> Detection:
    """Return the limit above which so large a share of the true ones lies."""
    return detection_at(odds, labels, float(np.quantile(odds[labels], 1 - share)))
