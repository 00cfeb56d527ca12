"""Recipes of the text grader: TOML files, read strictly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from asa_engine.errors import UsageError
from asa_engine.training.recipe import CorpusRecipe, Model, RecipeOverSeeds, check_choice
from asa_engine.training.sections import ScheduleRecipe
from asa_engine.training.targets import check_targets

__all__ = ["OBJECTIVES", "ClassRecipe", "DataRecipe", "EncoderRecipe", "FitRecipe", "TextRecipe"]

WORD_PIECES_A_SECOND = 4.0
"""Of speech, three words a second and the pieces that long ones are cut into."""
OBJECTIVES = ("cross_entropy", "focal", "blv")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRecipe(CorpusRecipe):
    """What is trained on.

    Attributes:
        score: Which of its scores is cut into classes.
        targets: One of `asa_engine.training.targets.TARGETS`.
        transcripts: JSON Lines of `id` and `text`, in place of the recogniser's own; "manifest"
            takes each line's `transcript`.
    """

    score: str = "total"
    targets: str = "medians"
    transcripts: str = ""


@dataclass(frozen=True, slots=True)
class EncoderRecipe:
    """Where BERT comes from, and how much of it is trained.

    Attributes:
        backbone: A backbone's name; the checkpoint then holds the tuned layers alone.
        source: Instead, a folder or a name on the hub, e.g. "bert-base-uncased"; the checkpoint
            then holds all of it.
        tuned_layers: How many of its top layers are trained.
        tuned_embeddings: Whether its embeddings are, too; then all its layers must be.
        max_pieces: Word pieces read at most.
    """

    backbone: str = ""
    source: str = ""
    tuned_layers: int = 3
    tuned_embeddings: bool = False
    max_pieces: int = 256


@dataclass(frozen=True, slots=True)
class ClassRecipe:
    """How scores become classes.

    Attributes:
        names: Lowest first, such as CEFR levels.
        cuts: Scores at which the next class begins, ascending, one fewer.
        scale_min: Lowest score of the scale.
        scale_max: Highest score.
    """

    names: tuple[str, ...]
    cuts: tuple[float, ...]
    scale_min: float = 0.0
    scale_max: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRecipe(ScheduleRecipe):
    """The schedule.

    Attributes:
        epochs: Passes over the training speakers.
        head_lr: Peak learning rate of the linear layer; BERT's layers have `lr`.
        dropout: Before the linear layer.
    """

    epochs: int = 4
    head_lr: float = 1e-3
    dropout: float = 0.1


@dataclass(frozen=True, slots=True)
class ObjectiveRecipe:
    """One objective of the comparison.

    Attributes:
        name: In the report.
        kind: One of `OBJECTIVES`.
        gamma: Of the focal loss.
        sigma: Of the BLV loss.
        clamp: Of the BLV loss; without it, noise is not held.
    """

    name: str
    kind: str
    gamma: float = 2.0
    sigma: float = 6.0
    clamp: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRecipe(RecipeOverSeeds):
    """A whole comparison: every objective with every seed; one of the runs is shipped.

    Attributes:
        recogniser: Backbone that transcribes.
        data: What is trained on.
        encoder: Where BERT comes from.
        classes: How scores become classes.
        fit: The schedule, the same for all.
        objectives: In the order of the report.
    """

    recogniser: str = "whisper-tiny.en"
    data: DataRecipe
    encoder: EncoderRecipe
    classes: ClassRecipe
    fit: FitRecipe
    objectives: tuple[ObjectiveRecipe, ...]

    def models(self, recordings: int) -> Sequence[Model]:
        """Return the recogniser, which hears everything once, and BERT."""
        runs = len(self.objectives) * len(self.seeds)
        bert = self.encoder.backbone or self.encoder.source
        hears = not self.data.transcripts
        return (
            *([Model("recogniser", self.recogniser, 50.0, 1.0, "encoder")] if hears else []),
            Model("encoder", bert, WORD_PIECES_A_SECOND, 1 + 3.0 * self.fit.epochs * runs),
        )

    def steps(self, recordings: int) -> int:
        """Return the steps of all runs."""
        each = self.fit.epochs * math.ceil(recordings / self.fit.batch_size)
        return each * len(self.objectives) * len(self.seeds)

    def wanted(self) -> tuple[Sequence[str], str]:
        """Return the score that is cut into classes."""
        return (self.data.score,), self.data.targets

    def check(self, where: str) -> None:
        """Raise `UsageError` where a value cannot be."""
        check_targets(where, self.data.targets)
        names = [item.name for item in self.objectives]
        self.check_comparison(
            where,
            "objectives",
            names,
            sizes=((self.fit.epochs, 1), (self.fit.batch_size, 1)),
            shares=(self.fit.dropout, self.fit.warmup),
        )
        if self.ship not in names:
            raise UsageError(f"{where}: ship is {self.ship!r}, none of {', '.join(names)}")
        for item in self.objectives:
            check_choice(f"{where} [[objective]]", item, "kind", OBJECTIVES)
        if bool(self.encoder.backbone) == bool(self.encoder.source):
            raise UsageError(f"{where} [encoder]: name either a backbone or a source")
        cuts = self.classes.cuts
        if len(self.classes.names) != len(cuts) + 1 or not cuts:
            raise UsageError(f"{where} [classes]: there must be one cut fewer than names")
        if any(b <= a for a, b in itertools.pairwise(cuts)):
            raise UsageError(f"{where} [classes]: cuts must ascend")
