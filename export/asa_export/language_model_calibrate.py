"""What a language model's linear layers see on calibration sequences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from asa_export.graph import Graph
from asa_export.language_model import FloatDecoder, decoder_model
from asa_export.language_model_config import DecoderConfig
from asa_export.quantize import Calibration, LinearInputs
from asa_export.weights import Weights

__all__ = ["calibrate_decoder"]

_PROBE_NAME = "calibration.onnx"


class _Probe(FloatDecoder):
    """float32 layers whose inputs are outputs of the graph."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def apply(self, graph: Graph, x: str, names: tuple[str, ...]) -> list[str]:
        self.names.append(names[0])
        graph.output(x, names[0], ["rows", "channels"])
        return super().apply(graph, x, names)


def calibrate_decoder(
    config: DecoderConfig,
    weights: Weights,
    state: NDArray[np.float32],
    sequences: Iterable[NDArray[np.float32]],
) -> Calibration:
    """Run the float32 decoder on sequences behind a common beginning.

    The beginning itself is not counted: it is run at float32 in every variant. The probing graph
    is written beside the weights for as long as it is needed.

    Args:
        config: The decoder's shape.
        weights: Its tensors, in a folder that may be written to.
        state: Keys and values of the beginning, float32 [2, layers, kv_heads, P, head_width].
        sequences: What follows it, float32 [n, W] each.

    Returns:
        Name of a linear layer (the first of those that share an input) -> its inputs.
    """
    import onnxruntime as ort

    probe = _Probe()
    path = weights.path.with_name(_PROBE_NAME)
    rows = list(sequences)
    beginning = state.shape[3]
    positions = beginning + max((len(item) for item in rows), default=0)
    try:
        onnx.save(decoder_model(config, weights, probe, positions=positions), path)
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    finally:
        path.unlink(missing_ok=True)
    found: dict[str, LinearInputs] = {}
    for item in rows:
        total = beginning + len(item)
        feed: dict[str, Any] = {
            "embeddings": item[np.newaxis],
            "last": np.array([total - 1], np.int32),
            "total": np.array(total, np.int32),
        }
        for part, of_layers in zip(("key", "value"), state, strict=True):
            for layer, values in enumerate(of_layers):
                room = np.zeros((1, config.kv_heads, total, config.head_width), np.float32)
                room[0, :, :beginning] = values
                feed[f"{part}_{layer}"] = room
        outputs = session.run(probe.names, feed)
        for name, x in zip(probe.names, outputs, strict=True):
            largest, moment = np.abs(x).max(axis=0), (x.T @ x).astype(np.float64)
            if name in found:
                largest = np.maximum(largest, found[name].largest)
                moment += found[name].moment
            found[name] = LinearInputs(largest, moment)
    return found
