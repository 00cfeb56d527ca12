"""Recipes of the session grader: TOML files, read strictly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from asa_engine.errors import UsageError
from asa_engine.training.recipe import Model, check_choice, shipped
from asa_engine.training.sections import (
    AdapterFitRecipe,
    BackboneRecipe,
    ScoreRecipe,
    SpeechRecipe,
)

__all__ = ["PRIORS", "LevelPriorRecipe", "SessionRecipe", "SessionRunRecipe"]

SESSIONS = 100
"""Sessions that time is reckoned with before they are read."""
PRIORS = ("first", "last", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionDataRecipe(ScoreRecipe):
    """What is trained on; its score is averaged over a part.

    Attributes:
        sessions: Sessions made of the manifest's recordings: a file, or a folder with
            `train-sessions.jsonl` and `dev-sessions.jsonl`.
        dev_sessions: Those of the dev speakers, where they have a file of their own.
    """

    sessions: str
    dev_sessions: str = ""


@dataclass(frozen=True, slots=True)
class SessionBackboneRecipe(BackboneRecipe):
    """What stays as it is, and what the prior hears with.

    Attributes:
        prior_encoder: A Whisper beside the ears of an audio language model; empty where `encoder`
            is one, whose frames the prior then takes.
    """

    prior_encoder: str = ""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFitRecipe(AdapterFitRecipe):
    """The schedule.

    Attributes:
        steps: In all.
        batch_size: Whole sessions a step; of sessions cut short, as many more as make up for it,
            at most four times as many.
        head_lr: Peak learning rate of the regression.
    """

    steps: int
    batch_size: int = 4
    lr: float = 4e-4
    head_lr: float = 2e-3
    dropout: float = 0.1


@dataclass(frozen=True, slots=True)
class SessionsRecipe:
    """How training sessions are made of a speaker's recordings: short ones first, whole ones last.

    Attributes:
        least: Smallest share of a part's responses, and of a response's recordings, that a
            session keeps; a step's share is drawn from here to what grows to 1 at the end.
        missing: Probability that a part is left out, at the first step.
        missing_last: The same at the last step.
        whole: From this share of the steps on, every other step is on the sessions as they are.
        shuffle: Whether sessions cut short mix a speaker's recordings over the parts; else every
            recording stays in its part, as where parts are other tasks with other marks.
        max_responses: Most responses of a session that the grader takes.
        max_audio_s: Most audio that it takes, s.
        window_s: Length of a window that the encoder hears alone, s, at most 30.
    """

    least: float = 0.1
    missing: float = 0.7
    missing_last: float = 0.1
    whole: float = 0.6
    shuffle: bool = True
    max_responses: int = 24
    max_audio_s: float = 600.0
    window_s: float = 4.0


@dataclass(frozen=True, slots=True)
class SessionRunRecipe:
    """One grader of the comparison.

    Attributes:
        name: In the report.
        prior: One of `PRIORS`: where its token stands, if anywhere.
    """

    name: str
    prior: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecipe(SpeechRecipe):
    """A comparison of where the prior stands.

    Attributes:
        prompt: What stands around the audio.
        prior: The acoustic prior.
        sessions: How training sessions are made.
        runs: In the order of the report.
    """

    data: SessionDataRecipe
    backbones: SessionBackboneRecipe
    prompt: SessionPromptRecipe
    prior: LevelPriorRecipe
    fit: SessionFitRecipe
    sessions: SessionsRecipe
    runs: tuple[SessionRunRecipe, ...]

    def models(self, recordings: int) -> Sequence[Model]:
        """Return the encoder, which hears everything twice, and the language model."""
        rate = 50.0 / self.projector.stack
        # A step holds about so many whole sessions' audio; a hundred speakers or so make a corpus.
        passes = 3.0 * len(self.runs) * self.fit.steps * self.fit.batch_size / SESSIONS
        models = [Model("encoder", self.backbones.encoder, 50.0, 2.0, "encoder")]
        if self.backbones.prior_encoder:
            beside = self.backbones.prior_encoder
            models.append(Model("prior_encoder", beside, 50.0, 2.0, "encoder"))
        return (*models, Model("language_model", self.backbones.language_model, rate, passes))

    def steps(self, recordings: int) -> int:
        """Return the steps of all runs."""
        return self.fit.steps * len(self.runs)

    def check(self, where: str) -> None:
        """Raise `UsageError` where a value cannot be."""
        names = [item.name for item in self.runs]
        self.check_runs(where, "runs", names)
        for item in self.runs:
            check_choice(f"{where} [[run]]", item, "prior", PRIORS)
        if shipped(self.runs, self.ship).prior == "none":
            raise UsageError(f"{where}: a run without a prior is for comparison, not to be shipped")
        if self.prompt.heading.count("{part}") != 1:
            raise UsageError(f"{where} [prompt]: heading must hold {{part}} once")
        self.check_sections(
            where,
            {"[fit]: steps": self.fit.steps, "[prior]: steps": self.prior.steps},
            {
                "[prior]: dropout": self.prior.dropout,
                "[prior]: share": self.prior.share,
                "[sessions]: missing": self.sessions.missing,
                "[sessions]: missing_last": self.sessions.missing_last,
                "[sessions]: least": self.sessions.least,
            },
            self.prior.folds,
        )
        if len(self.prior.names) != len(self.prior.levels):
            raise UsageError(f"{where} [prior]: each level needs a name")
