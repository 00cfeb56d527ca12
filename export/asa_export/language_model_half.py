"""A language model's linear layers and attention in half precision, for a GPU.

What is multiplied is cast there in the graph, keys and values are kept so; the residual sum,
norms, SwiGLU and rotary angles' tables up to their last cast are float32. bfloat16 is the one to
take: a language model's first positions have activations that float16 may not hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import onnx
from onnx import TensorProto

from asa_export.graph import Graph
from asa_export.language_model import FloatDecoder
from asa_export.typed import on_cpu

__all__ = ["HALVES", "HalfDecoder", "form_for_cpu"]

HALVES: Final = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
"""Precision -> type, as ONNX numbers it."""


@contextmanager
def form_for_cpu(graph: Path) -> Iterator[Path]:
    """Write a graph of half precision as the CPU runs it, beside its weights, inside the block."""
    here = graph.with_name(f"cpu.{graph.name}")
    try:
        onnx.save(on_cpu(onnx.load(graph, load_external_data=False)), here)
        yield here
    finally:
        here.unlink(missing_ok=True)


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
