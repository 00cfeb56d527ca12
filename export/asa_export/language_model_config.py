"""The shape of a causal language model, read from Hugging Face's `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from asa_engine.graders.fields import bad, integer, number

__all__ = ["DecoderConfig"]

FAMILIES: Final = {"llama": False, "qwen2": True}
"""Family -> whether queries, keys and values have biases whatever `attention_bias` says."""


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Shape of a decoder of the Llama or Qwen2 family: RMSNorm, rotary positions, SwiGLU.

    Attributes:
        width: Width of an embedding and of a hidden state.
        layers: Number of layers.
        heads: Attention heads of the queries.
        kv_heads: Heads of keys and values; divides `heads`.
        head_width: Width of one head, a multiple of 16.
        inner: Inner width of the feed-forward block.
        vocabulary: Number of tokens.
        positions: The longest sequence it was trained for.
        rope_theta: Base of the rotary frequencies.
        norm_epsilon: Added to the mean square in RMSNorm.
        qkv_bias: Queries, keys and values have biases.
        tied: The vocabulary projection is the embedding table.
    """

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    inner: int
    vocabulary: int
    positions: int
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-6
    qkv_bias: bool = False
    tied: bool = False

    def __post_init__(self) -> None:
        for name, most in (
            ("width", 65_536),
            ("layers", 1_000),
            ("heads", 1_024),
            ("kv_heads", 1_024),
            ("head_width", 1_024),
            ("inner", 1_000_000),
            ("vocabulary", 10_000_000),
            ("positions", 10_000_000),
        ):
            integer(getattr(self, name), name, most)
        if self.heads % self.kv_heads:
            raise bad("kv_heads", self.kv_heads, f"a divisor of {self.heads}")
        if self.head_width % 16:
            raise bad("head_width", self.head_width, "a multiple of 16")
        for name in ("rope_theta", "norm_epsilon"):
            if number(getattr(self, name), name) <= 0:
                raise bad(name, getattr(self, name), "above 0")
        for name in ("qkv_bias", "tied"):
            if type(getattr(self, name)) is not bool:
                raise bad(name, getattr(self, name), "true or false")

    @classmethod
    def from_hugging_face(cls, fields: Mapping[str, Any]) -> Self:
        """Read a `config.json` of transformers.

        Args:
            fields: Its content, of `model_type` llama or qwen2.

        Raises:
            CheckpointError: Another family, or a feature that this decoder does not compute
                (scaled rotary positions, sliding windows, biases elsewhere, another activation).
        """
        family = fields.get("model_type")
        if family not in FAMILIES:
            raise bad("model_type", family, f"one of {', '.join(FAMILIES)}")
        for name, plain in (
            ("hidden_act", "silu"),
            ("mlp_bias", False),
            ("use_sliding_window", False),
        ):
            if fields.get(name, plain) != plain:
                raise bad(name, fields[name], repr(plain))
        if family == "llama" and fields.get("attention_bias", False):
            raise bad("attention_bias", True, "False: a bias on the output is not computed")
        # transformers 5 writes rope_parameters, older ones rope_theta and rope_scaling.
        rope = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise bad("rope_type", kind, "'default'")
        theta = rope.get("rope_theta", fields.get("rope_theta", 10_000.0))
        heads = integer(fields.get("num_attention_heads"), "num_attention_heads", 1_024)
        width = integer(fields.get("hidden_size"), "hidden_size", 65_536)
        return cls(
            width=width,
            layers=fields.get("num_hidden_layers"),  # type: ignore[arg-type]
            heads=heads,
            kv_heads=fields.get("num_key_value_heads") or heads,
            head_width=fields.get("head_dim") or width // heads,
            inner=fields.get("intermediate_size"),  # type: ignore[arg-type]
            vocabulary=fields.get("vocab_size"),  # type: ignore[arg-type]
            positions=fields.get("max_position_embeddings"),  # type: ignore[arg-type]
            rope_theta=number(theta, "rope_theta"),
            norm_epsilon=number(fields.get("rms_norm_eps", 1e-6), "rms_norm_eps"),
            qkv_bias=FAMILIES[family],
            tied=fields.get("tie_word_embeddings", False),
        )
