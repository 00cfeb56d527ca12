"""What configurations of graders with a language model share: windows, backbones, adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from asa_engine.graders.fields import (
    MAX_SOURCE,
    SAMPLE_RATE_HZ,
    WHISPER_LIMITS,
    bad,
    check_names,
    integer,
    number,
    parse_shape,
)
from asa_engine.nn.config import AudioEncoderConfig, LanguageModelConfig, WhisperEncoderConfig

__all__ = [
    "MODEL_LIMITS",
    "SAMPLES_PER_FRAME",
    "SAMPLE_RATE_HZ",
    "LoraConfig",
    "PromptConfig",
    "check_length",
    "check_shapes",
    "parse_backbones",
    "parse_lora",
    "parse_sizes",
]

SAMPLES_PER_FRAME: Final = 320

# Far above any real model's, low enough that a hostile file cannot ask for terabytes.
MODEL_LIMITS: Final = {
    "vocabulary": 1_000_000,
    "width": 16_384,
    "layers": 256,
    "heads": 256,
    "key_value_heads": 256,
    "ffn": 131_072,
    "positions": 1 << 20,
    "long_positions": 1 << 20,
}
_LIMITS: Mapping[type, Mapping[str, int]] = {
    WhisperEncoderConfig: WHISPER_LIMITS,
    AudioEncoderConfig: WHISPER_LIMITS,
    LanguageModelConfig: MODEL_LIMITS,
}
# Families whose layers are fused.
_FUSED_FAMILIES = ("phi3", "phi4_multimodal")
_FUSED_TARGETS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class PromptConfig:
    """What stands around the audio, and what may be answered.

    Attributes:
        prefix: Before the audio. It may hold control tokens; only a recipe writes it.
        suffix: After the audio.
        labels: The possible answers, lowest first; each is one token. Empty for a regression.
        label_scores: Score s_k of each label.
        prefix_ids: Tokens of `prefix`.
        suffix_ids: Tokens of `suffix`, at least one: the answer is read at the last.
        label_ids: Token of each label.
    """

    prefix: str
    suffix: str
    labels: tuple[str, ...] = ()
    label_scores: tuple[float, ...] = ()
    prefix_ids: tuple[int, ...] = ()
    suffix_ids: tuple[int, ...] = ()
    label_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """The low-rank adapters of the language model.

    Attributes:
        rank: r.
        alpha: alpha / r scales their product.
        first_layer: Layers below have none.
        targets: Names of the linear layers that have one.
    """

    rank: int = 16
    alpha: float = 32.0
    first_layer: int = 0
    targets: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )

    @classmethod
    def of(cls, family: str, rank: int, alpha: float, first_layer: int) -> Self:
        """Return adapters of every linear layer, as a family of language models names them."""
        targets = _FUSED_TARGETS if family in _FUSED_FAMILIES else cls().targets
        return cls(rank, alpha, first_layer, targets)


def parse_sizes(fields: Mapping[str, Any], name: str, cls: Any) -> Any:
    """Read the shape of a network, one of this module's three.

    Args:
        fields: A configuration's fields.
        name: Which of them it is; the defaults where it is not there.
        cls: Class of the shape.

    Raises:
        CheckpointError: It is not such a shape; the message names the field.
    """
    value = fields.get(name, {})
    if not isinstance(value, Mapping) or "family" not in value:
        return parse_shape(cls, value, name, _LIMITS[cls])
    family = value["family"]
    if not isinstance(family, str) or not family:
        raise bad(f"{name}.family", family, "a name")
    sizes = {key: size for key, size in value.items() if key != "family"}
    if sizes.get("long_positions") == 0:
        del sizes["long_positions"]
    return replace(parse_shape(cls, sizes, name, _LIMITS[cls]), family=family)


def parse_lora(value: object) -> LoraConfig:
    """Read the adapters.

    Raises:
        CheckpointError: They are none; the message names the field.
    """
    if not isinstance(value, Mapping):
        raise bad("lora", value, "an object")
    check_names(LoraConfig, value, "lora")
    fields: dict[str, Any] = dict(value)
    if "rank" in fields:
        fields["rank"] = integer(fields["rank"], "lora.rank", 4096)
    if "alpha" in fields:
        fields["alpha"] = number(fields["alpha"], "lora.alpha")
    if "first_layer" in fields:
        fields["first_layer"] = integer(
            fields["first_layer"], "lora.first_layer", MODEL_LIMITS["layers"], 0
        )
    if "targets" in fields:
        targets = fields["targets"]
        if (
            not isinstance(targets, list | tuple)
            or not targets
            or not all(isinstance(name, str) and name for name in targets)
        ):
            raise bad("lora.targets", targets, "a list of names")
        fields["targets"] = tuple(targets)
    return LoraConfig(**fields)


def parse_backbones(value: object, stages: Sequence[str]) -> dict[str, str]:
    """Read stage -> name, folder or name on the hub of what stays as it is.

    Raises:
        CheckpointError: It is something else, or names another stage.
    """
    if not isinstance(value, Mapping) or not set(value) <= set(stages):
        raise bad("backbones", value, f"an object with {', '.join(stages)}")
    for stage, name in value.items():
        if not isinstance(name, str) or not 1 <= len(name) <= MAX_SOURCE:
            raise bad(f"backbones.{stage}", name, "the name of a backbone")
    return dict(value)


def check_shapes(
    encoder: WhisperEncoderConfig, model: LanguageModelConfig, lora: LoraConfig
) -> None:
    """Check what the sizes of networks and adapters must have to do with each other.

    Raises:
        CheckpointError: Heads do not divide widths, or the adapters' first layer is none.
    """
    if encoder.d_model % encoder.heads:
        raise bad("encoder.heads", encoder.heads, "a divisor of d_model")
    if model.width % model.heads or model.heads % model.key_value_heads:
        raise bad("language_model.heads", model.heads, "a divisor of width")
    if lora.first_layer >= model.layers:
        raise bad("lora.first_layer", lora.first_layer, "one of the layers")


def check_length(
    name: str, value: float, tokens: int, model: LanguageModelConfig, longest: int = 0
) -> None:
    """Check that the longest sequence fits the language model.

    Args:
        name: The field that bounds it.
        value: What the field is.
        tokens: The sequence's.
        model: The language model's shape.
        longest: The longest that it may be; by default what one way of computing holds for.

    Raises:
        CheckpointError: It does not.
    """
    if tokens > (most := longest or model.positions):
        fit = f"{tokens} tokens do not fit the language model's {most}"
        raise bad(name, value, f"shorter: {fit}")
