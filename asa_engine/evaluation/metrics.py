"""Agreement between predicted and expert scores, in NumPy alone.

On edges as SciPy and scikit-learn have it: NaN goes in, NaN comes out; what is undefined, such as
the correlation of a constant, is NaN. `defined` makes JSON's null of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "METRICS",
    "accuracy",
    "classification",
    "confusion",
    "defined",
    "edit_distance",
    "krc",
    "macro_accuracy",
    "macro_f1",
    "mae",
    "metrics",
    "pcc",
    "qwk",
    "rmse",
    "scale_step",
    "srcc",
    "within",
]

METRICS = ("pcc", "srcc", "krc", "rmse", "mae", "within_0_5", "within_1_0", "qwk")
_ROUNDING = 1e-9


def _pair(predicted: ArrayLike, expected: ArrayLike) -> tuple[NDArray[np.float64], ...]:
    a, b = np.asarray(predicted, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or a.size == 0:
        raise ValueError(f"two vectors of one length are needed, not {a.shape} and {b.shape}")
    return a, b


def pcc(predicted: ArrayLike, expected: ArrayLike) -> float:
    """Return Pearson's correlation of two vectors [n]; NaN where either is constant."""
    a, b = (_unit(values) for values in _pair(predicted, expected))
    return float(np.clip(a @ b, -1.0, 1.0))


def _unit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values less their mean, of length one; NaN where they are constant."""
    if not np.isfinite(values).all() or (values == values[0]).all():
        return np.full_like(values, np.nan)
    # A mean is rounded, so a constant is not told by what is left of it, and small differences
    # must not vanish in their squares.
    moved = values - values.mean()
    moved /= np.abs(moved).max()
    return np.asarray(moved / np.linalg.norm(moved))


def srcc(predicted: ArrayLike, expected: ArrayLike) -> float:
    """Return Spearman's rank correlation (Pearson's over ranks, ties share their mean rank)."""
    a, b = _pair(predicted, expected)
    if np.isnan(a).any() or np.isnan(b).any():
        return math.nan
    return pcc(_ranks(a), _ranks(b))


def krc(predicted: ArrayLike, expected: ArrayLike) -> float:
    """Return Kendall's rank correlation tau-b; NaN where either vector is constant.

    tau-b = (C - D) / sqrt((N - T_a) (N - T_b)) over the N pairs of examples: C are in the same
    order in both vectors, D in opposite orders, T_a and T_b tied in one (Kendall 1945).
    """
    a, b = _pair(predicted, expected)
    if np.isnan(a).any() or np.isnan(b).any():
        return math.nan
    x, y = (np.unique(values, return_inverse=True)[1].astype(np.int64) for values in (a, b))
    order = np.lexsort((y, x))
    x, y = x[order], y[order]
    pairs = math.comb(len(x), 2)
    tied_a, tied_b = _tied(x), _tied(y)
    apart_a, apart_b = pairs - tied_a, pairs - tied_b
    if not apart_a or not apart_b:
        return math.nan
    tied_in_both = _tied(x * (int(y.max()) + 1) + y)
    # Sorted by a, and by b among equals of a: what is upside down in b is discordant.
    discordant = _inversions(y)
    concordant = pairs - tied_a - tied_b + tied_in_both - discordant
    tau = (concordant - discordant) / math.sqrt(apart_a) / math.sqrt(apart_b)
    return min(max(tau, -1.0), 1.0)


def _tied(classes: NDArray[np.int64]) -> int:
    counts = np.unique(classes, return_counts=True)[1].astype(np.int64)
    return int((counts * (counts - 1) // 2).sum())


def _inversions(values: NDArray[np.int64]) -> int:
    """Return how many pairs i < j have values[i] > values[j], of whole numbers from 0 up.

    Two numbers are ordered by the highest bit in which they differ: for every bit, count the ones
    before each zero among the numbers that are alike above it.
    """
    kind = np.uint16 if values.max() < 2**16 else np.int64  # 16 bits are sorted fastest
    total = 0
    for bit in range(int(values.max()).bit_length()):
        above = (values >> (bit + 1)).astype(kind)
        order = np.argsort(above, kind="stable")
        above = above[order]
        ones = (values[order] >> bit) & 1
        before = np.cumsum(ones) - ones
        first = np.flatnonzero(np.r_[True, above[1:] != above[:-1]])
        before -= np.repeat(before[first], np.diff(np.r_[first, len(above)]))
        total += int(before[ones == 0].sum())
    return total


def rmse(predicted: ArrayLike, expected: ArrayLike) -> float:
    """Return the root of the mean squared difference."""
    a, b = _pair(predicted, expected)
    return float(np.sqrt(np.mean((a - b) ** 2)))


def mae(predicted: ArrayLike, expected: ArrayLike) -> float:
    """Return the mean absolute difference."""
    a, b = _pair(predicted, expected)
    return float(np.mean(np.abs(a - b)))


def within(predicted: ArrayLike, expected: ArrayLike, tolerance: float) -> float:
    """Return the share of predictions at most `tolerance` away, rounding errors aside."""
    a, b = _pair(predicted, expected)
    apart = np.abs(a - b)
    if np.isnan(apart).any():
        return math.nan
    return float(np.mean(apart <= tolerance + _ROUNDING))


def qwk(predicted: ArrayLike, expected: ArrayLike, *, step: float = 1.0) -> float:
    """Return the quadratically weighted kappa of both vectors rounded to steps of the scale.

    kappa = 1 - sum_ij w_ij O_ij / sum_ij w_ij E_ij with w_ij = (i - j)^2, O the joint counts and
    E those of independent raters with the same marginals (Cohen 1968). Since w is quadratic, the
    sums are mean squares: kappa = 1 - mean (a - b)^2 / (var a + var b + (mean a - mean b)^2).
    Halves of a step round up. NaN where both are constant and equal.

    Args:
        predicted: Scores [n].
        expected: The experts' scores [n].
        step: Points between neighbouring scores of the scale.
    """
    a, b = (np.floor(values / step + 0.5 + _ROUNDING) for values in _pair(predicted, expected))
    chance = a.var() + b.var() + (a.mean() - b.mean()) ** 2
    return float(1 - np.mean((a - b) ** 2) / chance) if chance > 0 else math.nan


def scale_step(expected: ArrayLike) -> float:
    """Return the step of the scale that experts' scores are on: half a point, or a whole one.

    Half a point only where all are whole or half points and some are halves: means over raters or
    parts, which lie anywhere between, are judged in whole points.
    """
    halves = np.asarray(expected, dtype=np.float64) * 2
    on_grid = bool(np.all(halves == np.floor(halves)))
    return 0.5 if on_grid and bool(np.any(halves % 2)) else 1.0


def metrics(
    predicted: ArrayLike, expected: ArrayLike, *, step: float | None = None
) -> dict[str, float]:
    """Return every metric of `evaluate --json` for one aspect, under the names of `METRICS`.

    Args:
        predicted: Scores [n].
        expected: The experts' scores [n], in the same units.
        step: As of `qwk`; by default the experts' `scale_step`.

    Raises:
        ValueError: The two are not vectors of one length, or are empty.
    """
    values = (
        pcc(predicted, expected),
        srcc(predicted, expected),
        krc(predicted, expected),
        rmse(predicted, expected),
        mae(predicted, expected),
        within(predicted, expected, 0.5),
        within(predicted, expected, 1.0),
        qwk(predicted, expected, step=scale_step(expected) if step is None else step),
    )
    return dict(zip(METRICS, values, strict=True))


def defined(values: Mapping[str, float], *, digits: int | None = None) -> dict[str, float | None]:
    """Return figures for JSON, which has no NaN: `None` where one is not a finite number.

    Args:
        values: Name -> figure.
        digits: Round to so many places.
    """
    return {
        name: None
        if not math.isfinite(value)
        else float(value)
        if digits is None
        else round(float(value), digits)
        for name, value in values.items()
    }


def confusion(predicted: ArrayLike, expected: ArrayLike, classes: int) -> NDArray[np.int64]:
    """Return how often class i (row) was taken for class j (column), [classes, classes].

    Args:
        predicted: Class indices [n].
        expected: The true ones [n].
        classes: How many classes there are.

    Raises:
        ValueError: The two are not vectors of one length, are empty, or hold what is no class.
    """
    pair = _pair(predicted, expected)
    if not all(np.isin(values, np.arange(classes)).all() for values in pair):
        raise ValueError(f"class indices must be whole numbers, 0 to {classes - 1}")
    a, b = (values.astype(np.int64) for values in pair)
    return np.bincount(b * classes + a, minlength=classes * classes).reshape(classes, classes)


def classification(counts: NDArray[np.int64]) -> dict[str, float]:
    """Return accuracy, macro accuracy and macro F1 of a `confusion`."""
    return {
        "accuracy": accuracy(counts),
        "macro_accuracy": macro_accuracy(counts),
        "macro_f1": macro_f1(counts),
    }


def edit_distance(truth: Sequence[str], said: Sequence[str]) -> int:
    """Return the fewest substitutions, insertions and deletions from one to the other."""
    row = list(range(len(said) + 1))
    for i, item in enumerate(truth, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(said, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (item != other))
    return row[-1]


def accuracy(counts: NDArray[np.int64]) -> float:
    """Return the share of right answers in a `confusion`."""
    return float(np.trace(counts) / counts.sum())


def macro_accuracy(counts: NDArray[np.int64]) -> float:
    """Return the mean over classes of the share of their examples that were recognised (recall).

    Classes without examples are left out: nothing can be said of them.
    """
    examples = counts.sum(axis=1)
    there = examples > 0
    return float(np.mean(np.diag(counts)[there] / examples[there]))


def macro_f1(counts: NDArray[np.int64]) -> float:
    """Return the mean over classes of F1 = 2 TP / (2 TP + FP + FN) from a `confusion`.

    A class that was neither there nor predicted is left out; one of the two alone gives 0.
    """
    involved = counts.sum(axis=0) + counts.sum(axis=1)
    there = involved > 0
    return float(np.mean(2 * np.diag(counts)[there] / involved[there]))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray(((last - counts + 1 + last) / 2)[inverse], dtype=np.float64)
