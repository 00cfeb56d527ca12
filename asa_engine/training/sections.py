"""Sections that recipes of several graders have, and what speech LLMs' recipes have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from asa_engine.errors import UsageError
from asa_engine.training.recipe import CorpusRecipe, RecipeOfRuns
from asa_engine.training.recipe_file import check_counts, check_shares
from asa_engine.training.targets import check_targets

__all__ = [
    "AdapterFitRecipe",
    "AdapterRecipe",
    "BackboneRecipe",
    "CandidatesRecipe",
    "PhoneLayerRecipe",
    "ProjectorRecipe",
    "ScheduleRecipe",
    "ScoreRecipe",
    "SpeechRecipe",
    "WarmStartRecipe",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRecipe:
    """The schedule: AdamW, a linear rise of the learning rate, then half a cosine down to zero.

    Attributes:
        batch_size: Recordings a step.
        lr: Peak learning rate.
        weight_decay: On matrices only.
        warmup: Share of all steps with a rising rate.
    """

    batch_size: int = 32
    lr: float = 1e-4
    weight_decay: float = 0.01
    warmup: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFitRecipe(ScheduleRecipe):
    """The schedule of a language model's adapters, whose learning rate is `lr`.

    Attributes:
        dropout: Inside the adapters.
        bf16: Whether the language model computes in bfloat16 (adapters stay float32).
    """

    dropout: float = 0.05
    bf16: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStartRecipe:
    """The warm start of what feeds a language model: it learns scores through linear layers.

    Attributes:
        stack: Encoder frames (50 Hz) of an audio token.
        epochs: Passes over the training speakers.
        batch_size: Recordings a step.
        lr: Peak learning rate.
        weight_decay: On matrices only.
        dropout: Before every linear layer.
    """

    stack: int = 10
    epochs: int
    batch_size: int
    lr: float = 1e-3
    weight_decay: float = 0.02
    dropout: float = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectorRecipe(WarmStartRecipe):
    """The projector and its warm start: its tokens' mean learns scores, without language model.

    An audio language model's own encoder brings its projector, and nothing of this is used.

    Attributes:
        width: Inner width.
        auxiliary: Weight of the word and phone statistics beside the scores.
    """

    epochs: int = 3
    batch_size: int = 16
    width: int = 384
    auxiliary: float = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class PhoneLayerRecipe:
    """The phone layer: rounds of laying the texts over the frames and learning that.

    Attributes:
        width: Inner width.
        rounds: How many, the first from phones of equal length; the last is on all recordings.
        share: Of the recordings, in all rounds but the last.
        batch_size: Frames a step.
        lr: Learning rate.
        dropout: Inside.
    """

    width: int = 256
    rounds: int
    share: float
    batch_size: int = 512
    lr: float = 2e-3
    dropout: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidatesRecipe:
    """What kernel ridge regression on sums of an encoder's layers chooses from.

    Attributes:
        width: Principal directions kept.
        folds: Speaker-disjoint folds of the train side for the choice of the rest.
        gammas: Candidates for the kernel's inverse squared width.
        ridges: Candidates for the ridge.
        durations: Candidates for the weight of the log duration.
    """

    width: int = 256
    folds: int = 5
    gammas: tuple[float, ...]
    ridges: tuple[float, ...]
    durations: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRecipe(CorpusRecipe):
    """A corpus of which one score is learnt.

    Attributes:
        score: Which of its scores.
        also: Other scores that the projector's warm start learns beside it.
        targets: One of `asa_engine.training.targets.TARGETS`.
        scale_min: Lowest score of the scale.
        scale_max: Highest score.
    """

    score: str = "total"
    also: tuple[str, ...] = ()
    targets: str = "raters"
    scale_min: float = 0.0
    scale_max: float = 10.0

    @property
    def scores(self) -> tuple[str, ...]:
        """The score that is learnt, and those beside it."""
        return (self.score, *self.also)


@dataclass(frozen=True, slots=True)
class BackboneRecipe:
    """What stays as it is: names that `asa-engine backbones` lists, or folders.

    Attributes:
        encoder: A Whisper; or an audio language model, folder or name on the hub, whose own
            encoder and projector are taken.
        language_model: A causal language model; a name on the hub will do, too. An audio language
            model may be named here as well.
    """

    encoder: str
    language_model: str


@dataclass(frozen=True, slots=True)
class AdapterRecipe:
    """The language model's adapters.

    Attributes:
        rank: r.
        alpha: Its share of alpha / r scales the product.
        first_layer: Layers below stay as they are: what leaves them is computed once.
    """

    rank: int = 16
    alpha: float = 32.0
    first_layer: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechRecipe(RecipeOfRuns):
    """A comparison of speech LLMs: every run from the same start; one of them is shipped.

    Attributes:
        data: What is trained on.
        backbones: What stays as it is.
        projector: The projector and its warm start.
        adapter: The language model's adapters.
        fit: The schedule, the same for all.
    """

    data: ScoreRecipe
    backbones: BackboneRecipe
    projector: ProjectorRecipe
    adapter: AdapterRecipe
    fit: AdapterFitRecipe

    def wanted(self) -> tuple[Sequence[str], str]:
        """Return the score that is learnt, and those beside it."""
        return self.data.scores, self.data.targets

    def check_sections(
        self, where: str, counts: Mapping[str, int], shares: Mapping[str, float], folds: int
    ) -> None:
        """Raise `UsageError` where a value of the sections above cannot be, or of these.

        Args:
            where: The recipe's file.
            counts: What else must be at least 1, by the names that a user knows it by.
            shares: What else must be below 1, likewise.
            folds: Of the prior.
        """
        check_targets(where, self.data.targets)
        if self.data.scale_min >= self.data.scale_max:
            raise UsageError(f"{where} [data]: scale_max must be above scale_min")
        projector = self.projector
        own = {
            "[fit]: batch_size": self.fit.batch_size,
            "[projector]: epochs": projector.epochs,
            "[projector]: batch_size": projector.batch_size,
            "[projector]: stack": projector.stack,
        }
        check_counts(where, {**own, **counts})
        if folds < 2:
            raise UsageError(f"{where} [prior]: folds must be at least 2")
        fitted = {"[fit]: warmup": self.fit.warmup, "[fit]: dropout": self.fit.dropout}
        check_shares(where, {**fitted, "[projector]: dropout": projector.dropout, **shares})
