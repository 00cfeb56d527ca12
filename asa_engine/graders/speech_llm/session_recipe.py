"""Recipes of the session grader: TOML files, read strictly."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from asa_engine.errors import UsageError
from asa_engine.graders.speech_llm.recipe import (
    AdapterRecipe,
    BackboneRecipe,
    ProjectorRecipe,
)
from asa_engine.recipes import RecipeFile, check_runs, check_shares, find_data

__all__ = ["PRIORS", "LevelPriorRecipe", "SessionRecipe", "SessionRunRecipe"]

PRIORS = ("first", "last", "none")
_TOP_LEVEL = (
    "grader",
    "threads",
    "seed",
    "ship",
    "data",
    "backbones",
    "prompt",
    "projector",
    "prior",
    "adapter",
    "fit",
    "sessions",
    "run",
)


@dataclass(frozen=True, slots=True)
class SessionDataRecipe:
    """What is trained on.

    Attributes:
        manifest: Recordings, looked for as `asa_engine.recipes.find_data` says.
        sessions: Sessions made of them, likewise.
        score: Which score of a recording is averaged over a part.
        also: Other scores that the projector's warm start learns beside it.
        targets: `raters`: the mean of the experts' own scores; `medians`: the manifest's scores.
        scale_min: Lowest score of the scale.
        scale_max: Highest score.
    """

    manifest: str
    sessions: str
    score: str = "total"
    also: tuple[str, ...] = ()
    targets: str = "raters"
    scale_min: float = 0.0
    scale_max: float = 10.0


@dataclass(frozen=True, slots=True)
class SessionPromptRecipe:
    """What stands around the audio.

    Attributes:
        prefix: Before the first part.
        heading: Before each part; `{part}` becomes its name.
        between: After each response.
        missing: For a part without a response.
        suffix: After the last part.
    """

    prefix: str
    heading: str
    between: str
    missing: str
    suffix: str


@dataclass(frozen=True, slots=True)
class LevelPriorRecipe:
    """The acoustic prior: a classifier of the mean frame, trained alone, then left as it is.

    Attributes:
        levels: Score of each of its classes.
        names: One token each, whose embeddings become the levels': the prior's token is their
            mean under its probabilities. They stay as they are, so that the language model's
            layers without adapters need no gradients.
        width: Inner width.
        steps: Of its training; one holds a session of every training speaker.
        lr: Learning rate.
        weight_decay: On matrices only.
        dropout: Inside.
        folds: The language model learns from priors of speakers that their classifier did not
            see: it is trained once without each of so many groups of speakers, then with all.
        share: Weight of its own mean level in the shipped grader's scores, beside the language
            model's; training does not depend on it.
    """

    levels: tuple[float, ...]
    names: tuple[str, ...]
    width: int = 128
    steps: int = 300
    lr: float = 1e-3
    weight_decay: float = 0.1
    dropout: float = 0.3
    folds: int = 5
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class SessionFitRecipe:
    """The schedule: AdamW, a linear rise of the learning rate, then half a cosine down to zero.

    Attributes:
        steps: In all.
        batch_size: Whole sessions a step; of sessions cut short, as many more as make up for it,
            at most four times as many.
        lr: Peak learning rate of the adapters.
        head_lr: Peak learning rate of the regression.
        weight_decay: On matrices only.
        warmup: Share of all steps with a rising rate.
        dropout: Inside the adapters.
        bf16: Whether the language model computes in bfloat16 (adapters stay float32).
    """

    steps: int
    batch_size: int = 4
    lr: float = 4e-4
    head_lr: float = 2e-3
    weight_decay: float = 0.01
    warmup: float = 0.1
    dropout: float = 0.1
    bf16: bool = True


@dataclass(frozen=True, slots=True)
class SessionsRecipe:
    """How training sessions are made of a speaker's recordings: short ones first, whole ones last.

    Attributes:
        least: Smallest share of a part's responses, and of a response's recordings, that a
            session keeps; a step's share is drawn from here to what grows to 1 at the end.
        missing: Probability that a part is left out, at the first step.
        missing_last: The same at the last step.
        whole: From this share of the steps on, every other step is on the sessions as they are.
        max_responses: Most responses of a session that the grader takes.
        max_audio_s: Most audio that it takes, s.
    """

    least: float = 0.1
    missing: float = 0.7
    missing_last: float = 0.1
    whole: float = 0.6
    max_responses: int = 24
    max_audio_s: float = 600.0


@dataclass(frozen=True, slots=True)
class SessionRunRecipe:
    """One grader of the comparison.

    Attributes:
        name: In the report.
        prior: One of `PRIORS`: where its token stands, if anywhere.
    """

    name: str
    prior: str


@dataclass(frozen=True, slots=True)
class SessionRecipe:
    """A whole comparison: every run from the same start; one of them is shipped.

    Attributes:
        name: Of the recipe.
        threads: PyTorch threads; the result depends on it in the last bits.
        seed: Of everything.
        ship: Name of the run that becomes the checkpoint.
        data: What is trained on.
        backbones: What stays as it is.
        prompt: What stands around the audio.
        projector: The projector and its warm start.
        prior: The acoustic prior.
        adapter: The language model's adapters.
        fit: The schedule, the same for all.
        sessions: How training sessions are made.
        runs: In the order of the report.
        digest: SHA-256 of the file; a comparison is resumed only under the same one.
        folder: Where the recipe lies.
    """

    name: str
    threads: int
    seed: int
    ship: str
    data: SessionDataRecipe
    backbones: BackboneRecipe
    prompt: SessionPromptRecipe
    projector: ProjectorRecipe
    prior: LevelPriorRecipe
    adapter: AdapterRecipe
    fit: SessionFitRecipe
    sessions: SessionsRecipe
    runs: tuple[SessionRunRecipe, ...]
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
            data=file.part("data", SessionDataRecipe, needed=True),
            backbones=file.part("backbones", BackboneRecipe, needed=True),
            prompt=file.part("prompt", SessionPromptRecipe, needed=True),
            projector=file.part("projector", ProjectorRecipe),
            prior=file.part("prior", LevelPriorRecipe, needed=True),
            adapter=file.part("adapter", AdapterRecipe),
            fit=file.part("fit", SessionFitRecipe, needed=True),
            sessions=file.part("sessions", SessionsRecipe),
            runs=file.each("run", SessionRunRecipe),
        )
        recipe._check(str(path))
        return recipe

    @property
    def shipped(self) -> SessionRunRecipe:
        """The run that becomes the checkpoint."""
        return next(item for item in self.runs if item.name == self.ship)

    def find(self, name: str) -> Path:
        """Return where a file of the recipe's data lies.

        Raises:
            UsageError: It is in none of the places looked at.
        """
        return find_data(name, self.folder)

    def _check(self, where: str) -> None:
        names = [item.name for item in self.runs]
        check_runs(where, what="runs", names=names, ship=self.ship)
        for item in self.runs:
            if item.prior not in PRIORS:
                raise UsageError(
                    f"{where} [[run]] {item.name}: prior is {item.prior!r}",
                    mend=f"choose from {', '.join(PRIORS)}",
                )
        if self.shipped.prior == "none":
            raise UsageError(f"{where}: a run without a prior is for comparison, not to be shipped")
        if self.data.targets not in ("raters", "medians"):
            raise UsageError(f"{where} [data]: targets must be raters or medians")
        if self.data.scale_min >= self.data.scale_max:
            raise UsageError(f"{where} [data]: scale_max must be above scale_min")
        if self.prompt.heading.count("{part}") != 1:
            raise UsageError(f"{where} [prompt]: heading must hold {{part}} once")
        counts = (self.fit.steps, self.fit.batch_size, self.projector.epochs, self.prior.steps)
        if min(*counts, self.projector.batch_size, self.projector.stack) < 1:
            raise UsageError(f"{where}: epochs, steps, batch_size and stack must be at least 1")
        if self.prior.folds < 2:
            raise UsageError(f"{where} [prior]: folds must be at least 2")
        shares = {
            "[fit]: warmup": self.fit.warmup,
            "[fit]: dropout": self.fit.dropout,
            "[projector]: dropout": self.projector.dropout,
            "[prior]: dropout": self.prior.dropout,
            "[prior]: share": self.prior.share,
            "[sessions]: missing": self.sessions.missing,
            "[sessions]: missing_last": self.sessions.missing_last,
            "[sessions]: least": self.sessions.least,
        }
        check_shares(where, shares)
        if len(self.prior.names) != len(self.prior.levels):
            raise UsageError(f"{where} [prior]: each level needs a name")
