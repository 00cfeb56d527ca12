"""A language model as the project's kernels take it: `asa_engine.language_model.native`.

int8: weights in steps of 8 bits, of which 128 inputs of an output share one. Activations are
quantised by the kernels, 128 of a row at a time, with a scale and a zero of their own. With
calibration, channels are evened out and weights rounded so that outputs on calibration sequences
stay, as for ONNX (`asa_export.language_model_quantize`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asa_engine.language_model.native import CLOSING_NORM, GROUP, ROTARY, STATED
from asa_export.language_model import rotary_tables
from asa_export.language_model_config import DecoderConfig
from asa_export.language_model_quantize import Int8Decoder
from asa_export.quantize import INT8_MAX, Calibration, round_with_moment
from asa_export.weights import TensorSource

__all__ = ["rotary", "round_in_groups", "rounded_tensors", "stated"]

# Layers that share an input.
_TOGETHER = (
    tuple(f"self_attn.{part}_proj" for part in "qkv"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)


def stated(config: DecoderConfig) -> dict[str, str]:
    """Return the metadata of a file."""
    values = (config.layers, config.heads, config.kv_heads, config.norm_epsilon)
    return {name: str(value) for name, value in zip(STATED, values, strict=True)}


def rotary(config: DecoderConfig, positions: int) -> dict[str, Tensor]:
    """Return cosines and sines, float32 [positions, rotated / 2] each."""
    tables = rotary_tables(config, positions)
    return {name: torch.from_numpy(table) for name, table in zip(ROTARY, tables, strict=True)}


def rounded_tensors(
    config: DecoderConfig, weights: TensorSource, calibration: Calibration, *, positions: int
) -> dict[str, Tensor]:
    """Return the tensors of a file at int8.

    Args:
        config: The model's shape.
        weights: Its tensors, adapters merged.
        calibration: What `calibrate_decoder` returned; weights are simply rounded where it is
            empty.
        positions: Positions that the rotary tables cover.
    """
    smooth = Int8Decoder(weights, calibration)
    tensors = rotary(config, positions)
    tensors[CLOSING_NORM] = torch.from_numpy(weights.array(CLOSING_NORM))
    for layer in range(config.layers):
        prefix = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            name = f"{prefix}.{norm}.weight"
            values = weights.array(name) / smooth.scales(name)[0]
            tensors[name] = torch.from_numpy(values.astype(np.float32))
        for linears in _TOGETHER:
            names = [f"{prefix}.{linear}" for linear in linears]
            tensors |= dict(_round(names, weights, smooth, calibration))
    return tensors


def _round(
    names: list[str], weights: TensorSource, smooth: Int8Decoder, calibration: Calibration
) -> Iterator[tuple[str, Tensor]]:
    """Yield steps, scales and biases of layers that share an input."""
    matrices = []
    for name in names:
        outputs, inputs = smooth.scales(f"{name}.weight")
        matrices.append(weights.array(f"{name}.weight").T / outputs * inputs[:, None])
    stacked = np.concatenate(matrices, axis=1)
    moment = None
    if names[0] in calibration:
        divisors = smooth.scales(f"{names[0]}.weight")[1]
        moment = calibration[names[0]].moment / np.outer(divisors, divisors)
    steps, scale = round_in_groups(stacked, moment)
    ends = np.cumsum([matrix.shape[1] for matrix in matrices])[:-1]
    parts = zip(np.split(steps, ends, axis=1), np.split(scale, ends, axis=1), strict=True)
    present = set(weights.names())
    for name, (own, own_scale) in zip(names, parts, strict=True):
        yield f"{name}.weight", torch.from_numpy(np.ascontiguousarray(own.T))
        yield f"{name}.scale", torch.from_numpy(np.ascontiguousarray(own_scale.T))
        if f"{name}.bias" in present:
            yield f"{name}.bias", torch.from_numpy(weights.array(f"{name}.bias"))


def round_in_groups(
    weight: NDArray[np.float64], moment: NDArray[np.float64] | None
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round a weight matrix, 128 inputs of an output sharing a scale.

    Args:
        weight: float64 [K, N].
        moment: Sum of x x^T over calibration rows, float64 [K, K]; without it every weight is
            rounded to its nearest step.

    Returns:
        int8 [K, N], and float32 [ceil(K / 128), N].
    """
    inputs = len(weight)
    starts = range(0, inputs, GROUP)
    largest = np.stack([np.abs(weight[start : start + GROUP]).max(axis=0) for start in starts])
    scale = np.maximum(largest / INT8_MAX, np.finfo(np.float32).tiny).astype(np.float32)
    step = np.repeat(scale.astype(np.float64), GROUP, axis=0)[:inputs]
    if moment is None:
        return np.round(weight / step).astype(np.int8), scale
    limit = np.full((1, 1), INT8_MAX, dtype=np.float64)
    return round_with_moment(weight, moment, step, low=-limit, high=limit).astype(np.int8), scale
