"""The Gaussian-kernel regressor: chosen on speaker-disjoint folds, fitted in closed form."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asa_engine.evaluation.metrics import pcc
from asa_engine.training.pronunciation.network_fit import Array, Rows
from asa_engine.training.pronunciation.recipe import KernelRecipe

__all__ = ["Regressor", "choose_kernel", "fit_kernel"]


@dataclass(frozen=True)
class Regressor:
    """A kernel ridge regressor: k(a, b) = exp(-gamma (d2(readings) + share d2(pooled))).

    Distances are divided by how many numbers they are of.

    Attributes:
        gamma: Inverse squared width.
        share: Weight of the pooled layers.
        ridge: Added to the kernel's diagonal.
        predicted: Out-of-fold predictions, [N, A].
        figure: Their mean correlation with the experts.
    """

    gamma: float
    share: float
    ridge: float
    predicted: NDArray[np.float64]
    figure: float


def choose_kernel(
    rows: Rows,
    targets: NDArray[np.float64],
    scores: NDArray[np.float64],
    folds: NDArray[np.int64],
    how: KernelRecipe,
) -> Regressor:
    """Try all candidates on folds; return the one with the best mean correlation."""
    near = _distances(rows.reading) / rows.reading.shape[1]
    apart = _distances(rows.pooled) / rows.pooled.shape[1] / _spread(rows.pooled)
    best: Regressor | None = None
    for gamma, share in itertools.product(how.gammas, how.shares):
        kernel = np.exp(-gamma * (near + np.float32(share) * apart))
        for ridge, predicted in _out_of_fold(kernel, targets, folds, how.ridges).items():
            figure = float(
                np.mean([pcc(predicted[:, i], scores[:, i]) for i in range(scores.shape[1])])
            )
            if best is None or figure > best.figure:
                best = Regressor(gamma, share, ridge, predicted, figure)
    assert best is not None
    return best


def fit_kernel(rows: Rows, targets: NDArray[np.float64], chosen: Regressor) -> dict[str, Array]:
    """Fit the chosen regressor on all readings; return the judge's tensors."""
    by_reading = np.sqrt(chosen.gamma / rows.reading.shape[1])
    spread = rows.pooled.shape[1] * _spread(rows.pooled)
    by_pooled = np.sqrt(chosen.gamma * chosen.share / spread)
    centres = np.concatenate((rows.reading * by_reading, rows.pooled * by_pooled), 1)
    # Rounded as stored before anything rests on them.
    centres = centres.astype(np.float16).astype(np.float32)
    kernel = np.exp(-_distances(centres)).astype(np.float64)
    mean = targets.mean(0)
    weights = np.linalg.solve(kernel + chosen.ridge * np.eye(len(kernel)), targets - mean)
    tensors = {
        "kernel.reading": np.full(rows.reading.shape[1], by_reading),
        "kernel.pooled": np.full(rows.pooled.shape[1], by_pooled),
        "kernel.centres": centres,
        "kernel.weights": weights,
        "kernel.mean": mean,
    }
    return {name: value.astype(np.float32) for name, value in tensors.items()}


def _spread(pooled: Array) -> float:
    """Return the mean square of the pooled numbers, which are not standardised."""
    return float(np.square(pooled).mean())


def _distances(rows: Array) -> Array:
    square = np.square(rows).sum(1)
    found: Array = np.maximum(square[:, None] + square - 2 * rows @ rows.T, 0)
    return found


def _out_of_fold(
    kernel: Array,
    targets: NDArray[np.float64],
    folds: NDArray[np.int64],
    ridges: tuple[float, ...],
) -> dict[float, NDArray[np.float64]]:
    found = {ridge: np.empty_like(targets) for ridge in ridges}
    for fold in np.unique(folds):
        held, kept = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        mean = targets[kept].mean(0)
        inner, across = kernel[np.ix_(kept, kept)], kernel[np.ix_(held, kept)]
        for ridge, predicted in found.items():
            raised = inner.copy()
            raised[np.diag_indices(len(kept))] += ridge
            weights = np.linalg.solve(raised, (targets[kept] - mean).astype(np.float32))
            predicted[held] = across @ weights + mean
    return found
