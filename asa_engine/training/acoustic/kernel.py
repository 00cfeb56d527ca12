"""Kernel ridge regression on pooled frames: fitted in closed form, chosen by speaker folds."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from asa_engine.errors import ManifestError
from asa_engine.evaluation.metrics import pcc
from asa_engine.graders.acoustic.model import AcousticGrader, layer_profile, relative_duration
from asa_engine.training.acoustic.frozen import FrozenFeatures
from asa_engine.training.acoustic.recipe import KernelRecipe
from asa_engine.training.data import Corpus

__all__ = [
    "KernelFit",
    "fit_kernel",
    "out_of_fold",
    "principal",
    "speaker_folds",
    "squared_distances",
]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class KernelFit:
    """What `fit_kernel` made.

    Attributes:
        grader: The network with the fitted kernel beside it.
        figures: The choice made and the cross-validated figures it rests on, for the report.
    """

    grader: AcousticGrader
    figures: dict[str, Any]


@torch.no_grad()
def fit_kernel(
    network: AcousticGrader, corpus: Corpus, features: FrozenFeatures, recipe: KernelRecipe
) -> KernelFit:
    """Add kernel ridge regression to a trained network.

    Coordinates are each layer's mean and deviation, standardised, on their principal directions
    without whitening, and the log duration. With distances d2 divided by the number of
    features, k(a, b) = exp(-gamma (d2(features) + duration d2(log duration))) and
    w = (K + ridge I)^-1 (Y - mean Y). gamma, ridge and duration are those with the best mean PCC
    over aspects, predictions pooled over folds of train speakers.

    Args:
        network: A grader without a kernel; its encoder is the one `features` come from.
        corpus: The train side.
        features: Layer sums of the corpus.
        recipe: Candidates, and how far the network's scores count.

    Raises:
        ManifestError: There is only one train speaker.
    """
    count, sums = torch.from_numpy(features.counts), torch.from_numpy(features.sums)
    pooled = layer_profile(count, sums).numpy()
    centre, scale = pooled.mean(0), np.maximum(pooled.std(0), 1e-6)
    standard = (pooled - centre) / scale
    directions = principal(standard, recipe.width)
    projected = standard @ directions.T / np.sqrt(pooled.shape[1])
    duration = relative_duration(count).numpy()
    # Where all last alike, duration tells nothing and must not tear other recordings apart.
    duration_scale = 1 / float(duration.std()) if duration.std() > 1e-3 else 0.0

    near = squared_distances(projected)
    apart = squared_distances(duration * duration_scale)
    folds = speaker_folds([u.speaker for u in corpus.utterances], recipe.folds)
    if len(np.unique(folds)) < 2:
        raise ManifestError("the kernel needs two train speakers or more to choose by")
    tried = []
    for gamma, weight, ridge in itertools.product(recipe.gammas, recipe.durations, recipe.ridges):
        kernel = np.exp(-gamma * (near + weight * apart))
        predicted = out_of_fold(kernel, corpus.targets, folds, ridge)
        figures = [pcc(predicted[:, i], corpus.scores[:, i]) for i in range(predicted.shape[1])]
        tried.append((float(np.nan_to_num(np.mean(figures))), gamma, weight, ridge, figures))
    best, gamma, weight, ridge, figures = max(tried)

    config = dataclasses.replace(
        network.config, kernel_centres=len(corpus), kernel_width=len(directions)
    )
    grader = AcousticGrader(config)
    grader.load_state_dict(network.state_dict(), strict=False)
    # Rounded to float16, as stored, before the centres are placed through it.
    root = np.sqrt(gamma / pooled.shape[1])
    projection = torch.from_numpy(directions * root / scale).half().float()
    grader.kernel_projection.copy_(projection)
    grader.kernel_bias.copy_(-torch.from_numpy(projection.numpy().astype(np.float64) @ centre))
    grader.kernel_duration.fill_(np.sqrt(gamma * weight) * duration_scale)
    places = grader.kernel_place(count.float(), sums.float(), relative_duration(count.float()))
    grader.kernel_centres.copy_(places)
    kernel = np.exp(-squared_distances(grader.kernel_centres.double().numpy()))
    offset = corpus.targets.mean(0)
    weights = np.linalg.solve(kernel + ridge * np.eye(len(kernel)), corpus.targets - offset)
    grader.kernel_weights.copy_(torch.from_numpy(weights.T))
    grader.kernel_mean.copy_(torch.from_numpy(offset))
    grader.blend.fill_(recipe.blend)
    names = [aspect.name for aspect in config.aspects]
    return KernelFit(
        grader,
        {
            "gamma": gamma,
            "duration": weight,
            "ridge": ridge,
            "folds": recipe.folds,
            "cv_pcc": dict(zip(names, figures, strict=True)),
            "cv_pcc_mean": best,
        },
    )


def speaker_folds(speakers: list[str], folds: int) -> NDArray[np.int64]:
    """Return the fold of each utterance; all of one speaker's are in one fold."""
    order = np.random.default_rng(0).permutation(sorted(set(speakers)))
    fold = {speaker: i % folds for i, speaker in enumerate(order.tolist())}
    return np.array([fold[speaker] for speaker in speakers])


def principal(standard: Array, width: int) -> Array:
    """Return the leading principal directions, [R, F], of standardised features [N, F]."""
    values, vectors = np.linalg.eigh(standard @ standard.T)
    kept = [i for i in reversed(range(len(values))) if values[i] > 1e-9 * values[-1]][:width]
    directions: Array = (vectors[:, kept].T @ standard) / np.sqrt(values[kept])[:, None]
    return directions


def squared_distances(points: Array) -> Array:
    """Return |p_i - p_j|^2 of points [N, F], [N, N]."""
    square = (points**2).sum(1)
    between: Array = np.maximum(square[:, None] + square - 2 * points @ points.T, 0)
    return between


def out_of_fold(kernel: Array, targets: Array, folds: NDArray[np.int64], ridge: float) -> Array:
    """Return kernel ridge predictions [N, A] of each fold by the other folds."""
    predicted = np.empty_like(targets)
    for fold in np.unique(folds):
        held, kept = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        offset = targets[kept].mean(0)
        inner = kernel[np.ix_(kept, kept)] + ridge * np.eye(len(kept))
        weights = np.linalg.solve(inner, targets[kept] - offset)
        predicted[held] = kernel[np.ix_(held, kept)] @ weights + offset
    return predicted
