"""The shape of a causal language model, read from Hugging Face's `config.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from asa_engine.graders.fields import bad, integer, number

__all__ = ["DecoderConfig"]

FAMILIES: Final = {"llama": False, "qwen2": True, "phi3": False, "phi4_multimodal": False}
"""Family -> whether queries, keys and values have biases whatever `attention_bias` says."""


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Shape of a decoder of the Llama, Qwen2 or Phi family: RMSNorm, rotary positions, SwiGLU.

    Attributes:
        width: Width of an embedding and of a hidden state.
        layers: Number of layers.
        heads: Attention heads of the queries.
        kv_heads: Heads of keys and values; divides `heads`.
        head_width: Width of one head, a multiple of 16.
        inner: Inner width of the feed-forward block.
        vocabulary: Number of tokens.
        positions: The longest sequence within which one way of computing holds: LongRoPE's first
            regime, a sliding window.
        rope_theta: Base of the rotary frequencies.
        norm_epsilon: Added to the mean square in RMSNorm.
        qkv_bias: Queries, keys and values have biases.
        tied: The vocabulary projection is the embedding table.
        rotary_width: Leading part of a head that is rotated, a multiple of 16; 0 rotates all.
        rope_factors: What each frequency is divided by (LongRoPE, Ding et al. 2024), one for each
            pair of rotated channels; empty divides none.
        rope_scale: Factor on cosines and sines.
        long_positions: The longest sequence with LongRoPE's second regime; 0 where there is none.
        long_factors: `rope_factors` of every position of a sequence longer than `positions`.
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
    rotary_width: int = 0
    rope_factors: tuple[float, ...] = ()
    rope_scale: float = 1.0
    long_positions: int = 0
    long_factors: tuple[float, ...] = ()

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
        if not 0 <= self.rotary_width <= self.head_width or self.rotary_width % 16:
            raise bad("rotary_width", self.rotary_width, "a multiple of 16 within a head")
        for name, factors in (
            ("short_factor", self.rope_factors),
            ("long_factor", self.long_factors),
        ):
            if factors and len(factors) != self.rotated // 2:
                raise bad(name, factors, f"{self.rotated // 2} numbers")
            for factor in factors:
                if number(factor, name) <= 0:
                    raise bad(name, factor, "above 0")
        for name in ("rope_theta", "norm_epsilon", "rope_scale"):
            if number(getattr(self, name), name) <= 0:
                raise bad(name, getattr(self, name), "above 0")
        for name in ("qkv_bias", "tied"):
            if type(getattr(self, name)) is not bool:
                raise bad(name, getattr(self, name), "true or false")

    @property
    def rotated(self) -> int:
        """Channels of a head that are rotated."""
        return self.rotary_width or self.head_width

    @classmethod
    def from_hugging_face(cls, fields: Mapping[str, Any]) -> Self:
        """Read a `config.json` of transformers.

        Args:
            fields: Its content, of `model_type` llama, qwen2, phi3 or phi4_multimodal.

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
        phi = family in ("phi3", "phi4_multimodal")
        long = kind == "longrope" and phi
        if kind != "default" and not long:
            raise bad("rope_type", kind, "'default'")
        theta = rope.get("rope_theta", fields.get("rope_theta", 10_000.0))
        heads = integer(fields.get("num_attention_heads"), "num_attention_heads", 1_024)
        width = integer(fields.get("hidden_size"), "hidden_size", 65_536)
        head_width = fields.get("head_dim") or width // heads
        positions = integer(fields.get("max_position_embeddings"), "positions", 10_000_000)
        rotary: dict[str, Any] = {}
        if phi:
            share = rope.get("partial_rotary_factor", fields.get("partial_rotary_factor", 1.0))
            whole = positions
            positions = min(positions, fields.get("sliding_window") or positions)
            rotary["rotary_width"] = int(head_width * number(share, "partial_rotary_factor"))
            if long:
                first = rope.get("original_max_position_embeddings")
                first = integer(
                    first or fields.get("original_max_position_embeddings"),
                    "original_max_position_embeddings",
                    whole,
                )
                rotary["rope_factors"] = _factors(rope, "short_factor")
                rotary["rope_scale"] = _long_scale(rope, whole, first)
                if first < positions:
                    rotary["long_factors"] = _factors(rope, "long_factor")
                    rotary["long_positions"], positions = positions, first
        return cls(
            width=width,
            layers=fields.get("num_hidden_layers"),  # type: ignore[arg-type]
            heads=heads,
            kv_heads=fields.get("num_key_value_heads") or heads,
            head_width=head_width,
            inner=fields.get("intermediate_size"),  # type: ignore[arg-type]
            vocabulary=fields.get("vocab_size"),  # type: ignore[arg-type]
            positions=positions,
            rope_theta=number(theta, "rope_theta"),
            norm_epsilon=number(fields.get("rms_norm_eps", 1e-6), "rms_norm_eps"),
            qkv_bias=FAMILIES[family],
            tied=fields.get("tie_word_embeddings", False),
            **rotary,
        )


def _factors(rope: Mapping[str, Any], name: str) -> tuple[float, ...]:
    factors = rope.get(name)
    if not isinstance(factors, list | tuple):
        raise bad(name, factors, "a list of numbers")
    return tuple(number(x, name) for x in factors)


def _long_scale(rope: Mapping[str, Any], positions: int, first: int) -> float:
    """Return LongRoPE's factor on cosines and sines, of transformers' default where not stated."""
    if (stated := rope.get("attention_factor")) is not None:
        return number(stated, "attention_factor")
    factor = number(rope.get("factor") or positions / first, "factor")
    return math.sqrt(1 + math.log(factor) / math.log(first)) if factor > 1 else 1.0
