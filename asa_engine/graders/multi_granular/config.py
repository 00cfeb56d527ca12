"""Configuration of the multi-granular grader: everything but the weights, without PyTorch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from asa_engine.graders.aspects import AspectConfig, parse_aspects
from asa_engine.graders.fields import GraderConfig, Windowed, ascending, bad, integer, number
from asa_engine.graders.lm.shapes import (
    SAMPLE_RATE_HZ,
    SAMPLES_PER_FRAME,
    LoraConfig,
    check_shapes,
    parse_backbones,
    parse_lora,
    parse_sizes,
)
from asa_engine.graders.multi_granular.verdict import LABELS
from asa_engine.nn.config import LanguageModelConfig, WhisperEncoderConfig
from asa_engine.text import PHONES

__all__ = ["ASPECTS", "GRAINS", "MultiGranularConfig"]

GRADER = "multi_granular"
FORMAT_REVISION = 1
ASPECTS = ("accuracy", "fluency", "prosodic")
"""The sentence's scores, in the order of the verdict's lines."""
GRAINS = (*ASPECTS, "word", "phone")
STAGES = ("encoder", "language_model", "lexicon")
"""Older checkpoints name a dictionary too; now the engine carries it."""
_MAX_TEXT = 4000


@dataclass(frozen=True, slots=True)
class MultiGranularConfig(Windowed, GraderConfig):
    """The multi-granular grader (system S5).

    Attributes:
        aspects: Accuracy, fluency and prosody of the sentence.
        label_scores: Grain -> score of each of the five labels, lowest first: what a label's
            probability counts for.
        least_fit: `Alignment.fit` below which the recording is not the text.
        prefix: Of the prompt, before the audio. It may hold control tokens; only a recipe writes
            these three.
        middle: Between audio and text.
        suffix: After the text; the verdict follows.
        prefix_ids: Tokens of `prefix`.
        middle_ids: Tokens of `middle`.
        suffix_ids: Tokens of `suffix`.
        end_ids: Tokens that end the rationale.
        control_ids: Tokens that a rationale may not hold.
        backbones: Stage -> name of what stays as it is.
        encoder: Shape of the Whisper encoder.
        layer_weights: Of the embedded input and each layer's output in the frames that all
            other parts see, `layers + 1` of them.
        language_model: Shape of the language model.
        lora: Its adapters.
        window_s: Length of a window; each is encoded alone.
        min_window_s: A shorter rest at the end is left out.
        max_audio_s: Longest recording.
        stack: Frames (50 Hz) of an audio token.
        projector_width: Inner width of the projector.
        phone_width: Inner width of the layer that tells phones.
        slot_width: Inner width of the slots.
        max_words: Most words of a text.
        max_phones: Most phones.
        max_rationale: Most tokens of a rationale; 0 writes none.
        front: 0 for a grader that hears recordings as they are; 1 for one that hears speech and
            its surroundings alone, at one level; 2 for the same as it is (`asa_engine.audio`).
    """

    grader: ClassVar[str] = GRADER

    aspects: tuple[AspectConfig, ...]
    label_scores: Mapping[str, tuple[float, ...]]
    least_fit: float
    prefix: str
    middle: str
    suffix: str
    prefix_ids: tuple[int, ...]
    middle_ids: tuple[int, ...]
    suffix_ids: tuple[int, ...]
    end_ids: tuple[int, ...]
    control_ids: tuple[int, ...]
    backbones: Mapping[str, str] = field(default_factory=dict)
    encoder: WhisperEncoderConfig = field(default_factory=WhisperEncoderConfig)
    layer_weights: tuple[float, ...] = ()
    language_model: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    window_s: float = 4.0
    min_window_s: float = 0.1
    max_audio_s: float = 28.0
    stack: int = 10
    projector_width: int = 384
    phone_width: int = 256
    slot_width: int = 192
    max_words: int = 48
    max_phones: int = 256
    max_rationale: int = 64
    front: int = 0

    @property
    def max_samples(self) -> int:
        """Samples of the longest recording."""
        return round(self.max_audio_s * SAMPLE_RATE_HZ)

    @property
    def max_audio_tokens(self) -> int:
        """Audio tokens of the longest recording."""
        window = -(-self.window_samples // (SAMPLES_PER_FRAME * self.stack))
        return window * -(-self.max_samples // self.window_samples)

    @property
    def classes(self) -> int:
        """Silence and the phones."""
        return 1 + len(PHONES)

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> None:
        """Replace what JSON holds by what the fields are."""
        for item in dataclasses.fields(cls):
            needed = (
                item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
            )
            if needed and item.name not in fields:
                raise bad(item.name, None, "there")
        fields["aspects"] = parse_aspects(fields["aspects"])
        if tuple(aspect.name for aspect in fields["aspects"]) != ASPECTS:
            raise bad("aspects", fields["aspects"], ", ".join(ASPECTS))
        fields["label_scores"] = _label_scores(fields["label_scores"])
        fields["encoder"] = parse_sizes(fields, "encoder", WhisperEncoderConfig)
        fields["language_model"] = parse_sizes(fields, "language_model", LanguageModelConfig)
        fields["lora"] = parse_lora(fields.get("lora", {}))
        fields["backbones"] = parse_backbones(fields.get("backbones", {}), STAGES)
        for name in ("prefix", "middle", "suffix"):
            if not isinstance(fields[name], str) or len(fields[name]) > _MAX_TEXT:
                raise bad(name, fields[name], f"a text of at most {_MAX_TEXT} characters")
        vocabulary = fields["language_model"].vocabulary
        for name in ("prefix_ids", "middle_ids", "suffix_ids", "end_ids", "control_ids"):
            ids = fields[name]
            if not isinstance(ids, list | tuple) or len(ids) > _MAX_TEXT:
                raise bad(name, ids, f"a list of at most {_MAX_TEXT} tokens")
            fields[name] = tuple(integer(item, name, vocabulary - 1, 0) for item in ids)
        weights = fields.get("layer_weights", ())
        if not isinstance(weights, list | tuple) or len(weights) != fields["encoder"].layers + 1:
            raise bad("layer_weights", weights, f"{fields['encoder'].layers + 1} numbers")
        fields["layer_weights"] = tuple(number(item, "layer_weights") for item in weights)
        for name in ("least_fit", "window_s", "min_window_s", "max_audio_s"):
            if name in fields:
                fields[name] = number(fields[name], name)
        for name, most, least in _LIMITS:
            if name in fields:
                fields[name] = integer(fields[name], name, most, least)

    def check(self) -> None:
        """Raise `CheckpointError` where fields do not go together."""
        if not 0.1 <= self.window_s <= 30:
            raise bad("window_s", self.window_s, "0.1 to 30 s")
        if not 0.02 <= self.min_window_s <= self.window_s:
            raise bad("min_window_s", self.min_window_s, "0.02 s to window_s")
        if not self.window_s <= self.max_audio_s <= 600:
            raise bad("max_audio_s", self.max_audio_s, "window_s to 600 s")
        frames = self.window_samples / SAMPLES_PER_FRAME
        if frames % self.stack or frames > self.encoder.positions:
            raise bad("stack", self.stack, f"a divisor of a window's {frames:g} frames")
        check_shapes(self.encoder, self.language_model, self.lora)
        if not self.suffix_ids or not self.end_ids:
            raise bad("suffix_ids", self.suffix_ids, "at least one token, and end_ids too")


_LIMITS = (
    ("stack", 1000, 1),
    ("projector_width", 8192, 1),
    ("phone_width", 8192, 1),
    ("slot_width", 8192, 1),
    ("max_words", 1000, 1),
    ("max_phones", 10_000, 1),
    ("max_rationale", 1000, 0),
)


def _label_scores(value: object) -> dict[str, tuple[float, ...]]:
    if not isinstance(value, Mapping) or set(value) != set(GRAINS):
        raise bad("label_scores", value, f"an object with {', '.join(GRAINS)}")
    by_grain = {
        name: ascending(value[name], f"label_scores.{name}", len(LABELS)) for name in GRAINS
    }
    for name, scores in by_grain.items():
        if len(scores) != len(LABELS):
            raise bad(f"label_scores.{name}", scores, f"{len(LABELS)} scores")
    return by_grain
