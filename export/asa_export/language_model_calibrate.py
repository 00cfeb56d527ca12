"""What a language model's linear layers see on calibration sequences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asa_engine.language_model.decoder import LONG
from asa_export.exporter import LOG
from asa_export.language_model import FloatDecoder, decoder_model
from asa_export.language_model_config import DecoderConfig
from asa_export.quantize import Calibration, LinearInputs, Probe, add_inputs, probing_session
from asa_export.weights import Weights

__all__ = ["calibrate_decoder"]


class _Probe(Probe, FloatDecoder):
    """The decoder's float32 layers, probed."""


def calibrate_decoder(
    config: DecoderConfig,
    weights: Weights,
    state: NDArray[np.float32],
    sequences: Iterable[NDArray[np.float32]],
) -> Calibration:
    """Run the float32 decoder on sequences behind a common beginning.

    The beginning itself is not counted: it is run at float32 in every variant.

    Args:
        config: The decoder's shape.
        weights: Its tensors, in a folder that may be written to.
        state: Keys and values of the beginning, float32 [2, layers, kv_heads, P, head_width].
        sequences: What follows it, float32 [n, W] each.

    Returns:
        Name of a linear layer (the first of those that share an input) -> its inputs.
    """
    probe = _Probe()
    rows = list(sequences)
    LOG.info("calibrate the language model on %d sequences", len(rows))
    beginning = state.shape[3]
    positions = beginning + max((len(item) for item in rows), default=0)
    graph = decoder_model(config, weights, probe, positions=positions)
    session = probing_session(graph, weights)
    seen: dict[str, LinearInputs] = {}
    for item in rows:
        total = beginning + len(item)
        feed: dict[str, Any] = {
            "embeddings": item[np.newaxis],
            "last": np.array([total - 1], np.int32),
            "total": np.array(total, np.int32),
        }
        if config.long_positions and positions > config.positions:
            feed[LONG] = np.array(total > config.positions)
        for part, of_layers in zip(("key", "value"), state, strict=True):
            for layer, values in enumerate(of_layers):
                room = np.zeros((1, config.kv_heads, total, config.head_width), np.float32)
                room[0, :, :beginning] = values
                feed[f"{part}_{layer}"] = room
        outputs = session.run(probe.names, feed)
        add_inputs(seen, probe.names, outputs)
    return seen
