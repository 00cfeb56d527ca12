"""A language model's linear layers and attention in half precision, for a GPU.

What is multiplied is cast there in the graph, keys and values are kept so; the residual sum,
norms, SwiGLU and rotary angles' tables up to their last cast are float32. bfloat16 is the one to
take: a language model's first positions have activations that float16 may not hold.
"""

from __future__ import annotations

from typing import Final

from onnx import TensorProto

from asa_export.graph import Graph
from asa_export.language_model import FloatDecoder

__all__ = ["HALVES", "HalfDecoder"]

HALVES: Final = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
"""Precision -> type, as ONNX numbers it."""


class HalfDecoder(FloatDecoder):
    """See the module docstring.

    Args:
        precision: Key of `HALVES`.
    """

    def __init__(self, precision: str) -> None:
        self.kept = HALVES[precision]

    def apply(self, graph: Graph, x: str, names: tuple[str, ...]) -> list[str]:
        """Cast the rows once; one product for each layer, its bias added in float32."""
        rows = graph.op("Cast", x, to=self.kept)
        return [self._product(graph, rows, name) for name in names]

    def _product(self, graph: Graph, rows: str, name: str) -> str:
        weight = graph.typed_weight(f"{name}.weight", self.kept)
        y = graph.op("Gemm", rows, weight, transB=1)
        y = graph.op("Cast", y, to=TensorProto.FLOAT)
        bias = f"{name}.bias"
        if bias not in graph.weights.names():
            return y
        return graph.op("Add", y, graph.weight(bias))
