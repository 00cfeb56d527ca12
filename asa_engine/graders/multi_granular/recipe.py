"""Recipes of the multi-granular grader: TOML files, read strictly."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from asa_engine.errors import UsageError
from asa_engine.graders.speech_llm.recipe import AdapterRecipe
from asa_engine.recipes import RecipeFile, check_shares, find_data

__all__ = ["MultiGranularRecipe", "PhonesRecipe", "WarmRecipe"]

_TOP_LEVEL = (
    "grader", "threads", "seed", "ship", "manifest", "limit", "backbones", "prompt", "phones",
    "warm", "adapter", "sft", "preference",
)  # fmt: skip
SHIPS = ("sft", "preference")


@dataclass(frozen=True, slots=True)
class BackboneRecipe:
    """What stays as it is: names that `asa-engine backbones` lists.

    Attributes:
        encoder: A Whisper.
        language_model: A causal language model.
        layer_weights: Of the encoder's layers in the frames that all other parts see.
        lexicon: A pronouncing dictionary for words that the training texts lack; "" for none.
    """

    encoder: str
    language_model: str
    layer_weights: tuple[float, ...]
    lexicon: str = ""


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


@dataclass(frozen=True, slots=True)
class PhonesRecipe:
    """The phone layer: rounds of laying the text over a share of the recordings and learning it.

    Attributes:
        width: Inner width.
        rounds: How many, the first from phones of equal length; the last is on all recordings.
        share: Of the recordings, in a round.
        batch_size: Frames a step.
        lr: Learning rate; a third of it in the last quarter of the rounds.
        dropout: Before both linear layers.
    """

    width: int = 256
    rounds: int = 9
    share: float = 0.25
    batch_size: int = 512
    lr: float = 2e-3
    dropout: float = 0.2


@dataclass(frozen=True, slots=True)
class WarmRecipe:
    """The warm start of slots and projector: their tokens learn scores through linear layers.

    Attributes:
        slot_width: Inner width of the slots.
        stack: Frames of an audio token.
        projector_width: Inner width of the projector.
        epochs: Passes over the training speakers.
        batch_size: Recordings a step.
        lr: Peak learning rate.
        weight_decay: On matrices only.
        dropout: Before every linear layer.
        phone_weight: Of the phones' squared error beside words' and recordings'.
    """

    slot_width: int = 192
    stack: int = 10
    projector_width: int = 384
    epochs: int = 8
    batch_size: int = 25
    lr: float = 1e-3
    weight_decay: float = 0.02
    dropout: float = 0.3
    phone_weight: float = 1.0


@dataclass(frozen=True, slots=True)
class SftRecipe:
    """Supervised fine-tuning: AdamW, a linear rise, then half a cosine down to zero.

    Attributes:
        epochs: Passes over the training speakers.
        batch_size: Recordings a step.
        lr: Peak learning rate of the adapters.
        weight_decay: On the factors.
        warmup: Share of all steps with a rising rate.
        dropout: Inside the adapters.
        rationale_weight: Of the rationale's likelihood beside the labels'.
        bf16: Whether the language model computes in bfloat16 (adapters stay float32).
        readings: Training readings that the language model sees, evenly spread; 0 takes all.
        judged: Dev readings that figures are made of, evenly spread; 0 takes all.
    """

    epochs: int = 1
    batch_size: int = 8
    lr: float = 4e-4
    weight_decay: float = 0.01
    warmup: float = 0.1
    dropout: float = 0.05
    rationale_weight: float = 0.25
    bf16: bool = True
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


@dataclass(frozen=True, slots=True)
class MultiGranularRecipe:
    """A whole training.

    Attributes:
        name: Of the recipe.
        threads: PyTorch threads; the result depends on it in the last bits.
        seed: Of everything.
        ship: `sft` or `preference`: which adapters become the checkpoint.
        manifest: JSON Lines file, looked for as `asa_engine.recipes.find_data` says.
        limit: Recordings of each side; 0 takes all.
        backbones: What stays as it is.
        prompt: What stands around audio and text.
        phones: The phone layer.
        warm: The slots' and the projector's warm start.
        adapter: The language model's adapters.
        sft: Supervised fine-tuning.
        preference: Fine-tuning with preference pairs.
        digest: SHA-256 of the file; a run is resumed only under the same one.
        folder: Where the recipe lies.
    """

    name: str
    threads: int
    seed: int
    ship: str
    manifest: str
    limit: int
    backbones: BackboneRecipe
    prompt: PromptRecipe
    phones: PhonesRecipe
    warm: WarmRecipe
    adapter: AdapterRecipe
    sft: SftRecipe
    preference: PreferenceRecipe
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
            ship=file.value("ship", "sft"),
            manifest=file.value("manifest", ""),
            limit=file.value("limit", 0),
            backbones=file.part("backbones", BackboneRecipe),
            prompt=file.part("prompt", PromptRecipe),
            phones=file.part("phones", PhonesRecipe),
            warm=file.part("warm", WarmRecipe),
            adapter=file.part("adapter", AdapterRecipe),
            sft=file.part("sft", SftRecipe),
            preference=file.part("preference", PreferenceRecipe),
        )
        recipe._check(str(path))
        return recipe

    def manifest_path(self) -> Path:
        """Return where the manifest lies.

        Raises:
            UsageError: It is in none of the places looked at.
        """
        return find_data(self.manifest, self.folder)

    def _check(self, where: str) -> None:
        if self.ship not in SHIPS:
            raise UsageError(f"{where}: ship is {self.ship!r}", mend=f"one of {', '.join(SHIPS)}")
        if self.ship == "preference" and not self.preference.steps:
            raise UsageError(f"{where}: ship is 'preference', but [preference] has no steps")
        counts = (self.sft.epochs, self.sft.batch_size, self.warm.epochs, self.warm.batch_size)
        sizes = (self.phones.rounds, self.phones.batch_size, self.preference.batch_size)
        if min(*counts, *sizes, self.warm.stack) < 1:
            raise UsageError(f"{where}: epochs, rounds, batch_size and stack must be at least 1")
        if not 0 < self.phones.share <= 1 or not 0 < self.preference.mix <= 1:
            raise UsageError(f"{where}: share and mix must be above 0 and at most 1")
        shares = {
            "[phones]: dropout": self.phones.dropout,
            "[warm]: dropout": self.warm.dropout,
            "[sft]: dropout": self.sft.dropout,
            "[sft]: warmup": self.sft.warmup,
        }
        check_shares(where, shares)
