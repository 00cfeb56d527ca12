"""BERT as an ONNX graph: `ids` int64 [1, T] -> `pooled` float32 [1, D], the mean over all pieces.

The graph takes one text at a time, so that nothing is padded and nothing masked. At int8 every 32
weights share a scale, and so do every 32 activations of a row, found while it runs: BERT has a few
channels far larger than the rest, which must not set the scale of all. The table of word pieces is
int8 with a scale for each piece.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from asa_engine.errors import UsageError
from asa_engine.nn.bert import LAYER_NORM_EPSILON
from asa_engine.nn.config import BertShape
from asa_export.graph import MICROSOFT, Graph
from asa_export.weights import Weights

__all__ = ["FloatBert", "Int8Bert", "bert_model", "expected_tensors"]

BLOCK = 32
_WORDS = "embeddings.word_embeddings.weight"
_POSITIONS = "embeddings.position_embeddings.weight"
_SEGMENTS = "embeddings.token_type_embeddings.weight"
_TINY = 1e-12


class BertParts(Protocol):
    """What one precision differs in."""

    def embed(self, graph: Graph, ids: str) -> str:
        """Look up word pieces [T]; return rows [T, D]."""

    def apply(self, graph: Graph, x: str, name: str) -> str:
        """Apply a linear layer to rows [T, K]; return rows [T, N]."""

    def small(self, graph: Graph, name: str) -> str:
        """Return one of the small tensors, float32 at every precision."""


class FloatBert:
    """Everything in float32, with the weights left in their file."""

    def embed(self, graph: Graph, ids: str) -> str:
        """Gather from the table."""
        return graph.op("Gather", graph.weight(_WORDS), ids)

    def apply(self, graph: Graph, x: str, name: str) -> str:
        """One Gemm."""
        weight, bias = graph.weight(f"{name}.weight"), graph.weight(f"{name}.bias")
        return graph.op("Gemm", x, weight, bias, transB=1)

    def small(self, graph: Graph, name: str) -> str:
        """Leave it in the file."""
        return graph.weight(name)


class Int8Bert:
    """Embeddings and linear layers in int8; see the module docstring."""

    def embed(self, graph: Graph, ids: str) -> str:
        """Gather int8 rows and the scale of each."""
        table = graph.array(_WORDS)
        scale = _scales(np.abs(table).max(axis=1, keepdims=True))
        rows = graph.constant(np.round(table / scale), np.int8)
        rows_as_float = graph.op("Cast", graph.op("Gather", rows, ids), to=onnx.TensorProto.FLOAT)
        return graph.op("Mul", rows_as_float, graph.op("Gather", graph.constant(scale), ids))

    def apply(self, graph: Graph, x: str, name: str) -> str:
        """One product in blocks."""
        weight = graph.array(f"{name}.weight")
        outputs, inputs = weight.shape
        if inputs % BLOCK:
            raise UsageError(
                f"{name} has {inputs} inputs, not a multiple of {BLOCK}",
                hint="leave int8 out for this encoder",
            )
        blocks = weight.reshape(outputs, -1, BLOCK)
        scale = _scales(np.abs(blocks).max(axis=2))
        # Unsigned, with zero at 128, as the operator wants it.
        rounded = np.round(blocks / scale[..., np.newaxis]) + 128
        y = graph.product_in_blocks(
            x, rounded, scale.reshape(-1), shape=weight.shape, bits=8, size=BLOCK
        )
        return graph.op("Add", y, self.small(graph, f"{name}.bias"))

    def small(self, graph: Graph, name: str) -> str:
        """Put it into the graph, which then needs no other file."""
        return graph.constant(graph.array(name))


def _scales(largest: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the steps of int8 for these largest magnitudes."""
    return np.maximum(largest / 127, np.float32(_TINY))


def bert_model(
    shape: BertShape, weights: Weights, parts: BertParts, *, pooling: str = "mean"
) -> onnx.ModelProto:
    """Build the graph.

    Args:
        shape: BERT's shape.
        weights: Its tensors, named as Hugging Face's `BertModel` does.
        parts: How embeddings and linear layers are computed.
        pooling: `mean` of all pieces, or `cls`: the first's.
    """
    graph = Graph("text_encoder", weights)
    ids = graph.input("ids", [1, "pieces"], onnx.TensorProto.INT64)
    flat = graph.op("Reshape", ids, graph.constant([-1], np.int64))
    words = parts.embed(graph, flat)
    zero, length = graph.constant([0], np.int64), graph.op("Shape", flat)
    table = parts.small(graph, _POSITIONS)
    positions = graph.op("Slice", table, zero, length, zero)
    # All pieces are of the first segment.
    placed = graph.op("Add", positions, graph.constant(graph.array(_SEGMENTS)[:1]))
    x = _layer_norm(graph, parts, graph.op("Add", words, placed), "embeddings.LayerNorm")
    for index in range(shape.layers):
        x = _layer(graph, parts, x, f"encoder.layer.{index}", shape)
    if pooling == "cls":
        pooled = graph.op("Gather", x, zero)
    else:
        pooled = graph.op("ReduceMean", x, zero, keepdims=1)
    graph.output(pooled, "pooled", [1, shape.width])
    return graph.model()


def expected_tensors(shape: BertShape) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of every tensor of a BERT without its pooler."""
    width = shape.width
    tensors: dict[str, tuple[int, ...]] = {
        _WORDS: (shape.vocabulary, width),
        _POSITIONS: (shape.positions, width),
        _SEGMENTS: (shape.segments, width),
    }
    linears: dict[str, tuple[int, int]] = {}
    norms = ["embeddings.LayerNorm"]
    for index in range(shape.layers):
        layer = f"encoder.layer.{index}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            linears[f"{layer}.attention.{part}"] = (width, width)
        linears[f"{layer}.intermediate.dense"] = (shape.ffn, width)
        linears[f"{layer}.output.dense"] = (width, shape.ffn)
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    for name, (outputs, inputs) in linears.items():
        tensors |= {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
    for name in norms:
        tensors |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return tensors


def _layer(graph: Graph, parts: BertParts, x: str, name: str, shape: BertShape) -> str:
    """One post-norm Transformer layer on rows [T, D]."""
    attention = f"{name}.attention"
    batch = graph.constant([0], np.int64)
    heads = [
        graph.op("Unsqueeze", parts.apply(graph, x, f"{attention}.self.{part}"), batch)
        for part in ("query", "key", "value")
    ]
    mixed = graph.op("MultiHeadAttention", *heads, domain=MICROSOFT, num_heads=shape.heads)
    y = parts.apply(graph, graph.op("Squeeze", mixed, batch), f"{attention}.output.dense")
    x = _layer_norm(graph, parts, graph.op("Add", x, y), f"{attention}.output.LayerNorm")
    inner = parts.apply(graph, x, f"{name}.intermediate.dense")
    y = parts.apply(graph, graph.op("Gelu", inner), f"{name}.output.dense")
    return _layer_norm(graph, parts, graph.op("Add", x, y), f"{name}.output.LayerNorm")


def _layer_norm(graph: Graph, parts: BertParts, x: str, name: str) -> str:
    scale, shift = parts.small(graph, f"{name}.weight"), parts.small(graph, f"{name}.bias")
    return graph.op("LayerNormalization", x, scale, shift, axis=-1, epsilon=LAYER_NORM_EPSILON)
