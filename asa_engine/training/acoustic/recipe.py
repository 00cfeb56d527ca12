"""Training recipes: TOML files, read strictly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from asa_engine.errors import UsageError
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.training.augment import AugmentRecipe
from asa_engine.training.recipe import CorpusRecipe, Model, Recipe
from asa_engine.training.sections import CandidatesRecipe
from asa_engine.training.targets import check_targets

__all__ = [
    "AcousticRecipe",
    "DataRecipe",
    "EncoderRecipe",
    "KernelRecipe",
    "PhaseRecipe",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRecipe(CorpusRecipe):
    """What is trained on.

    Attributes:
        targets: One of `asa_engine.training.targets.TARGETS`; the dev figures always compare
            with the manifest's `scores`.
        limit: Take so many utterances of train and dev each (0: all); for trials.
    """

    targets: str = "raters"
    limit: int = 0


@dataclass(frozen=True, slots=True)
class EncoderRecipe:
    """Where the encoder's weights come from.

    Attributes:
        source: Folder, or `package:NAME` of an installed Python package; "random" starts from
            random weights of the shape the grader section gives.
    """

    source: str


@dataclass(frozen=True, slots=True)
class PhaseRecipe:
    """One stretch of training; each begins with the best weights of the one before.

    Attributes:
        name: Shown in progress and report.
        epochs: Passes over the training speakers.
        batch_size: Utterances a step.
        head_lr: Peak learning rate of everything but the encoder.
        encoder_lr: Peak learning rate of the encoder's last layer; 0 keeps the encoder frozen.
        frozen_layers: Layers kept frozen, from the convolutions (1) and the first layer (2) up;
            0 trains all of the encoder.
        layer_decay: Factor on the learning rate per layer below the last.
        warmup: Share of all steps with a rising learning rate; a cosine to 2 % follows.
        weight_decay: Of AdamW, on matrices only.
        dropout: In prior and head.
        encoder_dropout: On the encoder's residual branches.
        feature_noise: Standard deviation of noise on frozen frames.
        ema: Decay of the moving average of weights, which is what is evaluated and kept.
        ccc: Weight of the concordance loss, beside the squared error's 1.
        prior: Weight of the prior's cross-entropy.
        auxiliary: Weight of the squared error on auxiliary targets.
        ctc: Weight of the phone CTC.
        phones_only: Only the CTC's gradient reaches the encoder, which then cannot learn the few
            train speakers' scores by heart; prior and head follow.
        patience: Epochs without a better dev figure before the phase ends early.
        bf16: Compute the encoder in bfloat16 (weights, averages and heads stay float32).
    """

    name: str
    epochs: int
    batch_size: int = 16
    head_lr: float = 1e-3
    encoder_lr: float = 0.0
    frozen_layers: int = 0
    layer_decay: float = 0.8
    warmup: float = 0.08
    weight_decay: float = 0.02
    dropout: float = 0.0
    encoder_dropout: float = 0.0
    feature_noise: float = 0.0
    ema: float = 0.99
    ccc: float = 0.0
    prior: float = 0.2
    auxiliary: float = 0.0
    ctc: float = 0.0
    phones_only: bool = False
    patience: int = 1000
    bf16: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRecipe(CandidatesRecipe):
    """Kernel ridge regression fitted after the last phase, on the encoder as it is then.

    Attributes:
        blend: Weight of the network's scores; the kernel's have the rest.
    """

    blend: float
    gammas: tuple[float, ...] = (0.6,)
    ridges: tuple[float, ...] = (0.2,)
    durations: tuple[float, ...] = (0.3,)


@dataclass(frozen=True, slots=True, kw_only=True)
class AcousticRecipe(Recipe):
    """A whole training run.

    Attributes:
        seed: Every random draw is a function of it and of the step.
        data: What is trained on.
        encoder: Where the encoder comes from.
        grader: The grader's configuration; its encoder shape is taken from the source's weights.
        augment: Changes made to the training audio while the encoder is trained.
        phases: In order.
        kernel: What is fitted after them; None: nothing.
    """

    default_threads: ClassVar[int] = 2

    seed: int = 0
    data: DataRecipe
    encoder: EncoderRecipe
    grader: AcousticConfig
    augment: AugmentRecipe
    phases: tuple[PhaseRecipe, ...]
    kernel: KernelRecipe | None

    def models(self, recordings: int) -> Sequence[Model]:
        """Return the encoder, unless it starts from random weights."""
        if self.encoder.source == "random":
            return ()
        learns = [phase.epochs for phase in self.phases if phase.encoder_lr]
        return (Model("encoder", self.encoder.source, 50.0, 2 + 3.0 * sum(learns), "encoder"),)

    def steps(self, recordings: int) -> int:
        """Return the steps of all phases."""
        return sum(p.epochs * math.ceil(recordings / p.batch_size) for p in self.phases)

    def wanted(self) -> tuple[Sequence[str], str]:
        """Return the aspects."""
        return [aspect.name for aspect in self.grader.aspects], self.data.targets

    def check(self, where: str) -> None:
        """Raise `UsageError` where a value cannot be."""
        check_targets(where, self.data.targets)
        for phase in self.phases:
            for name in ("epochs", "batch_size", "patience"):
                if getattr(phase, name) < (2 if name == "batch_size" else 1):
                    raise UsageError(f"{where} [[phase]] {phase.name}: {name} is too small")
            for name in ("dropout", "encoder_dropout", "ema", "warmup"):
                if not 0 <= getattr(phase, name) < 1:
                    raise UsageError(f"{where} [[phase]] {phase.name}: {name} must be in [0, 1)")
        if not 0 <= self.augment.copies <= 1:
            raise UsageError(f"{where} [augment]: copies must be in [0, 1]")
        if self.grader.kernel_centres:
            raise UsageError(f"{where} [grader]: kernel_centres is set by [kernel]")
        if (kernel := self.kernel) is not None:
            if not 0 <= kernel.blend <= 1:
                raise UsageError(f"{where} [kernel]: blend must be in [0, 1]")
            if kernel.folds < 2 or kernel.width < 1:
                raise UsageError(f"{where} [kernel]: folds or width is too small")
            if not (kernel.gammas and kernel.ridges and kernel.durations):
                raise UsageError(f"{where} [kernel]: a list of candidates is empty")
