"""Recipes of the multi-granular grader: TOML files, read strictly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from asa_engine.errors import UsageError
from asa_engine.graders.multi_granular.config import ASPECTS
from asa_engine.training.recipe import CorpusRecipe, Model, RecipeOfRuns
from asa_engine.training.recipe_file import check_counts, check_shares
from asa_engine.training.sections import (
    AdapterFitRecipe,
    AdapterRecipe,
    BackboneRecipe,
    PhoneLayerRecipe,
    WarmStartRecipe,
)

__all__ = ["MultiGranularRecipe", "PhonesRecipe", "WarmRecipe"]

TOKENS_A_SECOND = 40.0
"""Audio tokens, slots and verdict of a second of reading."""
SHIPS = ("sft", "preference")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRecipe(CorpusRecipe):
    """What is trained on.

    Attributes:
        limit: Recordings of each side; 0 takes all.
    """

    limit: int = 0


@dataclass(frozen=True, slots=True)
class LayersRecipe(BackboneRecipe):
    """What stays as it is; the encoder is a Whisper.

    Attributes:
        layer_weights: Of the encoder's layers in the frames that all other parts see.
    """

    layer_weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class PromptRecipe:
    """The prompt.

    Attributes:
        prefix: Before the audio.
        middle: Between audio and text.
        suffix: After the text.
        end: The control token that ends the rationale.
        rationale: Most tokens of a rationale; 0 trains none.
    """

    prefix: str
    middle: str
    suffix: str
    end: str
    rationale: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class PhonesRecipe(PhoneLayerRecipe):
    """The phone layer; in the last quarter of the rounds the learning rate is a third."""

    rounds: int = 9
    share: float = 0.25
    dropout: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmRecipe(WarmStartRecipe):
    """The warm start of slots and projector.

    Attributes:
        slot_width: Inner width of the slots.
        projector_width: Inner width of the projector.
        phone_weight: Of the phones' squared error beside words' and recordings'.
    """

    slot_width: int = 192
    projector_width: int = 384
    epochs: int = 8
    batch_size: int = 25
    phone_weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SftRecipe(AdapterFitRecipe):
    """Supervised fine-tuning.

    Attributes:
        epochs: Passes over the training speakers.
        rationale_weight: Of the rationale's likelihood beside the labels'.
        readings: Training readings that the language model sees, evenly spread; 0 takes all.
        judged: Dev readings that figures are made of, evenly spread; 0 takes all.
    """

    epochs: int = 1
    batch_size: int = 8
    lr: float = 4e-4
    rationale_weight: float = 0.25
    readings: int = 0
    judged: int = 0


@dataclass(frozen=True, slots=True)
class PreferenceRecipe:
    """Further steps of fine-tuning with preference pairs beside it, from the fine-tuned adapters.

    Attributes:
        steps: How many; 0 leaves it out.
        batch_size: Recordings a step.
        lr: Peak learning rate.
        weight: Of the bounded preference objective beside fine-tuning.
        beta: Its sharpness.
        mix: Its lambda.
    """

    steps: int = 0
    batch_size: int = 8
    lr: float = 1e-4
    weight: float = 1.0
    beta: float = 0.1
    mix: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiGranularRecipe(RecipeOfRuns):
    """A whole training.

    Attributes:
        data: What is trained on.
        backbones: What stays as it is.
        prompt: What stands around audio and text.
        phones: The phone layer.
        warm: The slots' and the projector's warm start.
        adapter: The language model's adapters.
        sft: Supervised fine-tuning.
        preference: Fine-tuning with preference pairs.
    """

    has_data_section: ClassVar[bool] = False

    ship: str = "sft"
    data: DataRecipe
    backbones: LayersRecipe
    prompt: PromptRecipe
    phones: PhonesRecipe
    warm: WarmRecipe
    adapter: AdapterRecipe
    sft: SftRecipe
    preference: PreferenceRecipe

    def models(self, recordings: int) -> Sequence[Model]:
        """Return the encoder, which hears everything once, and the language model."""
        preference = self.preference.steps * self.preference.batch_size / max(1, recordings)
        passes = 1 + 3.0 * (self.sft.epochs + 2 * preference)
        return (
            Model("encoder", self.backbones.encoder, 50.0, 1.0, "encoder"),
            Model("language_model", self.backbones.language_model, TOKENS_A_SECOND, passes),
        )

    def steps(self, recordings: int) -> int:
        """Return the language model's steps."""
        seen = min(self.sft.readings or recordings, recordings)
        return self.sft.epochs * math.ceil(seen / self.sft.batch_size) + self.preference.steps

    def wanted(self) -> tuple[Sequence[str], str]:
        """Return the sentence's scores."""
        return ASPECTS, "medians"

    def check(self, where: str) -> None:
        """Raise `UsageError` where a value cannot be."""
        if self.ship not in SHIPS:
            raise UsageError(f"{where}: ship is {self.ship!r}", hint=f"one of {', '.join(SHIPS)}")
        if self.ship == "preference" and not self.preference.steps:
            raise UsageError(f"{where}: ship is 'preference', but [preference] has no steps")
        counts = {
            "[sft]: epochs": self.sft.epochs,
            "[sft]: batch_size": self.sft.batch_size,
            "[warm]: epochs": self.warm.epochs,
            "[warm]: batch_size": self.warm.batch_size,
            "[warm]: stack": self.warm.stack,
            "[phones]: rounds": self.phones.rounds,
            "[phones]: batch_size": self.phones.batch_size,
            "[preference]: batch_size": self.preference.batch_size,
        }
        check_counts(where, counts)
        if not 0 < self.phones.share <= 1 or not 0 < self.preference.mix <= 1:
            raise UsageError(f"{where}: share and mix must be above 0 and at most 1")
        shares = {
            "[phones]: dropout": self.phones.dropout,
            "[warm]: dropout": self.warm.dropout,
            "[sft]: dropout": self.sft.dropout,
            "[sft]: warmup": self.sft.warmup,
        }
        check_shares(where, shares)
