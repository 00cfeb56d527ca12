"""A small builder of ONNX graphs whose weights stay in the checkpoint.

Initializers of the float32 graph hold no bytes of their own: they are ONNX external data that
point into `weights.safetensors`, which lies beside the graph in every bundle.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from asa_export.weights import Weights

__all__ = ["OPSET", "Graph"]

OPSET = 20
"""First opset with a fused exact Gelu; LayerNormalization is fused since 17."""
IR_VERSION = 9
MICROSOFT = "com.microsoft"
_ONNX_TYPES = {"F16": TensorProto.FLOAT16, "F32": TensorProto.FLOAT}

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
        self._initializers: dict[str, TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._floats: dict[str, str] = {}

    def input(self, name: str, shape: Shape) -> str:
        """Declare a float32 input."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
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

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Store a constant inside the graph; equal ones are stored once."""
        array = np.ascontiguousarray(value, dtype=dtype).reshape(np.shape(value))
        stored = numpy_helper.from_array(array)
        for name, known in self._initializers.items():
            if (
                known.raw_data == stored.raw_data
                and (known.dims, known.data_type)
                == (
                    stored.dims,
                    stored.data_type,
                )
                and known.data_location != TensorProto.EXTERNAL
            ):
                return name
        stored.name = f"constant_{len(self._initializers)}"
        self._initializers[stored.name] = stored
        return stored.name

    def weight(self, name: str, rows: int | None = None) -> str:
        """Return a checkpoint tensor as float32, without a copy of its bytes.

        Args:
            name: Name in the checkpoint.
            rows: Only so many leading rows.
        """
        if name in self._floats:
            return self._floats[name]
        entry = self.weights.entry(name)
        shape = entry.shape if rows is None else (rows, *entry.shape[1:])
        tensor = TensorProto(name=name, data_type=_ONNX_TYPES[entry.dtype], dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        size = entry.size_bytes * (shape[0] if shape else 1) // (entry.shape[0] if shape else 1)
        for key, value in (
            ("location", self.weights.path.name),
            ("offset", entry.offset),
            ("length", size),
        ):
            tensor.external_data.add(key=key, value=str(value))
        self._initializers[name] = tensor
        value = name
        if entry.dtype != "F32":
            # Folded to float32 by the runtime when it loads the graph.
            value = self.op("Cast", name, to=TensorProto.FLOAT)
        self._floats[name] = value
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
            initializer=list(self._initializers.values()),
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="asa_export"
        )
