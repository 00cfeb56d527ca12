"""Which named features tell most about a score (the paper's Figure 2), by a random forest.

The paper takes random forest regressors; these are extremely randomised trees (Geurts, Ernst and
Wehenkel 2006), a random forest whose cuts are drawn instead of searched.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

__all__ = ["feature_importance"]

TREES = 100
LEAF = 10
"""Examples below which a node is not cut any more."""
TRIES = 8

_Matrix = NDArray[np.float64]


def feature_importance(features: _Matrix, scores: _Matrix, seed: int = 1) -> _Matrix:
    """Return each feature's share of the variance that a forest's cuts take away, [F].

    Args:
        features: [n, F].
        scores: [n].
        seed: Of the cuts.
    """
    rng = np.random.default_rng(seed)
    gains = np.zeros(features.shape[1])
    for _ in range(TREES):
        drawn = rng.integers(0, len(features), len(features))
        _grow(features[drawn], scores[drawn], gains, rng)
    total = gains.sum()
    return gains / total if total > 0 else gains


def _grow(features: _Matrix, scores: _Matrix, gains: _Matrix, rng: Generator) -> None:
    """Cut the examples in two again and again, adding to each feature what its cuts gain."""
    waiting = [np.arange(len(features))]
    while waiting:
        rows = waiting.pop()
        if rows.size < 2 * LEAF:
            continue
        columns = rng.choice(features.shape[1], min(TRIES, features.shape[1]), replace=False)
        x, y = features[np.ix_(rows, columns)], scores[rows]
        below = x < rng.uniform(x.min(0), x.max(0))
        left = below.sum(0)
        right = rows.size - left
        sums = y @ below
        centre = y.sum()
        # What two means explain beyond one: sum^2 / n of both sides, less that of the whole.
        gain = sums**2 / np.maximum(left, 1) + (centre - sums) ** 2 / np.maximum(right, 1)
        gain -= centre**2 / rows.size
        gain[(left < LEAF) | (right < LEAF)] = -1.0
        best = int(gain.argmax())
        if gain[best] <= 0:
            continue
        gains[columns[best]] += gain[best]
        waiting += [rows[below[:, best]], rows[~below[:, best]]]
