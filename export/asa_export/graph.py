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

from asa_export.weights import Weights

__all__ = ["MICROSOFT", "OPSET", "Graph", "Shape"]

OPSET = 20
"""First opset with a fused exact Gelu; LayerNormalization is fused since 17."""
IR_VERSION = 9
MICROSOFT = "com.microsoft"
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
    """

    def __init__(self, name: str, weights: Weights) -> None:
        self.name = name
        self.weights = weights
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
        """Store a constant inside the graph; equal ones are stored once."""
        array = np.array(value, dtype=dtype, order="C")
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
