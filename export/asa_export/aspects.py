"""The trained parts of the multi-aspect grader as one ONNX graph, float32 at every precision.

`frames` [1, T, F], `prompt` [1, P], `delivery` [1, W, 16] and `language` [1, W, 263] to
`probabilities` [1, A, C]. It takes one recording at a time, so that nothing is padded and nothing
masked.
"""

from __future__ import annotations

import numpy as np
import onnx

from asa_engine.features import delivery, linguistic
from asa_engine.graders.multi_aspect.config import MultiAspectConfig
from asa_engine.graders.multi_aspect.model import ROTARY_BASE
from asa_export.graph import Graph
from asa_export.onnx import LAYER_NORM_EPSILON
from asa_export.weights import Weights

__all__ = ["aspects_model", "expected_tensors"]

_INPUTS = {"delivery": len(delivery.NAMES), "language": len(linguistic.inventory())}


def aspects_model(config: MultiAspectConfig, weights: Weights) -> onnx.ModelProto:
    """Build the graph.

    Args:
        config: The grader's configuration.
        weights: Its tensors.
    """
    graph = Graph("aspects", weights)
    is_lab = config.form == "lab"
    frames = graph.input("frames", [1, "frames", config.frame_width])
    prompt = graph.input("prompt", [1, config.prompt_width])
    spoken = graph.input("delivery", [1, "words", _INPUTS["delivery"]])
    used = graph.input("language", [1, "words", _INPUTS["language"]])
    frames, spoken = _standard(graph, frames, "frame"), _standard(graph, spoken, "delivery")
    if not is_lab:
        # A copy of the prompt beside every frame.
        one = graph.constant([1], np.int64)
        steps = graph.op("Shape", frames, start=1, end=2)
        width = graph.constant([config.prompt_width], np.int64)
        shape = graph.op("Concat", one, steps, width, axis=0)
        beside = graph.op("Expand", graph.op("Unsqueeze", prompt, one), shape)
        frames = graph.op("Concat", beside, frames, axis=2)
    given = (config.content_input, *_INPUTS.values())
    pooled = [
        _encoder(graph, x, name, before, width, config)
        for x, name, before, width in zip(
            (frames, spoken, used),
            ("content", "delivery", "language"),
            given,
            config.widths,
            strict=True,
        )
    ]
    fused = graph.op("Concat", *pooled, *([prompt] if is_lab else []), axis=1)
    hidden = graph.op("Gelu", _rows(graph, fused, "projection"))
    logits = _rows(graph, hidden, "head")
    aspects, classes = len(config.aspects), len(config.classes)
    by_aspect = graph.op("Reshape", logits, graph.constant([1, aspects, classes], np.int64))
    graph.output(graph.op("Softmax", by_aspect, axis=2), "probabilities", [1, aspects, classes])
    return graph.model()


def expected_tensors(config: MultiAspectConfig) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of all tensors; a checkpoint has these and no others."""
    classes = len(config.aspects) * len(config.classes)
    shapes: dict[str, tuple[int, ...]] = {
        **_linear("projection", config.fused_width, config.projection),
        **_linear("head", config.projection, classes),
    }
    for name, width in (("frame", config.frame_width), ("delivery", _INPUTS["delivery"])):
        shapes |= {f"{name}_mean": (width,), f"{name}_scale": (width,)}
    given = (config.content_input, *_INPUTS.values())
    names = ("content", "delivery", "language")
    for name, before, width in zip(names, given, config.widths, strict=True):
        if before != width:
            shapes |= _linear(f"{name}.enter", before, width)
        shapes |= _linear(f"{name}.pool", width, 1)
        for index in range(config.layers):
            shapes |= _block_tensors(f"{name}.blocks.{index}", width, config)
    return shapes


def _block_tensors(name: str, width: int, config: MultiAspectConfig) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    inner = width * config.ffn_factor
    for part in ("query", "key", "value", "out"):
        shapes |= _linear(f"{name}.{part}", width, width)
    for part in ("fc1", "gate") if config.form == "lab" else ("fc1",):
        shapes |= _linear(f"{name}.{part}", width, inner)
    shapes |= _linear(f"{name}.fc2", inner, width)
    for norm in ("norm1", "norm2"):
        shapes |= {f"{name}.{norm}.weight": (width,), f"{name}.{norm}.bias": (width,)}
    return shapes


def _linear(name: str, given: int, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width, given), f"{name}.bias": (width,)}


def _encoder(
    graph: Graph, x: str, name: str, given: int, width: int, config: MultiAspectConfig
) -> str:
    """Encode and pool a sequence [1, T, D] into [1, D]."""
    zero = graph.constant([0], np.int64)
    rows = graph.op("Squeeze", x, zero)
    if given != width:
        rows = _rows(graph, rows, f"{name}.enter")
    rotary = config.form == "lab" and name == "content"
    for index in range(config.layers):
        rows = _block(graph, rows, f"{name}.blocks.{index}", width, config.form, rotary)
    logits = _rows(graph, rows, f"{name}.pool")
    if config.form == "lab":
        logits = graph.op("Gelu", logits)
    shares = graph.op("Softmax", graph.op("Transpose", logits, perm=[1, 0]), axis=1)
    return graph.op("MatMul", shares, rows)


def _block(graph: Graph, x: str, name: str, width: int, form: str, rotary: bool) -> str:
    """One block of one attention head on rows [T, D]."""
    if form == "lab":
        x = graph.op(
            "Add", x, _attend(graph, _norm(graph, x, f"{name}.norm1"), name, width, rotary)
        )
        normed = _norm(graph, x, f"{name}.norm2")
        gate = _rows(graph, normed, f"{name}.gate")
        gated = graph.op("Mul", gate, graph.op("Sigmoid", gate))
        inner = graph.op("Mul", gated, _rows(graph, normed, f"{name}.fc1"))
        return graph.op("Add", x, _rows(graph, inner, f"{name}.fc2"))
    x = _norm(graph, graph.op("Add", x, _attend(graph, x, name, width, rotary)), f"{name}.norm1")
    inner = graph.op("Gelu", _rows(graph, x, f"{name}.fc1"))
    return _norm(graph, graph.op("Add", x, _rows(graph, inner, f"{name}.fc2")), f"{name}.norm2")


def _attend(graph: Graph, x: str, name: str, width: int, rotary: bool) -> str:
    query, key, value = (_rows(graph, x, f"{name}.{part}") for part in ("query", "key", "value"))
    if rotary:
        query, key = _rotate(graph, query, width), _rotate(graph, key, width)
    scores = graph.op("MatMul", query, graph.op("Transpose", key, perm=[1, 0]))
    scaled = graph.op("Mul", scores, graph.constant(np.float32(width**-0.5)))
    return _rows(
        graph, graph.op("MatMul", graph.op("Softmax", scaled, axis=1), value), f"{name}.out"
    )


def _rotate(graph: Graph, x: str, width: int) -> str:
    """Turn pairs (i, i + D/2) of rows [T, D] by the row's number times their rates."""
    half = width // 2
    rates = ROTARY_BASE ** (-np.arange(half, dtype=np.float32) / np.float32(half))
    zero, one = graph.constant(0, np.int64), graph.constant(1, np.int64)
    count = graph.op("Squeeze", graph.op("Shape", x, start=0, end=1))
    steps = graph.op("Cast", graph.op("Range", zero, count, one), to=onnx.TensorProto.FLOAT)
    column = graph.op("Unsqueeze", steps, graph.constant([1], np.int64))
    angles = graph.op("Mul", column, graph.constant(rates))
    cos, sin = graph.op("Cos", angles), graph.op("Sin", angles)
    sizes = graph.constant([half, half, width - 2 * half][: 3 if width % 2 else 2], np.int64)
    a, b, *rest = graph.ops("Split", x, sizes, outputs=3 if width % 2 else 2, axis=1)
    first = graph.op("Sub", graph.op("Mul", a, cos), graph.op("Mul", b, sin))
    second = graph.op("Add", graph.op("Mul", a, sin), graph.op("Mul", b, cos))
    return graph.op("Concat", first, second, *rest, axis=1)


def _standard(graph: Graph, x: str, name: str) -> str:
    centred = graph.op("Sub", x, graph.weight(f"{name}_mean"))
    return graph.op("Mul", centred, graph.weight(f"{name}_scale"))


def _rows(graph: Graph, x: str, name: str) -> str:
    """Apply a linear layer to rows [T, K]."""
    return graph.op(
        "Gemm", x, graph.weight(f"{name}.weight"), graph.weight(f"{name}.bias"), transB=1
    )


def _norm(graph: Graph, x: str, name: str) -> str:
    scale, shift = graph.weight(f"{name}.weight"), graph.weight(f"{name}.bias")
    return graph.op("LayerNormalization", x, scale, shift, axis=-1, epsilon=LAYER_NORM_EPSILON)
