"""The speech LLM's acoustic prior: kernel ridge regression on sums of the encoder's layers."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asa_engine.errors import ManifestError
from asa_engine.evaluation.metrics import pcc
from asa_engine.graders.speech_llm.config import PriorConfig
from asa_engine.graders.speech_llm.prior import profile_of
from asa_engine.training.acoustic.kernel import (
    out_of_fold,
    principal,
    speaker_folds,
    squared_distances,
)
from asa_engine.training.data import Corpus

if TYPE_CHECKING:
    from asa_engine.training.speech_llm.recipe import PriorRecipe

__all__ = ["NO_PRIOR", "FittedPrior", "fit_prior"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class FittedPrior:
    """What `fit_prior` made.

    Attributes:
        config: Its shape, share and spread.
        tensors: Those of `prior_shapes`, as they are stored.
        figures: The choice made and the cross-validated correlation that it rests on.
    """

    config: PriorConfig
    tensors: dict[str, Tensor]
    figures: dict[str, Any]


NO_PRIOR: Final = FittedPrior(PriorConfig(), {}, {})


def fit_prior(recipe: PriorRecipe, train: Corpus, sums: Array) -> FittedPrior:
    """Fit the kernel in closed form; its width, ridge and weight of duration by speaker folds.

    Coordinates and kernel are the acoustic grader's (`asa_engine.training.acoustic.kernel`).
    Everything is rounded as it is stored before the weights are solved for.

    Args:
        recipe: Candidates, and how far its score counts.
        train: The train side; the first of its targets is what the prior says.
        sums: Of its recordings, float64 [n, 1 + M].

    Raises:
        ManifestError: There is only one train speaker.
    """
    profile, duration = profile_of(sums)
    centre, scale = profile.mean(0), np.maximum(profile.std(0), 1e-6)
    standard = (profile - centre) / scale
    directions = principal(standard, recipe.width)
    near = squared_distances(standard @ directions.T / np.sqrt(profile.shape[1]))
    duration_scale = 1 / float(duration.std()) if duration.std() > 1e-3 else 0.0
    apart = squared_distances(duration * duration_scale)
    folds = speaker_folds([u.speaker for u in train.utterances], recipe.folds)
    if len(np.unique(folds)) < 2:
        raise ManifestError("the prior needs two train speakers or more to choose by")
    targets, tried = train.targets[:, :1], []
    for gamma, weight, ridge in itertools.product(recipe.gammas, recipe.durations, recipe.ridges):
        said = out_of_fold(np.exp(-gamma * (near + weight * apart)), targets, folds, ridge)
        error = float(np.sqrt(np.mean((said - targets) ** 2)))
        figure = float(np.nan_to_num(pcc(said[:, 0], train.scores[:, 0])))
        tried.append((figure, gamma, weight, ridge, error))
    figure, gamma, weight, ridge, error = max(tried)

    projection = _stored(directions * np.sqrt(gamma / profile.shape[1]) / scale)
    bias = -(projection @ centre)
    length = float(np.sqrt(gamma * weight) * duration_scale)
    places = np.concatenate((profile @ projection.T + bias, duration * length), axis=1)
    centres = _stored(places)
    kernel = np.exp(-squared_distances(centres))
    offset = targets.mean(0)
    weights = np.linalg.solve(kernel + ridge * np.eye(len(kernel)), targets - offset)
    tensors = {
        "projection": projection,
        "bias": bias,
        "duration": np.array([length]),
        "centres": centres,
        "weights": _stored(weights.T),
        "mean": offset,
    }
    return FittedPrior(
        PriorConfig(len(centres), len(directions), recipe.share, round(error, 3)),
        {name: torch.from_numpy(value).float().contiguous() for name, value in tensors.items()},
        {
            "gamma": gamma,
            "duration": weight,
            "ridge": ridge,
            "folds": recipe.folds,
            "cv_pcc": round(figure, 4),
            "cv_rmse": round(error, 4),
        },
    )


def _stored(values: Array) -> Array:
    """Round to float16, as matrices are stored."""
    rounded: Array = values.astype(np.float16).astype(np.float64)
    return rounded
