"""The acoustic grader as ONNX graphs, built from its configuration and tensors.

Two graphs: the encoder, log-mel [B, n_mels, T] -> `stats` [B, K] and `frames` [B, ceil(T/2), D];
and the head, stats [B, K] -> `scores` [B, A] and `prior` [B, L]. They compute what
`asa_engine.graders.acoustic.model` computes. A third, for GPUs, is both in one, so that nothing
leaves the device between them.

Everything between the stem and the pooling runs on rows [B * N, D], so that a linear layer is one
Gemm and no activation is ever transposed; the two convolutions are Gemms over three shifted
copies of their input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import onnx

from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.graders.acoustic.model import (
    ATTENTION_BOUND,
    LOG_FRAMES_RANGE,
    LOG_FRAMES_SCALE,
    REFERENCE_FRAMES,
    VARIANCE_FLOOR,
)
from asa_engine.nn.config import WhisperEncoderConfig
from asa_export.graph import MICROSOFT, Graph
from asa_export.weights import TensorSource, Weights

__all__ = [
    "LAYER_NORM_EPSILON",
    "FloatLinears",
    "FusedAttention",
    "Linears",
    "encoder_model",
    "frames_model",
    "grader_model",
    "has_bias",
    "head_model",
    "transformer_layer",
]

LAYER_NORM_EPSILON = 1e-5
CONV_WIDTH = 3
_END = 2**31


class Linears(Protocol):
    """How an encoder's products are computed: what one precision differs in.

    Layers are named by the checkpoint's tensors, without `.weight`; the convolutions count as
    linear layers over rows of three neighbouring frames.
    """

    def layer_norm(self, graph: Graph, x: str, name: str) -> str:
        """Normalise rows [M, D]."""

    def apply(self, graph: Graph, x: str, names: tuple[str, ...]) -> list[str]:
        """Apply several layers to the same rows [M, K]; return one value [M, N] for each."""

    def attention(self, graph: Graph, parts: list[str], heads: int, shape: str, width: int) -> str:
        """Attend within each window: rows [B * N, D] of q, k and v -> [B, N, D] or its rows.

        `shape` is the value that holds [B, N, D].
        """


class FusedAttention:
    """Attention as ONNX Runtime's own operator."""

    def attention(self, graph: Graph, parts: list[str], heads: int, shape: str, width: int) -> str:
        """One operator for all of it."""
        parts = [graph.op("Reshape", part, shape) for part in parts]
        return graph.op("MultiHeadAttention", *parts, domain=MICROSOFT, num_heads=heads)


class FloatLinears(FusedAttention):
    """Linear layers in float32, with the weights left in the checkpoint."""

    def layer_norm(self, graph: Graph, x: str, name: str) -> str:
        """Normalise rows with the checkpoint's scale and shift."""
        return _layer_norm(graph, x, name)

    def apply(self, graph: Graph, x: str, names: tuple[str, ...]) -> list[str]:
        """One Gemm for each layer; the runtime packs the transposed weight when it loads."""
        return [self._linear(graph, x, name) for name in names]

    def _linear(self, graph: Graph, x: str, name: str) -> str:
        weight = graph.weight(f"{name}.weight")
        shape = graph.weights.shape(f"{name}.weight")
        if len(shape) == CONV_WIDTH:
            taps_last = graph.op("Transpose", weight, perm=[0, 2, 1])
            flat = graph.constant([shape[0], shape[1] * shape[2]], np.int64)
            weight = graph.op("Reshape", taps_last, flat)
        bias = (graph.weight(f"{name}.bias"),) if has_bias(graph.weights, name) else ()
        return graph.op("Gemm", x, weight, *bias, transB=1)


def has_bias(weights: TensorSource, name: str) -> bool:
    """Tell whether a linear layer has a bias: Whisper's keys have none."""
    return f"{name}.bias" in weights.names()


def encoder_model(config: AcousticConfig, weights: Weights, linears: Linears) -> onnx.ModelProto:
    """Build the encoder with its learned mix of layers and its pooling.

    Args:
        config: The grader's configuration.
        weights: Its tensors.
        linears: How linear layers are computed.
    """
    graph = Graph("encoder", weights)
    stats, frames = _encode(graph, config, linears)
    graph.output(stats, "stats", ["batch", config.stats_width])
    graph.output(frames, "frames", ["batch", "frames", config.encoder.d_model])
    return graph.model()


def grader_model(config: AcousticConfig, weights: Weights, linears: Linears) -> onnx.ModelProto:
    """Build encoder and head as one graph.

    Besides the log-mel it takes `sums` [B, K], the statistics of each recording's earlier windows,
    all zero before the first; its `scores` and `prior` are those of `sums + stats`.

    Args:
        config: The grader's configuration.
        weights: Its tensors.
        linears: How the encoder's products are computed.
    """
    graph = Graph("grader", weights)
    stats, frames = _encode(graph, config, linears)
    sums = graph.input("sums", ["batch", config.stats_width])
    scores, prior = _score(graph, config, graph.op("Add", sums, stats))
    graph.output(stats, "stats", ["batch", config.stats_width])
    graph.output(scores, "scores", ["batch", len(config.aspects)])
    graph.output(prior, "prior", ["batch", len(config.prior_levels)])
    graph.output(frames, "frames", ["batch", "frames", config.encoder.d_model])
    return graph.model()


def frames_model(
    config: WhisperEncoderConfig,
    weights: Weights,
    linears: Linears,
    *,
    positions: int,
    mix: Sequence[float],
) -> onnx.ModelProto:
    """Build Whisper's encoder alone: log-mel [B, n_mels, T] -> `frames` [B, ceil(T/2), D].

    Args:
        config: Its shape.
        weights: Its tensors, by Hugging Face's names.
        linears: How linear layers are computed.
        positions: Frames of the longest window.
        mix: Weights of the embedded input and of each layer's output in the frames.
    """
    graph = Graph("encoder", weights)
    outputs, shape = _layers(graph, config, linears, "", positions)
    mixed = graph.op("Reshape", _weighted(graph, outputs, mix), shape)
    graph.output(mixed, "frames", ["batch", "frames", config.d_model])
    return graph.model()


def _layers(
    graph: Graph, config: WhisperEncoderConfig, linears: Linears, prefix: str, positions: int
) -> tuple[list[str], str]:
    """Encode `mel`; return all layers' outputs, rows [B * N, D], and what holds [B, N, D].

    The first is the embedded input; `prefix` stands in front of the tensors' names.
    """
    width = config.d_model
    mel = graph.input("mel", ["batch", config.n_mels, "mel_frames"])
    x = graph.op("Transpose", mel, perm=[0, 2, 1])
    x = _conv(graph, linears, x, f"{prefix}conv1", config.n_mels, width, stride=1)
    x = _conv(graph, linears, x, f"{prefix}conv2", width, width, stride=2)
    table = graph.weight(f"{prefix}embed_positions.weight", rows=positions)
    zero, length = graph.constant([0], np.int64), graph.op("Shape", x, start=1, end=2)
    x = graph.op("Add", x, graph.op("Slice", table, zero, length, zero))
    shape, rows = graph.op("Shape", x), graph.constant([-1, width], np.int64)
    x = graph.op("Reshape", x, rows)
    outputs = [x]
    for layer in range(config.layers):
        name = f"{prefix}layers.{layer}"
        x = transformer_layer(graph, linears, x, name, config.heads, width, shape, rows)
        outputs.append(x)
    outputs[-1] = _layer_norm(graph, x, f"{prefix}layer_norm")
    return outputs, shape


def _encode(graph: Graph, config: AcousticConfig, linears: Linears) -> tuple[str, str]:
    """Encode and pool `mel`; return stats and frames."""
    outputs, shape = _layers(graph, config.encoder, linears, "encoder.", config.window_frames)
    mixed = _mix(graph, outputs)
    logits = _dense(graph, mixed, "attention")
    mixed = graph.op("Reshape", mixed, shape)
    stats = _pool(graph, mixed, logits, config.attention_heads)
    if config.kernel_centres:
        stats = graph.op("Concat", stats, *_moments(graph, outputs, shape), axis=1)
    return stats, mixed


def _conv(
    graph: Graph, linears: Linears, x: str, name: str, channels: int, width: int, *, stride: int
) -> str:
    """Convolve [B, T, C] over three frames, padded by one at both ends, then apply GELU."""
    padded = graph.op("Pad", x, graph.constant([0, 1, 0, 0, 1, 0], np.int64))
    axis, step = graph.constant([1], np.int64), graph.constant([stride], np.int64)
    taps = []
    for tap in range(CONV_WIDTH):
        last = _END if tap == CONV_WIDTH - 1 else tap - (CONV_WIDTH - 1)
        ends = graph.constant([tap], np.int64), graph.constant([last], np.int64)
        taps.append(graph.op("Slice", padded, *ends, axis, step))
    spans = graph.op("Concat", *taps, axis=2)
    flat = graph.op("Reshape", spans, graph.constant([-1, CONV_WIDTH * channels], np.int64))
    (y,) = linears.apply(graph, flat, (name,))
    leading = graph.op("Shape", spans, start=0, end=2)
    shape = graph.op("Concat", leading, graph.constant([width], np.int64), axis=0)
    return graph.op("Reshape", graph.op("Gelu", y), shape)


def transformer_layer(
    graph: Graph, linears: Linears, x: str, name: str, heads: int, width: int, shape: str, rows: str
) -> str:
    """Apply one pre-norm Transformer layer to rows [B * N, D].

    Args:
        graph: Where it is built.
        linears: How products are computed.
        x: The rows.
        name: Of the layer, in front of its tensors' names.
        heads: Attention heads.
        width: D.
        shape: The value that holds [B, N, D].
        rows: The value that holds [-1, D].
    """
    normed = linears.layer_norm(graph, x, f"{name}.self_attn_layer_norm")
    projections = tuple(f"{name}.self_attn.{part}_proj" for part in "qkv")
    parts = linears.apply(graph, normed, projections)
    mixed = linears.attention(graph, parts, heads, shape, width)
    flat = graph.op("Reshape", mixed, rows)
    (y,) = linears.apply(graph, flat, (f"{name}.self_attn.out_proj",))
    x = graph.op("Add", x, y)
    normed = linears.layer_norm(graph, x, f"{name}.final_layer_norm")
    (inner,) = linears.apply(graph, normed, (f"{name}.fc1",))
    (y,) = linears.apply(graph, graph.op("Gelu", inner), (f"{name}.fc2",))
    return graph.op("Add", x, y)


def _mix(graph: Graph, layers: list[str]) -> str:
    """Sum the layers' outputs, weighted by the softmax of the learned mix."""
    logits = graph.array("layer_mix").astype(np.float64)
    shares = np.exp(logits - logits.max())
    return _weighted(graph, layers, (shares / shares.sum()).tolist())


def _weighted(graph: Graph, layers: list[str], weights: Sequence[float]) -> str:
    """Sum the layers' outputs, each times its weight."""
    scaled = [
        graph.op("Mul", layer, graph.constant(np.float32(weight)))
        for layer, weight in zip(layers, weights, strict=True)
    ]
    return graph.op("Sum", *scaled)


def _pool(graph: Graph, frames: str, logits: str, heads: int) -> str:
    """Sum frames [B, N, D] into stats [B, K]; `logits` [B * N, H] are the attention's.

    The order of the sums is that of `AcousticGrader.pool`.
    """
    bound = graph.constant(np.float32(ATTENTION_BOUND))
    bounded = graph.op("Mul", graph.op("Tanh", graph.op("Div", logits, bound)), bound)
    leading = graph.op("Shape", frames, start=0, end=2)
    by_head = graph.op("Concat", leading, graph.constant([heads], np.int64), axis=0)
    weights = graph.op("Reshape", graph.op("Exp", bounded), by_head)
    weighted = graph.op("MatMul", graph.op("Transpose", weights, perm=[0, 2, 1]), frames)
    over_time = graph.constant([1], np.int64)
    one = graph.constant([1], np.int64)
    batch = graph.op("Shape", frames, start=0, end=1)
    count = graph.op("Cast", graph.op("Shape", frames, start=1, end=2), to=onnx.TensorProto.FLOAT)
    return graph.op(
        "Concat",
        graph.op("Expand", count, graph.op("Concat", batch, one, axis=0)),
        graph.op("ReduceSum", frames, over_time, keepdims=0),
        graph.op("ReduceSumSquare", frames, over_time, keepdims=0),
        graph.op("ReduceSum", weights, over_time, keepdims=0),
        graph.op("Flatten", weighted, axis=1),
        axis=1,
    )


def _moments(graph: Graph, layers: list[str], shape: str) -> list[str]:
    """Sum every layer's rows over time: all sums [B, D] first, then all sums of squares."""
    over_time = graph.constant([1], np.int64)
    stacked = [graph.op("Reshape", layer, shape) for layer in layers]
    return [
        graph.op(kind, layer, over_time, keepdims=0)
        for kind in ("ReduceSum", "ReduceSumSquare")
        for layer in stacked
    ]


def head_model(config: AcousticConfig, weights: Weights) -> onnx.ModelProto:
    """Build the head: prior, projector and regression on summed statistics."""
    graph = Graph("head", weights)
    scores, prior = _score(graph, config, graph.input("stats", ["batch", config.stats_width]))
    graph.output(scores, "scores", ["batch", len(config.aspects)])
    graph.output(prior, "prior", ["batch", len(config.prior_levels)])
    return graph.model()


def _score(graph: Graph, config: AcousticConfig, stats: str) -> tuple[str, str]:
    """Compute scores and prior of a recording's summed statistics."""
    width, heads = config.encoder.d_model, config.attention_heads
    sizes = [1, width, width, heads, heads * width]
    if config.kernel_centres:
        sizes.append(config.stats_width - sum(sizes))
    count, total, squares, shares, weighted, *moments = graph.ops(
        "Split", stats, graph.constant(sizes, np.int64), outputs=len(sizes), axis=1
    )

    mean = graph.op("Div", total, count)
    variance = graph.op("Sub", graph.op("Div", squares, count), graph.op("Mul", mean, mean))
    floor = graph.constant(np.float32(VARIANCE_FLOOR))
    deviation = graph.op("Sqrt", graph.op("Max", variance, floor))
    by_head = graph.op("Reshape", weighted, graph.constant([-1, heads, width], np.int64))
    last = graph.constant([2], np.int64)
    attended = graph.op("Div", by_head, graph.op("Unsqueeze", shares, last))
    parts = graph.ops("Split", attended, outputs=heads, axis=1, num_outputs=heads)
    axis = graph.constant([1], np.int64)
    attended_parts = [graph.op("Squeeze", part, axis) for part in parts]

    hidden = _dense(graph, _layer_norm(graph, mean, "prior_norm"), "prior_fc1")
    logits = _dense(graph, graph.op("Gelu", hidden), "prior_fc2")
    prior = graph.op("Softmax", logits, axis=-1)

    relative = graph.op("Div", count, graph.constant(np.float32(REFERENCE_FRAMES)))
    duration = graph.op(
        "Div", graph.op("Log", relative), graph.constant(np.float32(LOG_FRAMES_SCALE))
    )
    bounds = (graph.constant(np.float32(bound)) for bound in LOG_FRAMES_RANGE)
    duration = graph.op("Clip", duration, *bounds)
    features = graph.op(
        "Concat",
        *(
            _layer_norm(graph, part, f"pool_norms.{index}")
            for index, part in enumerate((mean, deviation, *attended_parts))
        ),
        _dense(graph, prior, "prior_projector"),
        duration,
        axis=1,
    )
    hidden = graph.op("Gelu", _dense(graph, features, "head_fc1"))
    spread = graph.op("Mul", _dense(graph, hidden, "head_fc2"), graph.weight("score_std"))
    scores = graph.op("Add", spread, graph.weight("score_mean"))
    for layers in moments:
        scores = _blend(graph, scores, _kernel_scores(graph, layers, count, duration))
    return scores, prior


def _layer_norm(graph: Graph, x: str, name: str) -> str:
    scale, shift = graph.weight(f"{name}.weight"), graph.weight(f"{name}.bias")
    return graph.op("LayerNormalization", x, scale, shift, axis=-1, epsilon=LAYER_NORM_EPSILON)


def _dense(graph: Graph, x: str, name: str) -> str:
    """A linear layer outside the encoder: float32 at every precision."""
    return graph.op(
        "Gemm", x, graph.weight(f"{name}.weight"), graph.weight(f"{name}.bias"), transB=1
    )


def _kernel_scores(graph: Graph, moments: str, count: str, duration: str) -> str:
    """Regress on the layers' means and deviations with a Gaussian kernel."""
    means, squares = graph.ops(
        "Split", graph.op("Div", moments, count), outputs=2, axis=1, num_outputs=2
    )
    variance = graph.op("Sub", squares, graph.op("Mul", means, means))
    deviations = graph.op("Sqrt", graph.op("Max", variance, graph.constant(VARIANCE_FLOOR)))
    layers = graph.op("Concat", means, deviations, axis=1)
    projection, bias = graph.weight("kernel_projection"), graph.weight("kernel_bias")
    place = graph.op("Gemm", layers, projection, bias, transB=1)
    seconds = graph.op("Mul", duration, graph.weight("kernel_duration"))
    place = graph.op("Concat", place, seconds, axis=1)
    # Differences first: squares of the coordinates would cancel and lose the small distances.
    apart = graph.op(
        "Sub",
        graph.op("Unsqueeze", place, graph.constant([1], np.int64)),
        graph.weight("kernel_centres"),
    )
    distance = graph.op("ReduceSumSquare", apart, graph.constant([2], np.int64), keepdims=0)
    near = graph.op("Exp", graph.op("Neg", distance))
    weights, mean = graph.weight("kernel_weights"), graph.weight("kernel_mean")
    return graph.op("Gemm", near, weights, mean, transB=1)


def _blend(graph: Graph, network: str, kernel: str) -> str:
    """Return kernel + blend (network - kernel)."""
    apart = graph.op("Mul", graph.op("Sub", network, kernel), graph.weight("blend"))
    return graph.op("Add", kernel, apart)
