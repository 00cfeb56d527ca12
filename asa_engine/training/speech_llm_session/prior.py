"""The acoustic prior's own training: mean frame -> level, before any language model sees it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor

from asa_engine.graders.speech_llm_session.config import SessionConfig
from asa_engine.graders.speech_llm_session.model import AcousticPrior
from asa_engine.objectives import soft_bins
from asa_engine.training.speech_llm_session.data import Speaker
from asa_engine.training.speech_llm_session.recipe import LevelPriorRecipe

__all__ = ["fit_prior", "fold_of"]


def fold_of(index: int, folds: int) -> int:
    """Return which group of training speakers one is in."""
    return index % folds


def fit_prior(
    config: SessionConfig,
    how: LevelPriorRecipe,
    speakers: Sequence[Speaker],
    seed: int,
    fold: int | None = None,
) -> AcousticPrior:
    """Train the classifier with cross-entropy on scores split between neighbouring levels.

    Every step holds, of each speaker, the mean frame of a random share of the recordings and the
    mean of their scores.

    Args:
        config: Shapes and levels.
        how: How long, how fast.
        speakers: Training speakers.
        seed: Of weights and chance.
        fold: Speakers of this group are left out; `None` takes all.

    Returns:
        The prior, in evaluation mode; its projector is as it was made.
    """
    chosen = [s for i, s in enumerate(speakers) if fold is None or fold_of(i, how.folds) != fold]
    torch.manual_seed(seed)
    prior = AcousticPrior(config)
    prior.dropout.p = how.dropout
    optimizer = torch.optim.AdamW(
        {"params": [p], "weight_decay": how.weight_decay if p.ndim > 1 else 0.0}
        for name, p in prior.named_parameters()
        if not name.startswith("projector.")
    )
    table = [_table(speaker) for speaker in chosen]
    prior.train()
    for step in range(how.steps):
        rng = np.random.default_rng((seed, step))
        torch.manual_seed(seed * 1_000_003 + step)
        drawn = [_draw(rows, rng) for rows in table]
        means = torch.stack([mean for mean, _ in drawn])
        wanted = soft_bins(torch.tensor([score for _, score in drawn]), config.prior.levels)
        for group in optimizer.param_groups:
            group["lr"] = how.lr * 0.5 * (1 + np.cos(np.pi * step / how.steps))
        loss = F.cross_entropy(prior(means), wanted)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return prior.eval()


_Table = tuple[Tensor, Tensor, Tensor]


def _table(speaker: Speaker) -> _Table:
    """Return sums of frames [n, D], counts [n] and scores [n] of a speaker's recordings."""
    heard = [speaker.heard[(path,)] for path in speaker.scores]
    return (
        torch.stack([item.total for item in heard]),
        torch.tensor([float(item.frames) for item in heard], dtype=torch.float64),
        torch.tensor(list(speaker.scores.values()), dtype=torch.float64),
    )


def _draw(table: _Table, rng: Generator) -> tuple[Tensor, float]:
    totals, counts, scores = table
    some = rng.permutation(len(scores))[: rng.integers(1, len(scores) + 1)]
    return (totals[some].sum(0) / counts[some].sum()).float(), float(scores[some].mean())
