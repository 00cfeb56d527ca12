"""A grader's weights as the kernels want them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asa_engine.gpu.device import Read
from asa_engine.kernels.reference import mel_filters
from asa_engine.nn.acoustic_tensors import GraderShape, layer_weights

__all__ = ["DTYPES", "Layer", "Product", "Weights", "spectrum_tables", "weight_bytes"]

Array = NDArray[np.float32]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SPECTRUM_BINS = 256
FFT = 400


@dataclass(frozen=True, slots=True)
class Product:
    """A weight [N, K] of the operands' type, its bias [N], and its row sums [N] behind a norm."""

    weight: Tensor
    bias: Tensor
    sums: Tensor


@dataclass(frozen=True, slots=True)
class Layer:
    """The products of a Transformer layer; LayerNorms are folded into those behind them."""

    qkv: Product
    out: Product
    fc1: Product
    fc2: Product


class Weights:
    """Everything a model reads, on the device.

    Args:
        shape: The grader.
        read: Where the weights come from; each is read once.
        dtype: The operands' type of the encoder's products; all else is float32.
        device: Where to.
    """

    def __init__(self, shape: GraderShape, read: Read, dtype: torch.dtype, device: str) -> None:
        self._read = read
        self._dtype = dtype
        self._device = device
        config = shape.encoder
        width, inner = config.d_model, config.ffn
        self.conv1 = self._conv("conv1", width, config.n_mels)
        self.conv2 = self._conv("conv2", width, width)
        self.positions = self._take("encoder.embed_positions.weight", (config.positions, width))
        self.layers = [
            self._layer(f"encoder.layers.{i}.", width, inner) for i in range(config.layers)
        ]
        self.norm = tuple(
            self._take(f"encoder.layer_norm.{kind}", (width,)) for kind in ("weight", "bias")
        )
        head = {name: read(name, size) for name, size in shape.head_shapes().items()}
        self.mix = layer_weights(head.pop("layer_mix")).astype(np.float32).tolist()
        norms = range(2 + shape.pooling_heads)
        for kind in ("weight", "bias"):
            parts = [head.pop(f"pool_norms.{i}.{kind}") for i in norms]
            head[f"pool_norms.{kind}"] = np.stack(parts)
        self.head = {name: self._put(value) for name, value in head.items()}
        self.waves, self.filters = map(self._put, spectrum_tables(config.n_mels))

    def _put(self, value: Array) -> Tensor:
        return torch.from_numpy(np.array(value, np.float32, order="C")).to(self._device)

    def _take(self, name: str, size: tuple[int, ...]) -> Tensor:
        return self._put(self._read(name, size))

    def _conv(self, name: str, width: int, channels: int) -> Product:
        weight = self._read(f"encoder.{name}.weight", (width, channels, 3))
        taps = self._put(weight.transpose(2, 0, 1)).to(self._dtype)
        bias = self._take(f"encoder.{name}.bias", (width,))
        return Product(taps, bias, bias)

    def _layer(self, prefix: str, width: int, inner: int) -> Layer:
        attention = prefix + "self_attn."
        rows = [self._read(f"{attention}{name}_proj.weight", (width, width)) for name in "qkv"]
        bias = [
            self._read(f"{attention}q_proj.bias", (width,)),
            np.zeros(width, np.float32),
            self._read(f"{attention}v_proj.bias", (width,)),
        ]
        first = self._norm(f"{prefix}self_attn_layer_norm", width)
        second = self._norm(f"{prefix}final_layer_norm", width)
        return Layer(
            qkv=self._product(np.concatenate(rows), np.concatenate(bias), first),
            out=self._linear(f"{attention}out_proj", (width, width)),
            fc1=self._linear(f"{prefix}fc1", (inner, width), second),
            fc2=self._linear(f"{prefix}fc2", (width, inner)),
        )

    def _norm(self, name: str, width: int) -> tuple[Array, Array]:
        return self._read(f"{name}.weight", (width,)), self._read(f"{name}.bias", (width,))

    def _linear(
        self, name: str, size: tuple[int, int], norm: tuple[Array, Array] | None = None
    ) -> Product:
        weight, bias = self._read(f"{name}.weight", size), self._read(f"{name}.bias", size[:1])
        return self._product(weight, bias, norm)

    def _product(
        self,
        weight: Array,
        bias: Array,
        norm: tuple[Array, Array] | None,
    ) -> Product:
        """Fold the LayerNorm before it into a product, as `linear` undoes it."""
        if norm is None:
            put = self._put(bias)
            return Product(self._put(weight).to(self._dtype), put, put)
        gain, shift = norm
        folded = self._put(weight * gain).to(self._dtype)
        # Of the rounded weights: what the mean is multiplied with must be what it was added to.
        sums = folded.double().sum(1).float()
        shifted = bias + weight.astype(np.float64) @ shift.astype(np.float64)
        return Product(folded, self._put(shifted.astype(np.float32)), sums)

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor, once."""
        for product in (
            self.conv1,
            self.conv2,
            *(p for layer in self.layers for p in (layer.qkv, layer.out, layer.fc1, layer.fc2)),
        ):
            yield product.weight
            yield product.bias
            if product.sums is not product.bias:
                yield product.sums
        yield from (self.positions, *self.norm, *self.head.values(), self.waves, self.filters)


def weight_bytes(shape: GraderShape, precision: str) -> int:
    """Return the bytes of a grader's `Weights`, before they are made."""
    config = shape.encoder
    width, inner = config.d_model, config.ffn
    matrices = 3 * width * (config.n_mels + width) + config.layers * width * (4 * width + 2 * inner)
    vectors = 2 * width + config.layers * (8 * width + 2 * inner)
    vectors += (config.positions + 2) * width
    head = sum(
        int(np.prod(size)) for name, size in shape.head_shapes().items() if name != "layer_mix"
    )
    spectrum = 2 * FFT * SPECTRUM_BINS + SPECTRUM_BINS * _bank_width(config.n_mels)
    return matrices * DTYPES[precision].itemsize + 4 * (vectors + head + spectrum)


def _bank_width(n_mels: int) -> int:
    return max(16, 1 << (n_mels - 1).bit_length())


def spectrum_tables(n_mels: int) -> tuple[Array, Array]:
    """Return Hann times the Fourier transform's waves [2, 400, 256], and mel filters [256, ..]."""
    k, f = np.arange(FFT), np.arange(FFT // 2 + 1)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * k / FFT)
    angle = 2 * np.pi * (np.outer(k, f) % FFT) / FFT
    waves = np.zeros((2, FFT, SPECTRUM_BINS))
    waves[:, :, : len(f)] = hann[:, None] * np.stack([np.cos(angle), np.sin(angle)])
    filters = np.zeros((SPECTRUM_BINS, _bank_width(n_mels)))
    filters[: len(f), :n_mels] = mel_filters(n_mels)
    return waves.astype(np.float32), filters.astype(np.float32)
