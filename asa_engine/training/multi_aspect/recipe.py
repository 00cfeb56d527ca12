"""Recipes of the multi-aspect grader: TOML files, read strictly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from asa_engine.errors import UsageError
from asa_engine.graders.multi_aspect.baselines import BASELINES
from asa_engine.graders.multi_aspect.config import MultiAspectConfig
from asa_engine.objectives.ordinal import REDUCTIONS
from asa_engine.training.recipe import CorpusRecipe, Model, RecipeOverSeeds, check_choice
from asa_engine.training.sections import ScheduleRecipe
from asa_engine.training.targets import check_targets

__all__ = ["DataRecipe", "FitRecipe", "MultiAspectRecipe", "SystemRecipe"]

OBJECTIVES = ("cross_entropy", "mmo")
MULTI_ASPECT = "ma"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRecipe(CorpusRecipe):
    """What is trained on; a line's `prompt` and `text` are the prompt, as they are at run time.

    Attributes:
        targets: One of `asa_engine.training.targets.TARGETS`.
    """

    targets: str = "medians"


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRecipe(ScheduleRecipe):
    """The schedule; the MMO loss compares within a batch.

    Every run lasts all epochs: nothing is chosen by the dev speakers' figures.

    Attributes:
        epochs: Passes over the training speakers.
        no_prompt: Share of recordings whose prompt is left out, so that the grader can do without.
        mmo_share: 1 - lambda, the weight of the MMO loss beside cross-entropy's lambda.
        mmo_reduction: One of `asa_engine.objectives.ordinal.REDUCTIONS`.
        head_epochs: Further epochs of systems with the MMO objective: all but the last layer is
            left as it is by then, and that learns by cross-entropy alone.
    """

    epochs: int = 20
    lr: float = 1e-3
    weight_decay: float = 0.05
    no_prompt: float = 0.15
    mmo_share: float = 0.5
    mmo_reduction: str = "triples"
    head_epochs: int = 0


@dataclass(frozen=True, slots=True)
class SystemRecipe:
    """One system of the comparison.

    Attributes:
        name: In the report.
        kind: `ma`, or a key of `BASELINES`.
        objective: One of `OBJECTIVES`.
    """

    name: str
    kind: str
    objective: str = "cross_entropy"


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiAspectRecipe(RecipeOverSeeds):
    """A whole comparison: every system with every seed; one of the runs is shipped.

    Attributes:
        data: What is trained on.
        config: The grader's configuration.
        fit: The schedule, the same for all.
        systems: In the order of the report.
    """

    data: DataRecipe
    config: MultiAspectConfig
    fit: FitRecipe
    systems: tuple[SystemRecipe, ...]

    def models(self, recordings: int) -> Sequence[Model]:
        """Return the frozen models, each of which sees everything once."""
        names = self.config.backbones
        speech = names.get("speech_encoder")
        return (
            Model("recogniser", names["recogniser"], 50.0, 1.0 if speech else 2.0, "encoder"),
            Model("text_encoder", names["text_encoder"], 4.0, 2.0),
            *([Model("speech_encoder", speech, 50.0, 1.0)] if speech else []),
        )

    def steps(self, recordings: int) -> int:
        """Return the steps of all runs."""
        epochs = [
            self.fit.epochs + (self.fit.head_epochs if item.objective == "mmo" else 0)
            for item in self.systems
        ]
        return sum(epochs) * math.ceil(recordings / self.fit.batch_size) * len(self.seeds)

    def wanted(self) -> tuple[Sequence[str], str]:
        """Return the aspects."""
        return [aspect.name for aspect in self.config.aspects], self.data.targets

    def check(self, where: str) -> None:
        """Raise `UsageError` where a value cannot be."""
        check_targets(where, self.data.targets)
        self.check_comparison(
            where,
            "systems",
            [item.name for item in self.systems],
            sizes=((self.fit.epochs, 1), (self.fit.batch_size, 2)),
            shares=(self.fit.warmup, self.fit.no_prompt),
        )
        for item in self.systems:
            check_choice(f"{where} [[system]]", item, "kind", (MULTI_ASPECT, *BASELINES))
            check_choice(f"{where} [[system]]", item, "objective", OBJECTIVES)
        if not any(item.name == self.ship and item.kind == MULTI_ASPECT for item in self.systems):
            raise UsageError(f"{where}: ship is {self.ship!r}, no system of kind {MULTI_ASPECT}")
        if self.fit.mmo_reduction not in REDUCTIONS:
            raise UsageError(
                f"{where} [fit]: mmo_reduction is {self.fit.mmo_reduction!r}",
                hint=f"choose from {', '.join(REDUCTIONS)}",
            )
        if self.fit.mmo_share > 1:
            raise UsageError(f"{where} [fit]: mmo_share is above 1")
