"""Recipes of the speech LLM: TOML files, read strictly."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from asa_engine.errors import UsageError
from asa_engine.recipes import RecipeFile, check_runs, check_shares, find_data

__all__ = [
    "OBJECTIVES",
    "FitRecipe",
    "ObjectiveRecipe",
    "PriorRecipe",
    "ProjectorRecipe",
    "SpeechLLMRecipe",
]

OBJECTIVES = ("fair_average", "soft_cross_entropy", "cross_entropy", "regression")
_TOP_LEVEL = (
    "grader",
    "threads",
    "seed",
    "ship",
    "data",
    "backbones",
    "windows",
    "prompt",
    "projector",
    "prior",
    "adapter",
    "fit",
    "objective",
)


@dataclass(frozen=True, slots=True)
class DataRecipe:
    """What is trained on.

    Attributes:
        manifest: JSON Lines file, looked for as `asa_engine.recipes.find_data` says.
        score: Which of its scores is answered.
        also: Other scores that the projector's warm start learns beside it.
        targets: `raters`: the mean of the experts' own scores; `medians`: the manifest's scores.
        limit: Recordings of each side; 0 takes all.
        scale_min: Lowest score of the scale.
        scale_max: Highest score.
    """

    manifest: str
    score: str = "total"
    also: tuple[str, ...] = ()
    targets: str = "raters"
    limit: int = 0
    scale_min: float = 0.0
    scale_max: float = 10.0


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
class WindowRecipe:
    """How audio is cut.

    Attributes:
        window_s: Length of a window that the encoder hears alone, s.
        chunk_s: Longest audio that the language model judges at once, s: windows in whole.
    """

    window_s: float = 4.0
    chunk_s: float = 28.0


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


@dataclass(frozen=True, slots=True)
class ProjectorRecipe:
    """The projector and its warm start: its tokens' mean learns scores, without language model.

    An audio language model's own encoder brings its projector, and nothing of this is used.

    Attributes:
        stack: Encoder frames (50 Hz) of an audio token.
        width: Inner width.
        epochs: Passes over the training speakers.
        batch_size: Recordings a step.
        lr: Peak learning rate.
        weight_decay: On matrices only.
        dropout: On stacked frames and inside.
        auxiliary: Weight of the word and phone statistics beside the scores.
    """

    stack: int = 10
    width: int = 384
    epochs: int = 3
    batch_size: int = 16
    lr: float = 1e-3
    weight_decay: float = 0.02
    dropout: float = 0.3
    auxiliary: float = 0.3


@dataclass(frozen=True, slots=True)
class PriorRecipe:
    """The acoustic prior: kernel ridge regression on sums of the encoder's layers.

    Attributes:
        share: Its weight in the pool with the language model's answer; 0 leaves it out.
        width: Principal directions kept.
        folds: Speaker-disjoint folds of the train side for the choice of the rest.
        gammas: Candidates for the kernel's inverse squared width.
        ridges: Candidates for the ridge.
        durations: Candidates for the weight of the log duration.
    """

    share: float = 0.0
    width: int = 256
    folds: int = 5
    gammas: tuple[float, ...] = (0.3, 0.4, 0.6)
    ridges: tuple[float, ...] = (0.2, 0.4, 0.8)
    durations: tuple[float, ...] = (0.1, 0.3)


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


@dataclass(frozen=True, slots=True)
class FitRecipe:
    """The schedule: AdamW, a linear rise of the learning rate, then half a cosine down to zero.

    Attributes:
        epochs: Passes over the training speakers.
        batch_size: Recordings a step.
        lr: Peak learning rate of the adapters.
        head_lr: Peak learning rate of a regression's linear layer.
        weight_decay: On matrices only.
        warmup: Share of all steps with a rising rate.
        dropout: Inside the adapters.
        bf16: Whether the language model computes in bfloat16 (adapters stay float32).
    """

    epochs: int = 2
    batch_size: int = 16
    lr: float = 1e-4
    head_lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.1
    dropout: float = 0.05
    bf16: bool = True


@dataclass(frozen=True, slots=True)
class ObjectiveRecipe:
    """One objective of the comparison.

    Attributes:
        name: In the report.
        kind: One of `OBJECTIVES`.
        units: Entries of the codebook that audio tokens are rounded to; 0 leaves them as they are.
        start: An objective before it whose adapters it goes on from; empty starts anew.
        epochs: Passes over the training speakers; 0 takes the schedule's.
    """

    name: str
    kind: str
    units: int = 0
    start: str = ""
    epochs: int = 0


@dataclass(frozen=True, slots=True)
class SpeechLLMRecipe:
    """A whole comparison: every objective from the same start; one of them is shipped.

    Attributes:
        name: Of the recipe.
        threads: PyTorch threads; the result depends on it in the last bits.
        seed: Of everything.
        ship: Name of the objective that becomes the checkpoint.
        data: What is trained on.
        backbones: What stays as it is.
        windows: How audio is cut.
        prompt: What stands around the audio.
        projector: The projector and its warm start.
        prior: The acoustic prior.
        adapter: The language model's adapters.
        fit: The schedule, the same for all.
        objectives: In the order of the report.
        digest: SHA-256 of the file; a comparison is resumed only under the same one.
        folder: Where the recipe lies.
    """

    name: str
    threads: int
    seed: int
    ship: str
    data: DataRecipe
    backbones: BackboneRecipe
    windows: WindowRecipe
    prompt: PromptRecipe
    projector: ProjectorRecipe
    prior: PriorRecipe
    adapter: AdapterRecipe
    fit: FitRecipe
    objectives: tuple[ObjectiveRecipe, ...]
    digest: str
    folder: Path = field(repr=False)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and validate a recipe.

        Raises:
            UsageError: It is missing, is not TOML, or a value is missing, unknown, of the wrong
                kind or out of range; the message names the file and the field.
        """
        file = RecipeFile.read(path, _TOP_LEVEL)
        recipe = cls(
            **file.header(),
            ship=file.value("ship", ""),
            data=file.part("data", DataRecipe, needed=True),
            backbones=file.part("backbones", BackboneRecipe, needed=True),
            windows=file.part("windows", WindowRecipe),
            prompt=file.part("prompt", PromptRecipe, needed=True),
            projector=file.part("projector", ProjectorRecipe),
            prior=file.part("prior", PriorRecipe),
            adapter=file.part("adapter", AdapterRecipe),
            fit=file.part("fit", FitRecipe),
            objectives=file.each("objective", ObjectiveRecipe),
        )
        recipe._check(str(path))
        return recipe

    @property
    def shipped(self) -> ObjectiveRecipe:
        """The objective that becomes the checkpoint."""
        return next(item for item in self.objectives if item.name == self.ship)

    def manifest_path(self) -> Path:
        """Return where the manifest lies.

        Raises:
            UsageError: It is in none of the places looked at.
        """
        return find_data(self.data.manifest, self.folder)

    def _check(self, where: str) -> None:
        names = [item.name for item in self.objectives]
        check_runs(where, what="objectives", names=names, ship=self.ship)
        for at, item in enumerate(self.objectives):
            if item.start and item.start not in names[:at]:
                raise UsageError(
                    f"{where} [[objective]] {item.name}: start is {item.start!r}",
                    mend="name an objective before it",
                )
            if item.kind not in OBJECTIVES:
                raise UsageError(
                    f"{where} [[objective]] {item.name}: kind is {item.kind!r}",
                    mend=f"choose from {', '.join(OBJECTIVES)}",
                )
        if self.data.targets not in ("raters", "medians"):
            raise UsageError(f"{where} [data]: targets must be raters or medians")
        if self.data.scale_min >= self.data.scale_max:
            raise UsageError(f"{where} [data]: scale_max must be above scale_min")
        scores = self.prompt.label_scores
        if len(scores) != len(self.prompt.labels) or len(scores) < 2:
            raise UsageError(f"{where} [prompt]: each of two or more labels needs a score")
        if any(b <= a for a, b in itertools.pairwise(scores)):
            raise UsageError(f"{where} [prompt]: label_scores must ascend")
        counts = (self.fit.epochs, self.fit.batch_size, self.projector.epochs, self.prior.width)
        if min(*counts, self.projector.batch_size, self.projector.stack) < 1:
            raise UsageError(f"{where}: epochs, batch_size, stack and width must be at least 1")
        if self.prior.folds < 2:
            raise UsageError(f"{where} [prior]: folds must be at least 2")
        shares = {
            "[fit]: warmup": self.fit.warmup,
            "[fit]: dropout": self.fit.dropout,
            "[projector]: dropout": self.projector.dropout,
            "[prior]: share": self.prior.share,
        }
        check_shares(where, shares)
