"""A causal language model of the Llama, Qwen2 or Phi-3 family as ONNX graphs.

Three graphs, so that a grader ships only what it needs:

- `decoder`: `embeddings` [1, S, W] after `past` positions -> `hidden` [1, S, W], after the closing
  norm, with keys and values of every layer in and out;
- `tokens`: `ids` [S] -> `embeddings` [S, W];
- `vocabulary`: `hidden` [1, W] -> `logits` [1, V], for graders that write text.

Keys and values are buffers [1, kv_heads, capacity, head_width] of any capacity, which
GroupQueryAttention fills in place where input and output are one buffer; `last` is the last
position's index and `total` the number of positions, new ones included. Where LongRoPE has two
regimes within the positions, `long` says which one holds for all of them. A layer's two norms take
the residual sum along (SkipSimplifiedLayerNormalization), so it goes through memory once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from asa_engine.language_model.decoder import FIRST_KEY, LONG, POSITIONS_KEY
from asa_export.external import ExternalData
from asa_export.graph import MICROSOFT, Graph, Shape
from asa_export.language_model_config import DecoderConfig
from asa_export.weights import TensorSource

__all__ = [
    "CLOSING_NORM",
    "TOKENS",
    "VOCABULARY",
    "DecoderLinears",
    "FloatDecoder",
    "decoder_model",
    "decoder_tensors",
    "rotary_tables",
    "split_fused",
    "tokens_model",
    "vocabulary_model",
]

TOKENS: Final = "model.embed_tokens.weight"
VOCABULARY: Final = "lm_head.weight"
CLOSING_NORM: Final = "model.norm.weight"


class DecoderLinears(Protocol):
    """How linear layers are computed: what one precision differs in.

    Layers are named by the checkpoint's tensors, without `.weight`.

    Attributes:
        kept: Type of attention and of the keys and values it keeps, as ONNX numbers it.
    """

    kept: int

    def norm_scale(self, graph: Graph, name: str) -> str:
        """Return the scale [W] of an RMSNorm."""

    def apply(self, graph: Graph, x: str, names: tuple[str, ...]) -> list[str]:
        """Apply several layers to the same rows [S, K]; return one value [S, N] for each."""

    def gated(self, graph: Graph, x: str, gate: str, up: str, down: str) -> str:
        """Return down(silu(gate(x)) * up(x)) of rows [S, W]."""

    def table(self, graph: Graph, name: str, ids: str) -> str:
        """Return rows [S, W] of an embedding table."""


class FloatDecoder:
    """Everything in float32, with the weights left in their file."""

    kept: int = TensorProto.FLOAT

    def norm_scale(self, graph: Graph, name: str) -> str:
        """Return the checkpoint's scale."""
        return self._tensor(graph, name)

    def apply(self, graph: Graph, x: str, names: tuple[str, ...]) -> list[str]:
        """One Gemm for each layer; the runtime packs the transposed weight when it loads."""
        return [self._linear(graph, x, name) for name in names]

    def gated(self, graph: Graph, x: str, gate: str, up: str, down: str) -> str:
        """SwiGLU; QuickGelu with alpha 1 is silu in one pass."""
        opened, raised = self.apply(graph, x, (gate, up))
        silu = graph.op("QuickGelu", opened, domain=MICROSOFT, alpha=1.0)
        (result,) = self.apply(graph, graph.op("Mul", silu, raised), (down,))
        return result

    def table(self, graph: Graph, name: str, ids: str) -> str:
        """Gather from the table."""
        return graph.op("Gather", graph.weight(name), ids)

    def _linear(self, graph: Graph, x: str, name: str) -> str:
        bias = f"{name}.bias"
        extra = (self._tensor(graph, bias),) if bias in graph.weights.names() else ()
        return graph.op("Gemm", x, self._tensor(graph, f"{name}.weight"), *extra, transB=1)

    def _tensor(self, graph: Graph, name: str) -> str:
        """Return a tensor, left in its file."""
        return graph.weight(name)


def decoder_tensors(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of every tensor of the model, as Hugging Face names them."""
    width, inner = config.width, config.inner
    queries, keys = config.heads * config.head_width, config.kv_heads * config.head_width
    shapes: dict[str, tuple[int, ...]] = {
        TOKENS: (config.vocabulary, width),
        CLOSING_NORM: (width,),
    }
    if not config.tied:
        shapes[VOCABULARY] = (config.vocabulary, width)
    for index in range(config.layers):
        layer = f"model.layers.{index}"
        for part, outputs in (("q", queries), ("k", keys), ("v", keys)):
            shapes[f"{layer}.self_attn.{part}_proj.weight"] = (outputs, width)
            if config.qkv_bias:
                shapes[f"{layer}.self_attn.{part}_proj.bias"] = (outputs,)
        shapes |= {
            f"{layer}.self_attn.o_proj.weight": (width, queries),
            f"{layer}.mlp.gate_proj.weight": (inner, width),
            f"{layer}.mlp.up_proj.weight": (inner, width),
            f"{layer}.mlp.down_proj.weight": (width, inner),
            f"{layer}.input_layernorm.weight": (width,),
            f"{layer}.post_attention_layernorm.weight": (width,),
        }
    return shapes


def split_fused(config: DecoderConfig, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a decoder's tensors with fused matrices, which Phi-3 has, taken apart.

    Args:
        config: Its shape.
        state: Name -> tensor or array; the names may lack `model.`.
    """
    queries, keys = config.heads * config.head_width, config.kv_heads * config.head_width
    attention, mlp = "self_attn.qkv_proj.", "mlp.gate_up_proj."
    split: dict[str, Any] = {}
    for name, value in state.items():
        if attention in name:
            ends = (0, queries, queries + keys, queries + 2 * keys)
            for part, start, stop in zip("qkv", ends, ends[1:], strict=False):
                split[name.replace("qkv_proj", f"{part}_proj")] = value[start:stop]
        elif mlp in name:
            split[name.replace("gate_up_proj", "gate_proj")] = value[: config.inner]
            split[name.replace("gate_up_proj", "up_proj")] = value[config.inner :]
        else:
            split[name] = value
    return split


def decoder_model(
    config: DecoderConfig,
    weights: TensorSource,
    linears: DecoderLinears,
    *,
    positions: int,
    external: ExternalData | None = None,
) -> onnx.ModelProto:
    """Build the decoder.

    Args:
        config: Its shape.
        weights: The merged tensors (`decoder_tensors`).
        linears: How linear layers are computed.
        positions: Positions that the rotary tables cover: the longest sequence it can take.
        external: Where large constants go, for a model whose weights pass what protobuf holds.
    """
    graph = Graph("decoder", weights, external)
    embeddings = graph.input("embeddings", [1, "rows", config.width])
    last = graph.input("last", [1], TensorProto.INT32)
    total = graph.input("total", [], TensorProto.INT32)
    tables = [graph.constant(table) for table in rotary_tables(config, positions)]
    two_regimes = config.long_positions and positions > config.positions
    if two_regimes:
        is_long = graph.input(LONG, [], TensorProto.BOOL)
        others = rotary_tables(config, positions, config.long_factors)
        tables = [
            graph.op("Where", is_long, graph.constant(other), table)
            for other, table in zip(others, tables, strict=True)
        ]
    cosines, sines = (_cast(graph, table, linears.kept) for table in tables)
    flat = graph.constant([-1, config.width], np.int64)
    residual = graph.op("Reshape", embeddings, flat)
    epsilon = config.norm_epsilon
    x = graph.op(
        "SimplifiedLayerNormalization",
        residual,
        linears.norm_scale(graph, "model.layers.0.input_layernorm.weight"),
        axis=-1,
        epsilon=epsilon,
    )
    for index in range(config.layers):
        layer = f"model.layers.{index}"
        attention = f"{layer}.self_attn"
        projections = tuple(f"{attention}.{part}_proj" for part in "qkv")
        mixed = _attend(
            graph,
            config,
            index,
            linears.apply(graph, x, projections),
            (last, total, cosines, sines),
            linears.kept,
        )
        (y,) = linears.apply(graph, mixed, (f"{attention}.o_proj",))
        x, residual = _add_and_norm(
            graph, linears, residual, y, f"{layer}.post_attention_layernorm.weight", epsilon
        )
        mlp = f"{layer}.mlp"
        y = linears.gated(graph, x, *(f"{mlp}.{part}_proj" for part in ("gate", "up", "down")))
        after = index + 1
        norm = f"model.layers.{after}.input_layernorm.weight"
        if after == config.layers:
            norm = CLOSING_NORM
        x, residual = _add_and_norm(graph, linears, residual, y, norm, epsilon)
    wide = graph.constant([1, -1, config.width], np.int64)
    graph.output(graph.op("Reshape", x, wide), "hidden", [1, "rows", config.width])
    model = graph.model()
    properties = {POSITIONS_KEY: str(positions)}
    if two_regimes:
        properties[FIRST_KEY] = str(config.positions)
    onnx.helper.set_model_props(model, properties)
    return model


def tokens_model(
    config: DecoderConfig, weights: TensorSource, linears: DecoderLinears
) -> onnx.ModelProto:
    """Build the look-up of token embeddings."""
    graph = Graph("tokens", weights)
    ids = graph.input("ids", ["rows"], TensorProto.INT64)
    graph.output(linears.table(graph, TOKENS, ids), "embeddings", ["rows", config.width])
    return graph.model()


def vocabulary_model(
    config: DecoderConfig, weights: TensorSource, linears: DecoderLinears
) -> onnx.ModelProto:
    """Build the projection of one hidden state onto the vocabulary."""
    graph = Graph("vocabulary", weights)
    hidden = graph.input("hidden", [1, config.width])
    name = TOKENS if config.tied else VOCABULARY
    (logits,) = linears.apply(graph, hidden, (name.removesuffix(".weight"),))
    graph.output(logits, "logits", [1, config.vocabulary])
    return graph.model()


def rotary_tables(
    config: DecoderConfig, positions: int, rope_factors: Sequence[float] = ()
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return cosines and sines [positions, rotated / 2] (Su et al. 2021, equation 15).

    Args:
        config: The decoder's shape.
        positions: How many.
        rope_factors: What each frequency is divided by; by default the configuration's own.
    """
    half = np.arange(0, config.rotated, 2, dtype=np.float32) / np.float32(config.rotated)
    factors = np.array(rope_factors or config.rope_factors or (1.0,), np.float32)
    frequencies = np.float32(1) / (factors * np.float32(config.rope_theta) ** half)
    angles = np.arange(positions, dtype=np.float32)[:, None] * frequencies
    scale = np.float32(config.rope_scale)
    return np.cos(angles) * scale, np.sin(angles) * scale


def _attend(
    graph: Graph,
    config: DecoderConfig,
    index: int,
    projected: list[str],
    shared: tuple[str, str, str, str],
    kept: int,
) -> str:
    """Attend from new rows to everything so far, keeping their keys and values."""
    shape: Shape = [1, config.kv_heads, "capacity", config.head_width]
    batch = graph.constant([0], np.int64)
    past = [graph.input(f"{part}_{index}", shape, kept) for part in ("key", "value")]
    rows = [_cast(graph, graph.op("Unsqueeze", part, batch), kept) for part in projected]
    mixed = graph.stateful(
        "GroupQueryAttention",
        *rows,
        *past,
        *shared,
        domain=MICROSOFT,
        states={f"new_{part}_{index}": shape for part in ("key", "value")},
        kind=kept,
        num_heads=config.heads,
        kv_num_heads=config.kv_heads,
        do_rotary=1,
    )
    mixed = graph.op("Squeeze", mixed, batch)
    return mixed if kept == TensorProto.FLOAT else graph.op("Cast", mixed, to=TensorProto.FLOAT)


def _cast(graph: Graph, x: str, kind: int) -> str:
    """Return a float32 value as another type."""
    return x if kind == TensorProto.FLOAT else graph.op("Cast", x, to=kind)


def _add_and_norm(
    graph: Graph, linears: DecoderLinears, residual: str, y: str, norm: str, epsilon: float
) -> tuple[str, str]:
    """Return RMSNorm(residual + y) and the sum."""
    x, _, _, total = graph.ops(
        "SkipSimplifiedLayerNormalization",
        residual,
        y,
        linears.norm_scale(graph, norm),
        outputs=4,
        domain=MICROSOFT,
        epsilon=epsilon,
    )
    return x, total
