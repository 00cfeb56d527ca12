"""Recipes of the speech LLM: TOML files, read strictly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from asa_engine.errors import UsageError
from asa_engine.training.recipe import Model, check_choice
from asa_engine.training.sections import (
    AdapterFitRecipe,
    CandidatesRecipe,
    ScoreRecipe,
    SpeechRecipe,
)

__all__ = [
    "OBJECTIVES",
    "FitRecipe",
    "ObjectiveRecipe",
    "PriorRecipe",
    "SpeechLLMRecipe",
]

ZERO_SHOT = "zero_shot"
OBJECTIVES = ("fair_average", "soft_cross_entropy", "cross_entropy", "regression", ZERO_SHOT)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRecipe(ScoreRecipe):
    """What is trained on.

    Attributes:
        limit: Recordings of each side; 0 takes all.
    """

    limit: int = 0


@dataclass(frozen=True, slots=True)
class WindowRecipe:
    """How audio is cut.

    Attributes:
        window_s: Length of a window that the encoder hears alone, s.
        chunk_s: Longest audio that the language model judges at once, s: windows in whole.
        front: What stands between the recordings and the grader, as in its configuration.
    """

    window_s: float = 4.0
    chunk_s: float = 28.0
    front: int = 0


@dataclass(frozen=True, slots=True)
class PromptRecipe:
    """What stands around the audio, and what may be answered.

    Attributes:
        prefix: Before the audio.
        suffix: After it.
        labels: Lowest first; each must be one token.
        label_scores: Score of each, ascending.
    """

    prefix: str
    suffix: str
    labels: tuple[str, ...]
    label_scores: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorRecipe(CandidatesRecipe):
    """The acoustic prior: kernel ridge regression on sums of the encoder's layers.

    Attributes:
        share: Its weight in the pool with the language model's answer; 0 leaves it out.
    """

    share: float = 0.0
    gammas: tuple[float, ...] = (0.3, 0.4, 0.6)
    ridges: tuple[float, ...] = (0.2, 0.4, 0.8)
    durations: tuple[float, ...] = (0.1, 0.3)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRecipe(AdapterFitRecipe):
    """The schedule.

    Attributes:
        epochs: Passes over the training speakers.
        head_lr: Peak learning rate of a regression's linear layer.
    """

    epochs: int = 2
    batch_size: int = 16
    head_lr: float = 1e-3


@dataclass(frozen=True, slots=True)
class ObjectiveRecipe:
    """One objective of the comparison.

    Attributes:
        name: In the report.
        kind: One of `OBJECTIVES`; `zero_shot` trains nothing: the language model as it is.
        units: Entries of the codebook that audio tokens are rounded to; 0 leaves them as they are.
        start: An objective before it whose adapters it goes on from; empty starts anew.
        epochs: Passes over the training speakers; 0 takes the schedule's.
    """

    name: str
    kind: str
    units: int = 0
    start: str = ""
    epochs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechLLMRecipe(SpeechRecipe):
    """A comparison of objectives.

    Attributes:
        windows: How audio is cut.
        prompt: What stands around the audio.
        prior: The acoustic prior.
        objectives: In the order of the report.
    """

    data: DataRecipe
    windows: WindowRecipe
    prompt: PromptRecipe
    prior: PriorRecipe
    fit: FitRecipe
    objectives: tuple[ObjectiveRecipe, ...]

    def epochs_of(self, item: ObjectiveRecipe) -> int:
        """Return how often an objective sees the training speakers."""
        return 0 if item.kind == ZERO_SHOT else item.epochs or self.fit.epochs

    def models(self, recordings: int) -> Sequence[Model]:
        """Return the encoder, which hears everything once, and the language model, which learns."""
        epochs = sum(self.epochs_of(item) for item in self.objectives)
        rate = 50.0 / self.projector.stack
        return (
            Model("encoder", self.backbones.encoder, 50.0, 1.0, "encoder"),
            Model("language_model", self.backbones.language_model, rate, 2 + 3.0 * epochs),
        )

    def steps(self, recordings: int) -> int:
        """Return the steps of all objectives."""
        epochs = sum(self.epochs_of(item) for item in self.objectives)
        return epochs * math.ceil(recordings / self.fit.batch_size)

    def check(self, where: str) -> None:
        """Raise `UsageError` where a value cannot be."""
        names = [item.name for item in self.objectives]
        self.check_runs(where, "objectives", names)
        for at, item in enumerate(self.objectives):
            if item.start and item.start not in names[:at]:
                raise UsageError(
                    f"{where} [[objective]] {item.name}: start is {item.start!r}",
                    hint="name an objective before it",
                )
            check_choice(f"{where} [[objective]]", item, "kind", OBJECTIVES)
        scores = self.prompt.label_scores
        if len(scores) != len(self.prompt.labels) or len(scores) < 2:
            raise UsageError(f"{where} [prompt]: each of two or more labels needs a score")
        if any(b <= a for a, b in itertools.pairwise(scores)):
            raise UsageError(f"{where} [prompt]: label_scores must ascend")
        self.check_sections(
            where,
            {"[fit]: epochs": self.fit.epochs, "[prior]: width": self.prior.width},
            {"[prior]: share": self.prior.share},
            self.prior.folds,
        )
