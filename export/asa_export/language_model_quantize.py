"""Linear layers of a language model in 8 and in 4 bits.

int8: weights with one scale an output channel, activations with one scale a row. A language
model's first positions have activations hundreds of times larger than the rest: a range for all
rows of a call would lose the others, and would make a position's state depend on which others were
prefilled with it. So every row is divided by its largest magnitude, quantised with a constant
step, and multiplied back afterwards: streamed and offline stay one computation. With calibration,
the channels of an input are evened out first where the operation before it can take their scale
(SmoothQuant, Xiao et al. 2022, equation 4; a = 0.7), and weights are rounded so that outputs on
calibration sequences stay (GPTQ): see `asa_export.quantize`.

Where that moves scores too far, two things help, each at a price: activations in two digits of 8
bits, of which the second counts what the first leaves (one product of twice the rows: a pass over
few rows costs hardly more, for it waits for the weights), and first layers in float32, whose
errors all others carry on.

int4: MatMulNBits; weights with a scale and a zero point for every block of inputs of an output,
rounded by GPTQ where calibrated, activations quantised by the runtime, block by block of a row.
Smaller than int8, and slower on many rows.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from asa_export.graph import MICROSOFT, Graph
from asa_export.language_model import FloatDecoder
from asa_export.quantize import Calibration, round_to_int8, round_with_moment
from asa_export.weights import TensorSource

__all__ = ["BLOCK", "Int4Decoder", "Int8Decoder", "pack_int4", "round_rows_to_int8"]

BLOCK: Final = 32
_INT8_MAX: Final = 127
_ZERO: Final = 128
_SECOND: Final = 2 * _INT8_MAX  # steps of the second digit in one of the first
_INT4_MAX: Final = 15
_TINY: Final = np.finfo(np.float32).tiny
_LEAST: Final = 1e-5
_AT_ONCE: Final = 2**22
"""Weights that are rounded in one go where no other hangs on them: what lies between is small."""
SMOOTHING: Final = 0.7


def round_rows_to_int8(
    weight: NDArray[np.float32],
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round each row [N, K] to int8; return the steps and the scale of each row, float32 [N]."""
    scale = np.maximum(np.abs(weight).max(axis=1) / _INT8_MAX, _TINY).astype(np.float32)
    return np.round(weight / scale[:, None]).astype(np.int8), scale


def pack_int4(
    weight: NDArray[np.float32],
    block: int = BLOCK,
    moment: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
    """Round a weight to 4 bits, block by block of its inputs, as MatMulNBits stores it.

    Args:
        weight: float32 [N, K].
        block: Inputs that share a scale and a zero point.
        moment: Sum of x x^T over calibration rows, float64 [K, K]: weights are rounded so that
            outputs stay (GPTQ), and not each to its nearest step.

    Returns:
        Steps, two a byte, low half first, uint8 [N, K / block, block / 2], K rounded up to whole
        blocks; scales, float32 [N, K / block]; zero points, two a byte, uint8
        [N, ceil(K / block / 2)].
    """
    outputs, inputs = weight.shape
    if moment is None and weight.size > _AT_ONCE and outputs > 1:
        rows = max(1, _AT_ONCE // inputs)
        some = [pack_int4(weight[at : at + rows], block) for at in range(0, outputs, rows)]
        packed, scales, zeros = (np.concatenate(of) for of in zip(*some, strict=True))
        return packed, scales, zeros
    blocks = -(-inputs // block)
    padded = np.zeros((outputs, blocks * block), np.float32)
    padded[:, :inputs] = weight
    parts = padded.reshape(outputs, blocks, block)
    low = np.minimum(parts.min(axis=2), 0)  # zero must be a step: what pads a block is zero
    high = np.maximum(parts.max(axis=2), 0)
    scale = np.maximum((high - low) / _INT4_MAX, _TINY).astype(np.float32)
    zero = np.round(-low / scale)
    if moment is None:
        steps = np.clip(np.round(parts / scale[..., None]) + zero[..., None], 0, _INT4_MAX)
    else:
        # The range of each input: its block's.
        step, offset = (np.repeat(x.astype(np.float64).T, block, 0)[:inputs] for x in (scale, zero))
        rounded = round_with_moment(
            weight.T.astype(np.float64), moment, step, low=-offset, high=_INT4_MAX - offset
        )
        steps = np.repeat(zero[..., None], block, axis=2)
        steps.reshape(outputs, -1)[:, :inputs] += rounded.T
    return _nibbles(steps.astype(np.uint8)), scale, _nibbles(zero.astype(np.uint8))


def _nibbles(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Put pairs of 4-bit values along the last axis into bytes, the first into the low half."""
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros_like(values[..., :1])], axis=-1)
    low, high = values[..., 0::2], values[..., 1::2]
    packed: NDArray[np.uint8] = np.bitwise_or(low, high * np.uint8(16))
    return packed


class _QuantisedDecoder(FloatDecoder):
    """Norms in float32; embeddings in int8 with a scale for each token."""

    def _tensor(self, graph: Graph, name: str) -> str:
        """Return a tensor, kept in the graph: it stands alone."""
        return graph.constant(graph.array(name))

    def table(self, graph: Graph, name: str, ids: str) -> str:
        """Gather int8 rows and the scale of each."""
        steps, scale = round_rows_to_int8(graph.array(name))
        rows = graph.op("Cast", graph.op("Gather", graph.constant(steps, np.int8), ids), to=1)
        return graph.op("Mul", rows, graph.op("Gather", graph.constant(scale[:, None]), ids))


class Int8Decoder(_QuantisedDecoder):
    """Linear layers in int8, a scale for each row of activations; see the module docstring.

    Args:
        weights: The model's tensors.
        calibration: What `calibrate_decoder` returned; without it weights are simply rounded.
        digits: Digits of 8 bits that an activation has, 1 or 2; with 2, embeddings are float16
            and best stored so, for a cast of a whole table is done when it is loaded.
        exact_layers: How many layers, from the first on, stay in float32.

    Raises:
        ValueError: Another number of digits.
    """

    def __init__(
        self,
        weights: TensorSource,
        calibration: Calibration | None = None,
        *,
        digits: int = 1,
        exact_layers: int = 0,
    ) -> None:
        if digits not in (1, 2):
            raise ValueError(f"digits is {digits}; it must be 1 or 2")
        self._digits = digits
        self._exact = tuple(f"model.layers.{layer}." for layer in range(exact_layers))
        self._calibration = {
            name: seen
            for name, seen in (calibration or {}).items()
            if not name.startswith(self._exact)
        }
        self._divisors: dict[str, NDArray[np.float64]] = {}  # of a linear layer's inputs
        self._folded: dict[str, NDArray[np.float64]] = {}  # of a norm's or a layer's outputs
        for first in self._calibration:
            layer, _, part = first.rpartition(".")
            if part == "q_proj":
                names = [f"{layer}.{which}_proj" for which in "qkv"]
                before = f"{layer.removesuffix('self_attn')}input_layernorm.weight"
            elif part == "gate_proj":
                names = [first, f"{layer}.up_proj"]
                before = f"{layer.removesuffix('mlp')}post_attention_layernorm.weight"
            elif part == "down_proj":
                names, before = [first], f"{layer}.up_proj"
            else:
                continue
            divisors = self._even_out(weights, first, names)
            self._divisors |= dict.fromkeys(names, divisors)
            self._folded[before] = divisors

    def scales(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what a tensor's outputs are divided and its inputs multiplied by.

        Args:
            name: A norm's or a linear layer's tensor, with `.weight`.
        """
        layer, one = name.removesuffix(".weight"), np.ones(1)
        outputs = self._folded.get(name, self._folded.get(layer, one))
        return outputs, self._divisors.get(layer, one)

    def norm_scale(self, graph: Graph, name: str) -> str:
        """Return the checkpoint's scale, the next layer's divisors folded in."""
        return graph.constant(graph.array(name) / self._folded.get(name, 1.0))

    def apply(self, graph: Graph, x: str, names: tuple[str, ...]) -> list[str]:
        """Quantise the rows once, then one integer product for each layer."""
        if names[0].startswith(self._exact):
            return super().apply(graph, x, names)
        rows, largest = self._rows(graph, x)
        results = []
        for name in names:
            y = graph.op("Mul", self._product(graph, rows, name, names[0]), largest)
            bias = f"{name}.bias"
            if bias in graph.weights.names():
                y = graph.op("Add", y, graph.constant(graph.array(bias)))
            results.append(y)
        return results

    def table(self, graph: Graph, name: str, ids: str) -> str:
        """Gather rows as fine as activations are; a float16 table is left in its file."""
        if self._digits == 1:
            return super().table(graph, name, ids)
        rows = graph.op("Gather", graph.typed_weight(name, TensorProto.FLOAT16), ids)
        return graph.op("Cast", rows, to=TensorProto.FLOAT)

    def gated(self, graph: Graph, x: str, gate: str, up: str, down: str) -> str:
        """SwiGLU; what `up` lacks of its scale goes straight into the result's."""
        if gate.startswith(self._exact):
            return super().gated(graph, x, gate, up, down)
        rows, largest = self._rows(graph, x)
        opened = graph.op("Mul", self._product(graph, rows, gate, gate), largest)
        silu = graph.op("QuickGelu", opened, domain=MICROSOFT, alpha=1.0)
        inner = graph.op("Mul", silu, self._product(graph, rows, up, gate))
        inner_rows, inner_largest = self._rows(graph, inner)
        scale = graph.op("Mul", largest, inner_largest)
        return graph.op("Mul", self._product(graph, inner_rows, down, down), scale)

    def _rows(self, graph: Graph, x: str) -> tuple[str, str]:
        """Return rows as uint8 around 128, and the largest magnitude of each, [S, 1].

        The second digit's rows stand below the first's.
        """
        axis = graph.constant([-1], np.int64)
        most = graph.op("ReduceMax", graph.op("Abs", x), axis, keepdims=1)
        largest = graph.op("Max", most, graph.constant(_TINY))
        step, zero = graph.constant(1 / _INT8_MAX), graph.constant(_ZERO, np.uint8)
        shares = graph.op("Div", x, largest)
        rows = graph.op("QuantizeLinear", shares, step, zero)
        if self._digits == 1:
            return rows, largest
        rest = graph.op("Sub", shares, graph.op("DequantizeLinear", rows, step, zero))
        finer = graph.constant(1 / (_INT8_MAX * _SECOND))
        return graph.op(
            "Concat", rows, graph.op("QuantizeLinear", rest, finer, zero), axis=0
        ), largest

    def _even_out(self, weights: TensorSource, first: str, names: list[str]) -> NDArray[np.float64]:
        """Return the divisors of an input's channels, geometric mean 1."""
        largest = np.maximum(self._calibration[first].largest.astype(np.float64), _LEAST)
        stacked = np.concatenate([weights.array(f"{name}.weight") for name in names])
        across = np.maximum(np.abs(stacked).max(axis=0).astype(np.float64), _LEAST)
        logarithm = SMOOTHING * np.log(largest) - (1 - SMOOTHING) * np.log(across)
        divisors: NDArray[np.float64] = np.exp(logarithm - logarithm.mean())
        return divisors

    def _round(
        self, graph: Graph, name: str, first: str
    ) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """Return a layer's weight as int8 [K, N] and the scale of each output [N]."""
        weight = graph.array(f"{name}.weight").astype(np.float64).T
        if (outputs := self._folded.get(name)) is not None:
            weight = weight / outputs
        if first not in self._calibration:
            steps, scale = round_rows_to_int8(weight.T.astype(np.float32))
            return steps.T, scale
        moment, divisors = self._calibration[first].moment, self._divisors.get(name)
        if divisors is not None:
            weight, moment = weight * divisors[:, None], moment / np.outer(divisors, divisors)
        return round_to_int8(weight, moment)

    def _product(self, graph: Graph, rows: str, name: str, first: str) -> str:
        steps, scale = self._round(graph, name, first)
        read = (rows, graph.constant(1 / _INT8_MAX), graph.constant(_ZERO, np.uint8))
        y = graph.integer_product(read, steps, scale)
        if self._digits == 1:
            return y
        high, low = graph.ops("Split", y, outputs=2, axis=0, num_outputs=2)
        return graph.op("Add", high, graph.op("Mul", low, graph.constant(1 / _SECOND)))


class Int4Decoder(_QuantisedDecoder):
    """Linear layers in 4 bits, a scale and a zero point for each block of inputs.

    Args:
        calibration: What `calibrate_decoder` returned; without it weights are simply rounded.
    """

    def __init__(self, calibration: Calibration | None = None) -> None:
        self._calibration = calibration or {}

    def apply(self, graph: Graph, x: str, names: tuple[str, ...]) -> list[str]:
        """One MatMulNBits for each layer."""
        seen = self._calibration.get(names[0])
        moment = None if seen is None else seen.moment
        return [self._packed(graph, x, name, moment) for name in names]

    def _packed(self, graph: Graph, x: str, name: str, moment: NDArray[np.float64] | None) -> str:
        weight = graph.array(f"{name}.weight")
        steps, scale, zero = pack_int4(weight, moment=moment)
        y = graph.product_in_blocks(
            x, steps, scale.reshape(-1), zero.reshape(-1), shape=weight.shape, bits=4, size=BLOCK
        )
        bias = f"{name}.bias"
        if bias not in graph.weights.names():
            return y
        return graph.op("Add", y, graph.constant(graph.array(bias)))
