"""Agreement between predicted and expert scores, in NumPy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "accuracy",
    "confusion",
    "macro_accuracy",
    "macro_f1",
    "mae",
    "metrics",
    "pcc",
    "qwk",
    "rmse",
    "srcc",
    "within",
]


def _pair(predicted: ArrayLike, expected: ArrayLike) -> tuple[NDArray[np.float64], ...]:
    a, b = np.asarray(predicted, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or a.size == 0:
        raise ValueError(f"two vectors of one length are needed, not {a.shape} and {b.shape}")
    return a, b


def pcc(predicted: ArrayLike, expected: ArrayLike) -> float:
    """Return Pearson's correlation of two vectors [n]; NaN where either is constant."""
    a, b = _pair(predicted, expected)
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else float("nan")


def srcc(predicted: ArrayLike, expected: ArrayLike) -> float:
    """Return Spearman's rank correlation (Pearson's over ranks, ties share their mean rank)."""
    a, b = _pair(predicted, expected)
    return pcc(_ranks(a), _ranks(b))


def rmse(predicted: ArrayLike, expected: ArrayLike) -> float:
    """Return the root of the mean squared difference."""
    a, b = _pair(predicted, expected)
    return float(np.sqrt(np.mean((a - b) ** 2)))


def mae(predicted: ArrayLike, expected: ArrayLike) -> float:
    """Return the mean absolute difference."""
    a, b = _pair(predicted, expected)
    return float(np.mean(np.abs(a - b)))


def within(predicted: ArrayLike, expected: ArrayLike, tolerance: float) -> float:
    """Return the share of predictions at most `tolerance` away."""
    a, b = _pair(predicted, expected)
    return float(np.mean(np.abs(a - b) <= tolerance))


def qwk(predicted: ArrayLike, expected: ArrayLike) -> float:
    """Return the quadratically weighted kappa of both vectors rounded to whole points.

    kappa = 1 - sum_ij w_ij O_ij / sum_ij w_ij E_ij with w_ij = (i - j)^2, O the joint counts and
    E those of independent raters with the same marginals (Cohen 1968). Since w is quadratic, the
    sums are mean squares: kappa = 1 - mean (a - b)^2 / (var a + var b + (mean a - mean b)^2).
    Halves round up. NaN where both are constant and equal.
    """
    a, b = (np.floor(x + 0.5) for x in _pair(predicted, expected))
    chance = a.var() + b.var() + (a.mean() - b.mean()) ** 2
    return float(1 - np.mean((a - b) ** 2) / chance) if chance > 0 else float("nan")


def metrics(predicted: ArrayLike, expected: ArrayLike) -> dict[str, float]:
    """Return every metric of `evaluate --json` for one aspect.

    Args:
        predicted: Scores [n].
        expected: The experts' scores [n], in the same units.

    Raises:
        ValueError: The two are not vectors of one length, or are empty.
    """
    return {
        "pcc": pcc(predicted, expected),
        "srcc": srcc(predicted, expected),
        "rmse": rmse(predicted, expected),
        "mae": mae(predicted, expected),
        "within_0_5": within(predicted, expected, 0.5),
        "within_1_0": within(predicted, expected, 1.0),
        "qwk": qwk(predicted, expected),
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
    a, b = (values.astype(np.int64) for values in _pair(predicted, expected))
    if min(a.min(), b.min()) < 0 or max(a.max(), b.max()) >= classes:
        raise ValueError(f"class indices must be 0 to {classes - 1}")
    return np.bincount(b * classes + a, minlength=classes * classes).reshape(classes, classes)


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
