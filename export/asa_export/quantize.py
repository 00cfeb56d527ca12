"""int8 linear layers that hold the scores.

Plain dynamic quantisation moves the encoder's frames by several percent, for two reasons, each
with its own cure:

- a few input channels are far larger than the rest and set the range of all. Every input whose
  scale can be folded into the operation before it (a LayerNorm, or the value projection) is
  equalised: x_k / s_k, s_k w_k with s_k = max|x_k|^a / max|w_k|^(1 - a) (SmoothQuant, Xiao et al.
  2022, equation 4; a = 0.6);
- rounding each weight to the nearest step ignores that inputs are correlated. The weights are
  rounded one input channel after another, each error being spread over the channels still to
  come so that the outputs stay (GPTQ, Frantar et al. 2022, algorithm 1).

Weights are int8 with one scale an output channel; activations uint8 with one range a call, found
while it runs, so one window is one call and no window depends on another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from asa_engine.graders.acoustic.config import AcousticConfig
from asa_export.graph import Graph
from asa_export.onnx import (
    LAYER_NORM_EPSILON,
    FloatLinears,
    FusedAttention,
    encoder_model,
    has_bias,
)
from asa_export.weights import Weights

__all__ = [
    "Calibration",
    "Int8Linears",
    "LinearInputs",
    "Probe",
    "add_inputs",
    "calibrate",
    "probing_session",
    "round_to_int8",
    "round_with_moment",
]

SMOOTHING = 0.6
DAMPING = 0.01
ROW_STEP = 4
"""Neighbouring frames are alike: every fourth tells as much of the second moment."""
INT8_MAX = 127
_BLOCK = 32
"""Inputs whose errors are carried on one by one: what they touch stays in the cache."""
_PROBE_NAME = "calibration.onnx"
_TINY = 1e-5


@dataclass(frozen=True, slots=True)
class LinearInputs:
    """What calibration saw at the input of one linear layer.

    Attributes:
        largest: Largest magnitude of each channel, float32 [K].
        moment: Sum of x x^T over every `ROW_STEP`th row, float64 [K, K].
    """

    largest: NDArray[np.float32]
    moment: NDArray[np.float64]


Calibration = Mapping[str, LinearInputs]
"""Name of a linear layer (the first of those that share an input) -> its inputs."""


class Probe:
    """Makes the inputs of a graph's linear layers its outputs; in front of what computes them.

    Attributes:
        names: The layers, the first of those that share an input, in the order of the outputs.
    """

    def __init__(self) -> None:
        self.names: list[str] = []

    def apply(self, graph: Graph, x: str, names: tuple[str, ...]) -> list[str]:
        """Let the input out, then apply the layers."""
        self.names.append(names[0])
        graph.output(x, names[0], ["rows", "channels"])
        results: list[str] = super().apply(graph, x, names)  # type: ignore[misc]
        return results


def probing_session(graph: onnx.ModelProto, weights: Weights) -> Any:
    """Open a graph that reads weights; it is written beside them for as long as that takes."""
    import onnxruntime as ort

    path = weights.path.with_name(_PROBE_NAME)
    try:
        onnx.save(graph, path)
        return ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    finally:
        path.unlink(missing_ok=True)


def add_inputs(
    seen: dict[str, LinearInputs],
    names: Iterable[str],
    inputs: Iterable[NDArray[np.float32]],
    step: int = 1,
) -> None:
    """Add what linear layers were given to what they were given before.

    Args:
        seen: Name of a layer -> its inputs so far; changed in place.
        names: The layers.
        inputs: The input of each, float32 [T, K].
        step: Every how many rows count in the second moment.
    """
    for name, x in zip(names, inputs, strict=True):
        rows = x[::step]
        largest, moment = np.abs(x).max(axis=0), (rows.T @ rows).astype(np.float64)
        if name in seen:
            largest = np.maximum(largest, seen[name].largest)
            moment += seen[name].moment
        seen[name] = LinearInputs(largest, moment)


class _EncoderProbe(Probe, FloatLinears):
    """The encoder's float32 layers, probed."""


def calibrate(
    config: AcousticConfig, weights: Weights, mels: Iterable[NDArray[np.float32]]
) -> Calibration:
    """Run the float32 encoder on windows and describe the inputs of its linear layers.

    Args:
        config: The grader's configuration.
        weights: Its tensors, in a folder that may be written to.
        mels: Log-mel windows, float32 [n_mels, T].
    """
    probe = _EncoderProbe()
    session = probing_session(encoder_model(config, weights, probe), weights)
    seen: dict[str, LinearInputs] = {}
    for mel in mels:
        outputs = session.run(probe.names, {"mel": mel[np.newaxis]})
        add_inputs(seen, probe.names, outputs, ROW_STEP)
    return seen


def round_to_int8(
    weight: NDArray[np.float64], moment: NDArray[np.float64]
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round a weight matrix so that its outputs change least on inputs of this second moment.

    Args:
        weight: float64 [K, N].
        moment: Sum of x x^T over calibration rows, float64 [K, K].

    Returns:
        int8 [K, N] and the scale of each column, float32 [N].
    """
    # A subnormal scale is zero where a library of the process has subnormals flushed.
    scale = np.maximum(np.abs(weight).max(axis=0) / INT8_MAX, np.finfo(np.float32).tiny)
    scale = scale.astype(np.float32).astype(np.float64)
    steps = np.broadcast_to(scale, weight.shape)
    limit = np.full((1, 1), INT8_MAX, dtype=np.float64)
    rounded = round_with_moment(weight, moment, steps, low=-limit, high=limit)
    return rounded.astype(np.int8), scale.astype(np.float32)


def round_with_moment(
    weight: NDArray[np.float64],
    moment: NDArray[np.float64],
    steps: NDArray[np.float64],
    *,
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Round a weight matrix to whole steps so that its outputs change least (GPTQ).

    Args:
        weight: float64 [K, N].
        moment: Sum of x x^T over calibration rows, float64 [K, K].
        steps: Size of the steps, float64 [K, N].
        low: Fewest steps, broadcast to [K, N].
        high: Most steps, likewise.

    Returns:
        Whole numbers of steps, float64 [K, N].
    """
    power = np.diag(moment)
    damped = moment + np.eye(len(moment)) * max(DAMPING * power.mean(), _TINY)
    # Largest channels first: their errors can still be made good by all the others.
    order = np.argsort(-power, kind="stable")
    rest, steps = weight[order].copy(), steps[order]
    low, high = (np.broadcast_to(x, weight.shape)[order] for x in (low, high))
    factor = _factor_of_inverse(damped[np.ix_(order, order)])
    rounded = np.empty_like(rest)
    for start in range(0, len(rest), _BLOCK):
        stop = min(start + _BLOCK, len(rest))
        errors = np.empty((stop - start, rest.shape[1]))
        for k in range(start, stop):
            rounded[k] = np.clip(np.round(rest[k] / steps[k]), low[k], high[k])
            error = (rest[k] - rounded[k] * steps[k]) / factor[k, k]
            rest[k + 1 : stop] -= np.outer(factor[k, k + 1 : stop], error)
            errors[k - start] = error
        rest[stop:] -= factor[start:stop, stop:].T @ errors
    result = np.empty_like(rounded)
    result[order] = rounded
    return result


def _factor_of_inverse(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the upper U with U^T U the inverse of a positive definite matrix; that is not made.

    The matrix with its rows and columns turned round is M M^T, so itself V V^T with V upper.
    """
    lower = torch.linalg.cholesky(torch.from_numpy(matrix[::-1, ::-1].copy()))
    upper = lower.flip(0, 1)
    unit = torch.eye(len(matrix), dtype=upper.dtype)
    factor: NDArray[np.float64] = torch.linalg.solve_triangular(upper, unit, upper=True).numpy()
    return factor


class Int8Linears(FusedAttention):
    """Linear layers in int8; see the module docstring.

    Args:
        config: The grader's configuration.
        weights: Its tensors.
        calibration: What `calibrate` returned.
        smoothing: Exponent of the equalisation.
    """

    def __init__(
        self,
        config: AcousticConfig,
        weights: Weights,
        calibration: Calibration,
        smoothing: float = SMOOTHING,
    ) -> None:
        self._weights = weights
        self._smoothing = smoothing
        self._calibration = calibration
        self._norm_divisors: dict[str, NDArray[np.float64]] = {}
        self._input_divisors: dict[str, NDArray[np.float64]] = {}
        self._output_divisors: dict[str, NDArray[np.float64]] = {}
        for index in range(config.encoder.layers):
            layer = f"encoder.layers.{index}"
            attention = f"{layer}.self_attn"
            projections = tuple(f"{attention}.{part}_proj" for part in "qkv")
            self._norm_divisors[f"{attention}_layer_norm"] = self._equalise(projections)
            self._norm_divisors[f"{layer}.final_layer_norm"] = self._equalise((f"{layer}.fc1",))
            # Attention averages values over time, channel by channel: a value's scale passes
            # through it unchanged.
            divisors = self._equalise((f"{attention}.out_proj",))
            self._output_divisors[f"{attention}.v_proj"] = divisors

    def layer_norm(self, graph: Graph, x: str, name: str) -> str:
        """Normalise rows, with the divisors of the next layer folded into scale and shift."""
        divisors = self._norm_divisors[name]
        scale = self._weights.array(f"{name}.weight") / divisors
        shift = self._weights.array(f"{name}.bias") / divisors
        return graph.op(
            "LayerNormalization",
            x,
            graph.constant(scale),
            graph.constant(shift),
            axis=-1,
            epsilon=LAYER_NORM_EPSILON,
        )

    def apply(self, graph: Graph, x: str, names: tuple[str, ...]) -> list[str]:
        """Quantise the rows once, then one integer product for each layer."""
        matrices, rounded, scales = self.rounded(names)
        rows = self.quantise_rows(graph, x, names)
        results, start = [], 0
        for name, matrix in zip(names, matrices, strict=True):
            part = slice(start, start := start + matrix.shape[1])
            results.append(
                graph.integer_product(rows, rounded[:, part], scales[part], self._bias(name))
            )
        return results

    def rounded(
        self, names: tuple[str, ...]
    ) -> tuple[list[NDArray[np.float64]], NDArray[np.int8], NDArray[np.float32]]:
        """Return the weights of layers that share an input: each [K, N]; all rounded; scales."""
        moment = self._calibration[names[0]].moment
        matrices = [self._matrix(name) for name in names]
        stacked = np.concatenate(matrices, axis=1)
        if (divisors := self._input_divisors.get(names[0])) is not None:
            stacked *= divisors[:, None]
            moment = moment / np.outer(divisors, divisors)
        return matrices, *self.round(names, stacked, moment)

    def round(
        self, names: tuple[str, ...], weight: NDArray[np.float64], moment: NDArray[np.float64]
    ) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """Round the weights [K, N] of layers that share an input of this second moment."""
        return round_to_int8(weight, moment)

    def quantise_rows(self, graph: Graph, x: str, names: tuple[str, ...]) -> list[str]:
        """Return rows as uint8, their scale and their zero point."""
        return graph.ops("DynamicQuantizeLinear", x, outputs=3)

    def _equalise(self, names: tuple[str, ...]) -> NDArray[np.float64]:
        """Return the divisors of an input's channels, geometric mean 1."""
        inputs = np.maximum(self._calibration[names[0]].largest.astype(np.float64), _TINY)
        stacked = np.concatenate([self._matrix(name) for name in names], axis=1)
        weights = np.maximum(np.abs(stacked).max(axis=1), _TINY)
        logarithm = self._smoothing * np.log(inputs) - (1 - self._smoothing) * np.log(weights)
        divisors: NDArray[np.float64] = np.exp(logarithm - logarithm.mean())
        self._input_divisors[names[0]] = divisors
        return divisors

    def _matrix(self, name: str) -> NDArray[np.float64]:
        """Return the weight as [K, N], its outputs divided where the next layer wants it."""
        weight = self._weights.array(f"{name}.weight").astype(np.float64)
        if weight.ndim == 3:
            return weight.transpose(2, 1, 0).reshape(-1, len(weight))
        divisors = self._output_divisors.get(name)
        return weight.T.copy() if divisors is None else weight.T / divisors

    def _bias(self, name: str) -> NDArray[np.float64] | None:
        if not has_bias(self._weights, name):
            return None
        bias = self._weights.array(f"{name}.bias").astype(np.float64)
        divisors = self._output_divisors.get(name)
        return bias if divisors is None else bias / divisors
