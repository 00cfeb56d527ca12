"""Recipe of the pronunciation grader: a TOML file, read strictly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asa_engine.errors import UsageError
from asa_engine.evaluation.manifest import Utterance, read_manifest
from asa_engine.training.recipe import CorpusRecipe, Model, Recipe
from asa_engine.training.sections import PhoneLayerRecipe

__all__ = [
    "DataRecipe",
    "JudgeRecipe",
    "KernelRecipe",
    "ModelRecipe",
    "PhonesRecipe",
    "PronunciationRecipe",
    "VerdictsRecipe",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRecipe(CorpusRecipe):
    """What is trained on: all speakers of the manifest, whose lines have words and phones.

    Those of its split `test` are left out, and so is a `dev` manifest.

    Attributes:
        folds: Speaker-disjoint folds that choose and that the figures are of.
        worse: Share of the recordings that are heard a second time, made worse (level, band, codec,
            noise, silence).
        limit: Take so many recordings (0: all); for trials.
    """

    folds: int = 5
    worse: float = 0.4
    limit: int = 0


@dataclass(frozen=True, slots=True)
class ModelRecipe:
    """Which Whisper listens.

    Attributes:
        source: Folder in CTranslate2's layout, or `package:NAME` of an installed Python package.
        window_s: Length of an encoder window, s.
    """

    source: str
    window_s: float = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PhonesRecipe(PhoneLayerRecipe):
    """The phone layer; its learning rate falls from a peak.

    Attributes:
        epochs: Passes of the last round, and of each fold.
        least_accuracy: Frames of phones that the experts rate below are left out.
    """

    rounds: int = 4
    share: float = 0.33
    epochs: int = 3
    dropout: float = 0.1
    least_accuracy: float = 1.5


@dataclass(frozen=True, slots=True)
class JudgeRecipe:
    """The transformer over phones.

    Attributes:
        width: Hidden width.
        layers: Of the transformer.
        heads: Attention heads.
        seeds: Networks averaged.
        epochs: Passes.
        lr: Peak learning rate.
        batch_size: Readings a step.
        dropout: Inside.
        input_dropout: On what comes in.
        weight_decay: On matrices.
        ema: Decay of the moving average of weights, which is what is kept.
        directions: Principal directions of a phone's mean frame, of each of the two layers.
        pooled: Principal directions of the pooled layers that the network sees.
        phone_weight: Weight of the phones' squared error.
        word_weight: Of the words'.
        score_weight: Of the scores'.
        blend: Weight of the network's scores; the kernel regressor's have the rest.
    """

    width: int = 64
    layers: int = 2
    heads: int = 4
    seeds: int = 5
    epochs: int = 8
    lr: float = 1.5e-3
    batch_size: int = 32
    dropout: float = 0.2
    input_dropout: float = 0.15
    weight_decay: float = 0.02
    ema: float = 0.99
    directions: int = 48
    pooled: int = 32
    phone_weight: float = 0.5
    word_weight: float = 1.0
    score_weight: float = 1.5
    blend: float = 0.5


@dataclass(frozen=True, slots=True)
class KernelRecipe:
    """The Gaussian-kernel regressors.

    Attributes:
        width: Principal directions of the pooled layers.
        gammas: Candidates for the kernel's inverse squared width.
        ridges: Candidates for the ridge.
        shares: Candidates for the weight of the pooled layers beside the reading's numbers.
    """

    width: int = 192
    gammas: tuple[float, ...] = (0.25, 0.5, 1.0)
    ridges: tuple[float, ...] = (0.1, 0.2, 0.4)
    shares: tuple[float, ...] = (0.3, 1.0)


@dataclass(frozen=True, slots=True)
class VerdictsRecipe:
    """What tells words left out, words put in, and other texts.

    Attributes:
        share: Of the recordings that a word is cut out of; of the texts that a word is left out of;
            of the recordings that get another text.
        width: Inner width of each small network.
        epochs: Passes.
        false_alarms: Largest share of words that may be called omitted, and that an insertion may
            be claimed beside.
        refused: Share of the readings of another text that must be refused.
    """

    share: float = 0.5
    width: int = 24
    epochs: int = 30
    false_alarms: float = 0.006
    refused: float = 0.97


@dataclass(frozen=True, slots=True, kw_only=True)
class PronunciationRecipe(Recipe):
    """A whole training run.

    Attributes:
        seed: Every random draw is a function of it.
        data: What is trained on.
        model: Which Whisper listens.
        phones: The phone layer.
        judge: The transformer over phones.
        kernel: The regressors.
        verdicts: Omissions, insertions, other texts.
    """

    seed: int = 1
    data: DataRecipe
    model: ModelRecipe
    phones: PhonesRecipe
    judge: JudgeRecipe
    kernel: KernelRecipe
    verdicts: VerdictsRecipe

    def utterances(self) -> list[Utterance]:
        """Read the manifest's lines, of all speakers: folds hold speakers out in turn.

        Raises:
            UsageError: As `find` does.
            ManifestError: The manifest cannot be used.
        """
        path = self.find(self.data.manifest)
        lines = read_manifest(path / "train.jsonl" if path.is_dir() else path)
        return [line for line in lines if line.split != "test"]

    def recordings(self) -> tuple[list[Utterance], list[Utterance], str]:
        """Return all lines to learn from: each is held out in its turn."""
        return self.utterances(), [], "folds"

    def models(self, recordings: int) -> Sequence[Model]:
        """Return the Whisper, which hears everything and what is made worse."""
        source = self.model.source
        if not source.startswith("package:") and not Path(source).is_absolute():
            source = str(self.folder / source)
        return (Model("whisper", source, 50.0, 2 + self.data.worse),)

    def steps(self, recordings: int) -> int:
        """Return the judge's steps."""
        return self.judge.epochs * math.ceil(recordings / self.judge.batch_size)

    def wanted(self) -> tuple[Sequence[str], str]:
        """Return the scores of a reading."""
        return ("accuracy", "fluency", "prosodic", "total"), "medians"

    def check(self, where: str) -> None:
        """Raise `UsageError` where a value cannot be."""
        judge, phones = self.judge, self.phones
        if self.data.folds < 2:
            raise UsageError(f"{where} [data]: folds must be 2 or more")
        if judge.width % judge.heads:
            raise UsageError(f"{where} [judge]: heads must divide width")
        for name, least in (("seeds", 1), ("epochs", 1), ("batch_size", 2), ("layers", 1)):
            if getattr(judge, name) < least:
                raise UsageError(f"{where} [judge]: {name} is too small")
        if phones.rounds < 1 or phones.epochs < 1 or phones.batch_size < 2:
            raise UsageError(f"{where} [phones]: rounds, epochs or batch_size is too small")
        for name, share in (
            ("[judge] dropout", judge.dropout),
            ("[judge] input_dropout", judge.input_dropout),
            ("[judge] ema", judge.ema),
            ("[phones] dropout", phones.dropout),
        ):
            if share >= 1:
                raise UsageError(f"{where} {name} must be below 1")
        if (
            judge.blend > 1
            or self.data.worse > 1
            or not 0 < phones.share <= 1
            or self.verdicts.share > 1
        ):
            raise UsageError(f"{where}: a share is above 1")
        kernel = self.kernel
        if not (kernel.gammas and kernel.ridges and kernel.shares):
            raise UsageError(f"{where} [kernel]: a list of candidates is empty")
