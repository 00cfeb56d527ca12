"""Encoders and projectors of audio language models as ONNX graphs: Qwen2-Audio's, Phi-4's.

Encoder: `mel` [n_mels, T] of one clip -> `frames` [N, D]. Everything between the convolutions runs
on rows [N, D], in float32, with the weights left in their file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from torch import Tensor, nn

from asa_engine.nn.audio_language_model import AudioEncoder
from asa_engine.nn.config import AudioEncoderConfig
from asa_engine.nn.stored_layers import matrix_of
from asa_export.graph import MICROSOFT, Graph
from asa_export.onnx import FloatLinears, transformer_layer
from asa_export.weights import Weights

__all__ = ["audio_encoder_model", "constant", "linear_rows"]

_TIME = 2


def audio_encoder_model(encoder: AudioEncoder, weights: Weights) -> onnx.ModelProto:
    """Build an encoder.

    Args:
        encoder: The reference.
        weights: The tensors of its `tower`, by their names there.
    """
    graph, config = Graph("encoder", weights), encoder.config
    mel = graph.input("mel", [config.n_mels, "mel_frames"])
    frames = _BUILDERS[config.family](graph, config, encoder.tower, mel)
    graph.output(frames, "frames", ["frames", config.d_model])
    return graph.model()


def constant(graph: Graph, value: Tensor) -> str:
    """Keep a tensor in a graph, as float32."""
    return graph.constant(value.detach().float().numpy())


def linear_rows(graph: Graph, x: str, layer: nn.Linear) -> str:
    """Apply a linear layer to rows [N, K], its weights kept in the graph."""
    bias = () if layer.bias is None else (constant(graph, layer.bias),)
    return graph.op("Gemm", x, constant(graph, matrix_of(layer)), *bias, transB=1)


def _qwen2(graph: Graph, config: AudioEncoderConfig, tower: nn.Module, mel: str) -> str:
    """Whisper's encoder, pairs of frames averaged in front of its last norm."""
    width = config.d_model
    two, start = graph.constant([2], np.int64), graph.constant([0], np.int64)
    axis = graph.constant([_TIME], np.int64)
    count = graph.op("Div", graph.op("Shape", mel, start=1, end=2), two)
    x = graph.op("Unsqueeze", mel, start)
    x = graph.op("Gelu", _conv(graph, x, "conv1", pads=[1, 1]))
    x = graph.op("Slice", x, start, graph.op("Mul", count, two), axis)
    x = graph.op("Gelu", _conv(graph, x, "conv2", pads=[1, 1], strides=[2]))
    x = graph.op("Transpose", x, perm=[0, 2, 1])
    table = graph.weight("embed_positions.weight")
    x = graph.op("Add", x, graph.op("Slice", table, start, count, start))
    shape, rows = graph.op("Shape", x), graph.constant([-1, width], np.int64)
    x = graph.op("Reshape", x, rows)
    linears = FloatLinears()
    for layer in range(config.layers):
        x = transformer_layer(
            graph, linears, x, f"layers.{layer}", config.heads, width, shape, rows
        )
    even = graph.op("Mul", graph.op("Div", count, two), two)
    x = graph.op("Slice", x, start, even, start)
    x = graph.op("Reshape", x, graph.constant([-1, 2, width], np.int64))
    x = graph.op("ReduceMean", x, graph.constant([1], np.int64), keepdims=0)
    return linears.layer_norm(graph, x, "layer_norm")


def _phi4(graph: Graph, config: AudioEncoderConfig, tower: nn.Module, mel: str) -> str:
    """Three strided convolutions, then conformer layers (Gulati et al. 2020)."""
    x = graph.op("Transpose", mel, perm=[1, 0])
    norm = "encoder_embedding.global_"
    x = graph.op("Sub", x, graph.weight(f"{norm}mean"))
    x = graph.op("Mul", x, graph.weight(f"{norm}invstd"))
    x = graph.op("Unsqueeze", x, graph.constant([0, 1], np.int64))
    convolutions: Any = tower.get_submodule("embed.conv")
    for index, module in enumerate(convolutions):
        if not isinstance(module, nn.Conv2d):
            x = graph.op("Relu", x)
            continue
        how = {"strides": list(module.stride), "group": module.groups}
        x = _conv(graph, x, f"embed.conv.{index}", pads=[*module.padding, *module.padding], **how)
    x = graph.op("Transpose", x, perm=[0, 2, 1, 3])
    flat = graph.weights.shape("embed.out.weight")[1]
    x = graph.op("Reshape", x, graph.constant([-1, flat], np.int64))
    linears = FloatLinears()
    (x,) = linears.apply(graph, x, ("embed.out",))
    bias = _relative_bias(graph, x)
    for layer in range(config.layers):
        x = _conformer_layer(graph, linears, x, f"encoders.{layer}", config.heads, bias)
    return x


def _relative_bias(graph: Graph, x: str) -> str:
    """Return what is added to attention logits, [1, heads, N, N], by distance in time."""
    name = "relative_attention_bias_layer.bias_values.weight"
    reach = graph.weights.shape(name)[0] // 2
    count = graph.op("Shape", x, start=0, end=1)
    zero, one, end = (graph.constant(value, np.int64) for value in (0, 1, [0]))
    places = graph.op("Range", zero, graph.op("Squeeze", count, end), one)
    apart = graph.op(
        "Sub",
        graph.op("Unsqueeze", places, end),
        graph.op("Unsqueeze", places, graph.constant([1], np.int64)),
    )
    bounds = (graph.constant(value, np.int64) for value in (-reach, reach - 1))
    index = graph.op("Add", graph.op("Clip", apart, *bounds), graph.constant(reach, np.int64))
    bias = graph.op("Transpose", graph.op("Gather", graph.weight(name), index), perm=[2, 0, 1])
    return graph.op("Unsqueeze", bias, end)


def _conformer_layer(
    graph: Graph, linears: FloatLinears, x: str, name: str, heads: int, bias: str
) -> str:
    """Half a feed-forward block, attention, convolution, the other half, a norm; rows [N, D]."""
    batch, half = graph.constant([0], np.int64), graph.constant(np.float32(0.5))

    def feed_forward(x: str, part: str) -> str:
        normed = linears.layer_norm(graph, x, f"{part}.layer_norm")
        (both,) = linears.apply(graph, normed, (f"{part}.gate_up_proj",))
        up, gate = graph.ops("Split", both, outputs=2, axis=1, num_outputs=2)
        (y,) = linears.apply(graph, graph.op("Mul", up, _silu(graph, gate)), (f"{part}.down_proj",))
        return graph.op("Add", x, graph.op("Mul", y, half))

    x = feed_forward(x, f"{name}.feed_forward_in")
    normed = linears.layer_norm(graph, x, f"{name}.layer_norm_att")
    projections = tuple(f"{name}.self_attn.{part}_proj" for part in "qkv")
    parts = [
        graph.op("Unsqueeze", part, batch) for part in linears.apply(graph, normed, projections)
    ]
    mixed = graph.op("MultiHeadAttention", *parts, "", "", bias, domain=MICROSOFT, num_heads=heads)
    (y,) = linears.apply(graph, graph.op("Squeeze", mixed, batch), (f"{name}.self_attn.o_proj",))
    x = graph.op("Add", x, y)
    x = graph.op("Add", x, _conv_module(graph, linears, x, f"{name}.conv"))
    x = feed_forward(x, f"{name}.feed_forward_out")
    return linears.layer_norm(graph, x, f"{name}.layer_norm")


def _conv_module(graph: Graph, linears: FloatLinears, x: str, name: str) -> str:
    """Gated linear unit, then a depth-wise convolution that looks back only."""
    batch = graph.constant([0], np.int64)
    x = linears.layer_norm(graph, x, f"{name}.layer_norm")
    x = graph.op("Unsqueeze", graph.op("Transpose", x, perm=[1, 0]), batch)
    both = _conv(graph, x, f"{name}.glu.ext_pw_conv_1d")
    value, gate = graph.ops("Split", both, outputs=2, axis=1, num_outputs=2)
    value = graph.op("Add", value, graph.weight(f"{name}.glu.b1"))
    gate = graph.op("Add", gate, graph.weight(f"{name}.glu.b2"))
    x = graph.op("Mul", value, _silu(graph, gate))
    separable = f"{name}.dw_sep_conv_1d"
    _, group_width, taps = graph.weights.shape(f"{separable}.dw_conv.weight")
    channels = graph.weights.shape(f"{name}.glu.b1")[1] // group_width
    x = _conv(graph, x, f"{separable}.dw_conv", pads=[taps - 1, 0], group=channels)
    x = _silu(graph, _conv(graph, x, f"{separable}.pw_conv"))
    x = graph.op("Squeeze", _conv(graph, x, f"{name}.ext_pw_conv_1d"), batch)
    return graph.op("Transpose", x, perm=[1, 0])


def _conv(graph: Graph, x: str, name: str, **attributes: Any) -> str:
    weight, bias = graph.weight(f"{name}.weight"), graph.weight(f"{name}.bias")
    return graph.op("Conv", x, weight, bias, **attributes)


def _silu(graph: Graph, x: str) -> str:
    return graph.op("QuickGelu", x, domain=MICROSOFT, alpha=1.0)


_BUILDERS: dict[str, Callable[[Graph, AudioEncoderConfig, nn.Module, str], str]] = {
    "qwen2_audio": _qwen2,
    "phi4_multimodal": _phi4,
}
