"""The acoustic grader as typed graphs: the types of the values say the precision.

TensorRT builds strongly typed networks, and ONNX Runtime on a GPU has no other way: what is to run
at half precision is cast there in the graph, what is to run in int8 stands between
QuantizeLinear and DequantizeLinear. Only products are: those of the linear layers and the two of
attention. Between them all is float32: the residual sums, LayerNorm (a single operator, never
squares of half precision), softmax, GELU, pooling, prior and head.

Only operators of plain ONNX are used. `on_cpu` gives a graph the form that ONNX Runtime runs on
the CPU, of the same values up to the order of sums, so that drift is known without a GPU.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from asa_engine.bundle import WEIGHTS_NAME, Bundle
from asa_engine.graders.acoustic.backends.base import Backend, Encoded, HeadOutput
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.runtimes.onnxruntime import OnnxRuntime, session
from asa_export.graph import Graph
from asa_export.onnx import CONV_WIDTH, FloatLinears, Linears, grader_model, has_bias
from asa_export.quantize import INT8_MAX, Calibration, Int8Linears
from asa_export.weights import Weights

__all__ = ["TYPED", "HalfLinears", "OnCpu", "QdqLinears", "on_cpu", "typed_model"]

_TYPES: Final[Mapping[str, int]] = {
    "fp32": TensorProto.FLOAT,
    "fp16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
}
TYPED: Final = (*_TYPES, "int8")
"""Precisions that a typed graph can have."""
_PRODUCTS: Final = ("Gemm", "MatMul", "GroupQueryAttention")
_OUT_OF_INT8: Final = (".fc2", ".conv1", ".conv2")
"""Layers whose inputs have ranges too wide for one scale: they would double the drift."""
_BETWEEN_INT8: Final = "fp16"
"""What attention, and layers that stay out of int8, run at in the int8 graph."""


def typed_model(
    config: AcousticConfig,
    weights: Weights,
    precision: str,
    calibration: Calibration | None = None,
) -> onnx.ModelProto:
    """Build `asa_export.onnx.grader_model` with products of a precision.

    Args:
        config: The grader's configuration.
        weights: Its tensors.
        precision: One of `TYPED`.
        calibration: What `asa_export.quantize.calibrate` returned; for int8 only.
    """
    linears: Linears
    if precision == "int8":
        if calibration is None:
            raise ValueError("int8 needs a calibration")
        linears = QdqLinears(config, weights, calibration)
    else:
        linears = HalfLinears(precision)
    return grader_model(config, weights, linears)


class HalfLinears(FloatLinears):
    """Products of values cast to one type, everything else in float32.

    Args:
        precision: "fp32", "fp16" or "bf16".
    """

    def __init__(self, precision: str) -> None:
        self._type = _TYPES[precision]

    def apply(self, graph: Graph, x: str, names: tuple[str, ...]) -> list[str]:
        """Cast the rows once; multiply by each weight; add the bias in float32."""
        rows = self._narrow(graph, x)
        return [self._product(graph, rows, name) for name in names]

    def attention(self, graph: Graph, parts: list[str], heads: int, shape: str, width: int) -> str:
        """Scores, softmax and mix as operators of their own."""
        head_width = width // heads
        sizes = graph.constant([heads, head_width], np.int64)
        batch_and_time = graph.op("Slice", shape, *_span(graph, 0, 2))
        by_head = graph.op("Concat", batch_and_time, sizes, axis=0)
        q, k, v = (graph.op("Reshape", part, by_head) for part in parts)
        # Scaled in float32, before the cast, so that no score overflows half precision.
        q = graph.op("Mul", q, graph.constant(np.float32(1 / math.sqrt(head_width))))
        q, k, v = (self._narrow(graph, part) for part in (q, k, v))
        q = graph.op("Transpose", q, perm=[0, 2, 1, 3])
        k = graph.op("Transpose", k, perm=[0, 2, 3, 1])
        v = graph.op("Transpose", v, perm=[0, 2, 1, 3])
        scores = self._widen(graph, graph.op("MatMul", q, k))
        shares = self._narrow(graph, graph.op("Softmax", scores, axis=-1))
        mixed = graph.op("Transpose", graph.op("MatMul", shares, v), perm=[0, 2, 1, 3])
        return self._widen(graph, graph.op("Reshape", mixed, shape))

    def _product(self, graph: Graph, rows: str, name: str) -> str:
        weight = graph.typed_weight(f"{name}.weight", self._type)
        shape = graph.weights.shape(f"{name}.weight")
        if len(shape) == CONV_WIDTH:
            taps_last = graph.op("Transpose", weight, perm=[0, 2, 1])
            flat = graph.constant([shape[0], shape[1] * shape[2]], np.int64)
            weight = graph.op("Reshape", taps_last, flat)
        y = self._widen(graph, graph.op("Gemm", rows, weight, transB=1))
        if not has_bias(graph.weights, name):
            return y
        return graph.op("Add", y, graph.weight(f"{name}.bias"))

    def _narrow(self, graph: Graph, x: str) -> str:
        return x if self._type == TensorProto.FLOAT else graph.op("Cast", x, to=self._type)

    def _widen(self, graph: Graph, x: str) -> str:
        return x if self._type == TensorProto.FLOAT else graph.op("Cast", x, to=TensorProto.FLOAT)


class QdqLinears(Int8Linears):
    """Linear layers between Q and DQ, as TensorRT wants them: symmetric, one scale an input.

    Weights are equalised and rounded as `Int8Linears` does it. Scales of inputs are those of
    calibration's largest magnitude: a GPU finds no ranges while it runs.

    Args:
        config: The grader's configuration.
        weights: Its tensors.
        calibration: What `asa_export.quantize.calibrate` returned.
    """

    def __init__(self, config: AcousticConfig, weights: Weights, calibration: Calibration) -> None:
        super().__init__(config, weights, calibration)
        self._half = HalfLinears(_BETWEEN_INT8)

    def attention(self, graph: Graph, parts: list[str], heads: int, shape: str, width: int) -> str:
        """At half precision."""
        return self._half.attention(graph, parts, heads, shape, width)

    def apply(self, graph: Graph, x: str, names: tuple[str, ...]) -> list[str]:
        """Round the rows once; one product of rounded values for each layer."""
        if names[0].endswith(_OUT_OF_INT8):
            return self._half.apply(graph, x, names)
        matrices, rounded, scales = self.rounded(names)
        row = self._round_rows(graph, x, names[0])
        results, start = [], 0
        for name, matrix in zip(names, matrices, strict=True):
            part = slice(start, start := start + matrix.shape[1])
            weight = graph.op(
                "DequantizeLinear",
                graph.constant(rounded[:, part], np.int8),
                graph.constant(scales[part]),
                axis=1,
            )
            y = graph.op("MatMul", row, weight)
            bias = self._bias(name)
            results.append(y if bias is None else graph.op("Add", y, graph.constant(bias)))
        return results

    def _round_rows(self, graph: Graph, x: str, name: str) -> str:
        largest = self._calibration[name].largest.astype(np.float64)
        if (divisors := self._input_divisors.get(name)) is not None:
            largest = largest / divisors
        scale = graph.constant(np.float32(largest.max() / INT8_MAX))
        zero = graph.constant(0, np.int8)
        rounded = graph.op("QuantizeLinear", x, scale, zero)
        return graph.op("DequantizeLinear", rounded, scale, zero)


def _span(graph: Graph, start: int, stop: int) -> tuple[str, str]:
    return graph.constant([start], np.int64), graph.constant([stop], np.int64)


def on_cpu(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with its half-precision products computed as a GPU's matrix units do.

    Products are Gemm, MatMul and the attention of a language model.

    They multiply rounded inputs, add in float32 and round the result. ONNX Runtime's CPU provider
    has no such products: the inputs are widened, the result is narrowed again, in the graph.
    """
    converted = onnx.ModelProto()
    converted.CopyFrom(model)
    types = {
        **{tensor.name: tensor.data_type for tensor in converted.graph.initializer},
        **{item.name: item.type.tensor_type.elem_type for item in converted.graph.input},
    }
    nodes: list[onnx.NodeProto] = []
    for node in converted.graph.node:
        kind = types.get(node.input[0], 0) if node.input else 0
        if node.op_type == "Cast":
            kind = helper.get_node_attr_value(node, "to")
        elif node.op_type == "DequantizeLinear":
            kind = TensorProto.FLOAT
        types.update(dict.fromkeys(node.output, kind))
        if node.op_type not in _PRODUCTS or kind not in (_TYPES["fp16"], _TYPES["bf16"]):
            nodes.append(node)
            continue
        product = onnx.NodeProto()
        product.CopyFrom(node)
        for index, name in enumerate(node.input):
            if types.get(name) == kind:
                product.input[index] = f"{name}_wide_for_{node.name}"
                cast = helper.make_node("Cast", [name], [product.input[index]], to=_TYPES["fp32"])
                nodes.append(cast)
        nodes.append(product)
        for index, name in enumerate(node.output):
            product.output[index] = f"{name}_wide"
            nodes.append(helper.make_node("Cast", [f"{name}_wide"], [name], to=kind))
    del converted.graph.node[:]
    converted.graph.node.extend(nodes)
    return converted


class OnCpu(Backend):
    """A bundle's typed graph on ONNX Runtime's CPU provider, to compare scores with.

    Args:
        bundle: Holds the graph and the weights it points to.
        backend: Whose graph.
        precision: Which one.
    """

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, backend: str, precision: str) -> None:
        self.precision = precision
        self.threads = 1
        model = onnx.load(bundle.file("grader", backend, precision), load_external_data=False)
        with tempfile.TemporaryDirectory() as work:
            # The graph points to weights beside it, and a link would lead out of the folder.
            shutil.copyfile(bundle.path / WEIGHTS_NAME, Path(work) / WEIGHTS_NAME)
            path = Path(work) / "grader.onnx"
            onnx.save(on_cpu(model), path)
            self._grader = session(path, 1)
        self._sums = np.zeros((1, _width(model, "sums")), np.float32)
        self._head = session(bundle.file("head", backend, precision), 1)

    def versions(self) -> dict[str, str]:
        """As ONNX Runtime's."""
        versions = OnnxRuntime.availability().versions
        return {**versions, "provider": "CPU, in the place of a GPU"}

    @classmethod
    def open(cls, bundle: Bundle, *, precision: str, threads: int) -> Self:
        """Open the graph that is TensorRT's."""
        return cls(bundle, "tensorrt", precision)

    def encode(self, mel: NDArray[np.float32], *, frames: bool = False) -> Encoded:
        """Encode one window."""
        inputs = {"mel": mel[np.newaxis], "sums": self._sums}
        stats, found = self._grader.run(["stats", "frames"], inputs)
        return Encoded(stats[0], found[0] if frames else None)

    def head(self, stats: NDArray[np.float32]) -> HeadOutput:
        """Run the head on one recording's statistics."""
        scores, prior = self._head.run(["scores", "prior"], {"stats": stats[np.newaxis]})
        return HeadOutput(scores[0], prior[0])


def _width(model: onnx.ModelProto, name: str) -> int:
    (found,) = (item for item in model.graph.input if item.name == name)
    return int(found.type.tensor_type.shape.dim[1].dim_value)
