"""What configurations of graders with a language model share: windows, backbones, adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from asa_engine.graders.fields import bad, check_names, integer, number
from asa_engine.nn.config import AudioEncoderConfig, LanguageModelConfig, WhisperEncoderConfig

__all__ = [
    "MODEL_LIMITS",
    "SAMPLES_PER_FRAME",
    "SAMPLE_RATE_HZ",
    "LoraConfig",
    "Windowed",
    "check_shapes",
    "parse_backbones",
    "parse_lora",
    "parse_sizes",
]

SAMPLE_RATE_HZ: Final = 16_000
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
}
_ENCODER_LIMITS = {
    "n_mels": 512,
    "d_model": 8192,
    "layers": 128,
    "heads": 128,
    "ffn": 32_768,
    "positions": 6000,
    "stack": 64,
}
_LIMITS: Mapping[type, Mapping[str, int]] = {
    WhisperEncoderConfig: _ENCODER_LIMITS,
    AudioEncoderConfig: _ENCODER_LIMITS,
    LanguageModelConfig: MODEL_LIMITS,
}
# Families whose layers are fused.
_FUSED_FAMILIES = ("phi3", "phi4_multimodal")
_FUSED_TARGETS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
_MAX_SOURCE = 1000


class Windowed:
    """A configuration that cuts audio into windows.

    Attributes:
        window_s: Length of a window, s.
        min_window_s: Least length of a last one, s.
    """

    __slots__ = ()

    window_s: float
    min_window_s: float

    @property
    def window_samples(self) -> int:
        """Samples (16 kHz) in a window."""
        return round(self.window_s * SAMPLE_RATE_HZ)

    @property
    def min_window_samples(self) -> int:
        """Samples below which a last window is left out."""
        return round(self.min_window_s * SAMPLE_RATE_HZ)


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
    if not isinstance(value, Mapping):
        raise bad(name, value, "an object")
    check_names(cls, value, name)
    sizes: dict[str, Any] = {
        key: integer(size, f"{name}.{key}", _LIMITS[cls][key])
        for key, size in value.items()
        if key != "family"
    }
    if "family" in value:
        if not isinstance(value["family"], str) or not value["family"]:
            raise bad(f"{name}.family", value["family"], "a name")
        sizes["family"] = value["family"]
    return cls(**sizes)


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
        if not isinstance(name, str) or not 1 <= len(name) <= _MAX_SOURCE:
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
