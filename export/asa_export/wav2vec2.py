"""wav2vec2's encoder as an ONNX graph: `samples` [n], normalised -> `frames` [T, D], 50 a second.

Of the shape of wav2vec2-base: one GroupNorm after the first convolution, norms behind attention and
feed-forward blocks. Everything is float32; weights go to a file beside the graph as they are read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from torch import Tensor

from asa_engine.errors import CheckpointError
from asa_export.external import ExternalData
from asa_export.graph import MICROSOFT, Graph
from asa_export.weights import Weights

__all__ = ["wav2vec2_model"]

_KNOWN: Final = {
    "feat_extract_norm": "group",
    "do_stable_layer_norm": False,
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "add_adapter": False,
}


def wav2vec2_model(model: Any, weights: Weights, external: Path, *, mixed: bool) -> onnx.ModelProto:
    """Build the graph.

    Args:
        model: Hugging Face's `Wav2Vec2Model`, in evaluation mode.
        weights: Any tensors; the graph keeps its own.
        external: The file that its weights go to, beside the graph.
        mixed: The mean of all layers' frames, the first layer's input among them, or the last's.

    Raises:
        CheckpointError: It is another kind of wav2vec2.
    """
    config = model.config
    for name, known in _KNOWN.items():
        if getattr(config, name) != known:
            raise CheckpointError(
                f"{name} of this wav2vec2 is {getattr(config, name)!r}",
                hint=f"only {known!r} is exported; evaluate the checkpoint on PyTorch",
            )
    graph = Graph("wav2vec2", weights, ExternalData(external))
    samples = graph.input("samples", ["samples"])
    x = _project(graph, model, _convolve(graph, model, samples))
    x = _norm(graph, graph.op("Add", x, _places(graph, model, x)), model.encoder.layer_norm)
    layers = [x]
    for layer in model.encoder.layers:
        x = _layer(graph, layer, x, config.num_attention_heads)
        layers.append(x)
    if mixed:
        x = graph.op("Div", graph.op("Sum", *layers), graph.constant(float(len(layers))))
    graph.output(x, "frames", ["frames", config.hidden_size])
    return graph.model()


def _convolve(graph: Graph, model: Any, samples: str) -> str:
    """Seven convolutions: [n] -> [1, C, T]."""
    x = graph.op("Unsqueeze", samples, graph.constant([0, 1], np.int64))
    for index, layer in enumerate(model.feature_extractor.conv_layers):
        x = _conv(graph, x, layer.conv.weight, layer.conv.bias, strides=[layer.conv.stride[0]])
        if index == 0:  # as many groups as channels: each over time, by itself
            norm = layer.layer_norm
            scale, shift = _stored(graph, norm.weight), _stored(graph, norm.bias)
            x = graph.op("InstanceNormalization", x, scale, shift, epsilon=norm.eps)
        x = graph.op("Gelu", x)
    return x


def _project(graph: Graph, model: Any, x: str) -> str:
    """Rows [T, C], normed and brought to the encoder's width."""
    rows = graph.op("Transpose", graph.op("Squeeze", x, graph.constant([0], np.int64)), perm=[1, 0])
    projection = model.feature_projection
    return _linear(graph, _norm(graph, rows, projection.layer_norm), projection.projection)


def _places(graph: Graph, model: Any, x: str) -> str:
    """What a grouped convolution over neighbours says of places, [T, D]."""
    conv = model.encoder.pos_conv_embed.conv
    batch, width = graph.constant([0], np.int64), conv.kernel_size[0]
    y = graph.op("Unsqueeze", graph.op("Transpose", x, perm=[1, 0]), batch)
    # An even width pads one step too many at the end, which Hugging Face cuts off again.
    pads = [width // 2, width // 2 - (width % 2 == 0)]
    y = _conv(graph, y, conv.weight, conv.bias, pads=pads, group=conv.groups)
    y = graph.op("Transpose", graph.op("Squeeze", y, batch), perm=[1, 0])
    return graph.op("Gelu", y)


def _layer(graph: Graph, layer: Any, x: str, heads: int) -> str:
    """One Transformer layer on rows [T, D], norms behind its blocks."""
    attention, batch = layer.attention, graph.constant([0], np.int64)
    projected = [
        graph.op("Unsqueeze", _linear(graph, x, getattr(attention, f"{part}_proj")), batch)
        for part in "qkv"
    ]
    mixed = graph.op("MultiHeadAttention", *projected, domain=MICROSOFT, num_heads=heads)
    y = _linear(graph, graph.op("Squeeze", mixed, batch), attention.out_proj)
    x = _norm(graph, graph.op("Add", x, y), layer.layer_norm)
    inner = graph.op("Gelu", _linear(graph, x, layer.feed_forward.intermediate_dense))
    y = _linear(graph, inner, layer.feed_forward.output_dense)
    return _norm(graph, graph.op("Add", x, y), layer.final_layer_norm)


def _conv(graph: Graph, x: str, weight: Tensor, bias: Tensor | None, **how: Any) -> str:
    extra = () if bias is None else (_stored(graph, bias),)
    return graph.op("Conv", x, _stored(graph, weight), *extra, **how)


def _linear(graph: Graph, x: str, layer: Any) -> str:
    return graph.op("Gemm", x, _stored(graph, layer.weight), _stored(graph, layer.bias), transB=1)


def _norm(graph: Graph, x: str, norm: Any) -> str:
    scale, shift = _stored(graph, norm.weight), _stored(graph, norm.bias)
    return graph.op("LayerNormalization", x, scale, shift, axis=-1, epsilon=norm.eps)


def _stored(graph: Graph, value: Tensor) -> str:
    return graph.constant(value.detach().float().numpy())
