"""A small builder of ONNX graphs whose weights stay in the checkpoint.

Initializers of the float32 graph hold no bytes of their own: they are ONNX external data that
point into `weights.safetensors`, which lies beside the graph in every bundle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from asa_export.external import ExternalData
from asa_export.weights import TensorSource

__all__ = ["MICROSOFT", "OPSET", "Graph", "Shape"]

OPSET = 20
"""First opset with a fused exact Gelu; LayerNormalization is fused since 17."""
IR_VERSION = 9
MICROSOFT = "com.microsoft"
_INT8_ACTIVATIONS = 4  # MatMulNBits' name for it; sums are in int32
_MIDDLE = 128  # of uint8
_ONNX_TYPES = {
    "F16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "F32": TensorProto.FLOAT,
}

Shape = Sequence[int | str]


class Graph:
    """One graph under construction; every method adds nodes and returns value names.

    Args:
        name: Name of the graph.
        weights: The checkpoint's tensors.
        external: Where large constants go; without it they stand in the graph.
    """

    def __init__(
        self, name: str, weights: TensorSource, external: ExternalData | None = None
    ) -> None:
        self.name = name
        self.weights = weights
        self._external = external
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._stored: set[str] = set()
        self._weights: dict[tuple[str, int], str] = {}

    def input(self, name: str, shape: Shape, kind: int = TensorProto.FLOAT) -> str:
        """Declare an input, float32 by default."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, value: str, name: str, shape: Shape) -> None:
        """Declare `value` to be the float32 output `name`."""
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        self._nodes.append(helper.make_node("Identity", [value], [name], name=name))

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output."""
        return self.ops(kind, *inputs, outputs=1, domain=domain, **attributes)[0]

    def ops(
        self, kind: str, *inputs: str, outputs: int, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Add a node with several outputs."""
        node = f"{kind}_{len(self._nodes)}"
        names = [node if outputs == 1 else f"{node}_{i}" for i in range(outputs)]
        self._nodes.append(
            helper.make_node(kind, inputs, names, name=node, domain=domain, **attributes)
        )
        return names

    def product_in_blocks(
        self,
        x: str,
        steps: Any,
        scale: Any,
        zero: Any = None,
        *,
        shape: tuple[int, ...],
        bits: int,
        size: int,
    ) -> str:
        """Add x W^T (MatMulNBits); the rows of x are rounded to int8 as it runs.

        Args:
            x: [..., K].
            steps: W in unsigned steps, as the operator stores them.
            scale: One for each block.
            zero: Zero points; without them they are in the middle.
            shape: Of W, (N, K).
            bits: Of a step.
            size: Inputs of a block.
        """
        inputs = [x, self.constant(steps, np.uint8), self.constant(scale)]
        if zero is not None:
            inputs.append(self.constant(zero, np.uint8))
        return self.op(
            "MatMulNBits",
            *inputs,
            domain=MICROSOFT,
            N=shape[0],
            K=shape[1],
            bits=bits,
            block_size=size,
            accuracy_level=_INT8_ACTIVATIONS,
        )

    def integer_product(
        self,
        rows: Sequence[str],
        steps: NDArray[np.int8],
        scale: NDArray[np.float32],
        bias: NDArray[np.floating] | None = None,
    ) -> str:
        """Add a product of rounded rows with rounded weights, as float32 (MatMulIntegerToFloat).

        The weights stand as uint8 around 128. Where a CPU has no VNNI, ONNX Runtime adds pairs of
        uint8 x int8 products in 16 bits, which saturate; of uint8 x uint8 it adds them in 32.

        Args:
            rows: Rows in uint8 [..., K], their scale and their zero point.
            steps: The weights, [K, N].
            scale: Of each output, [N].
            bias: Added to each output, [N].
        """
        row, row_scale, row_zero = rows
        return self.op(
            "MatMulIntegerToFloat",
            row,
            self.constant(steps.astype(np.int16) + _MIDDLE, np.uint8),
            row_scale,
            self.constant(scale),
            row_zero,
            self.constant(np.full(len(scale), _MIDDLE), np.uint8),
            *(() if bias is None else (self.constant(bias),)),
            domain=MICROSOFT,
        )

    def stateful(
        self,
        operator: str,
        *inputs: str,
        states: Mapping[str, Shape],
        kind: int = TensorProto.FLOAT,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Add a node whose first output is a value and whose others are outputs of the graph.

        Nothing stands between the node and the outputs, so that they can be written in place.

        Args:
            operator: The operator.
            inputs: Its inputs.
            states: Name and shape of each output after the first.
            kind: Type of those outputs.
            domain: The operator's domain.
            attributes: Its attributes.
        """
        node = f"{operator}_{len(self._nodes)}"
        names = [node, *states]
        self._nodes.append(
            helper.make_node(operator, inputs, names, name=node, domain=domain, **attributes)
        )
        for name, shape in states.items():
            self._outputs.append(helper.make_tensor_value_info(name, kind, shape))
        return node

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Store a constant in the graph, or beside it; equal ones are stored once."""
        array = np.asarray(value, dtype=dtype, order="C")
        if self._external is not None and self._external.takes(array):
            tensor = self._external.add(array)
            if tensor.name not in self._stored:
                self._stored.add(tensor.name)
                self._initializers.append(tensor)
            return tensor.name
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self._constants[key] = f"constant_{len(self._constants)}"
            self._initializers.append(numpy_helper.from_array(array, name))
        return self._constants[key]

    def weight(self, name: str, rows: int | None = None) -> str:
        """Return a checkpoint tensor as float32, without a copy of its bytes.

        Args:
            name: Name in the checkpoint.
            rows: Only so many leading rows.
        """
        return self.typed_weight(name, TensorProto.FLOAT, rows)

    def typed_weight(self, name: str, kind: int, rows: int | None = None) -> str:
        """Return a checkpoint tensor as a floating-point type of ONNX; as `weight` otherwise."""
        if (name, kind) in self._weights:
            return self._weights[name, kind]
        place = self.weights.place(name)
        stored = _ONNX_TYPES[place.dtype]
        if name not in self._stored:
            shape, size = place.shape, place.size_bytes
            if rows is not None:
                size, shape = size // shape[0] * rows, (rows, *shape[1:])
            tensor = TensorProto(name=name, data_type=stored, dims=shape)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (
                ("location", self.weights.path.name),
                ("offset", place.offset),
                ("length", size),
            ):
                tensor.external_data.add(key=key, value=str(value))
            self._initializers.append(tensor)
            self._stored.add(name)
        # A Cast is folded by the runtime when it loads the graph.
        value = name if stored == kind else self.op("Cast", name, to=kind)
        self._weights[name, kind] = value
        return value

    def array(self, name: str) -> NDArray[np.float32]:
        """Return a checkpoint tensor's values as float32."""
        return self.weights.array(name)

    def model(self) -> onnx.ModelProto:
        """Return the finished, checked model."""
        graph = helper.make_graph(
            self._nodes,
            self.name,
            self._inputs,
            self._outputs,
            initializer=self._initializers,
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="asa_export"
        )
