"""The Triton kernels' arithmetic in PyTorch on the CPU: fast enough to judge scores with.

It rounds where they round: operands of products to their type, products, sums and all between in
float32, LayerNorms folded into the products behind them. Only the order of sums is another.
"""

from __future__ import annotations

import math
from importlib import metadata

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from asa_engine.gpu.device import Limits, Machine, Outputs, Ragged, Read
from asa_engine.gpu.triton.tiles import attention_tile
from asa_engine.gpu.triton.weights import DTYPES, Product, Weights, weight_bytes
from asa_engine.kernels.head import Head
from asa_engine.kernels.reference import log_mel
from asa_engine.nn.acoustic_tensors import GraderShape

__all__ = ["EmulatedDevice"]

MEMORY_BYTES = 2**33


class EmulatedDevice:
    """See `asa_engine.gpu.device.Device`."""

    name = "emulated"
    precisions = tuple(DTYPES)

    def machine(self) -> Machine:
        """Describe what it pretends to be."""
        return Machine("PyTorch on the CPU", (0, 0), "none", MEMORY_BYTES, MEMORY_BYTES)

    def versions(self) -> dict[str, str]:
        """Return torch's version."""
        return {"torch": metadata.version("torch")}

    def need_bytes(self, shape: GraderShape, precision: str, limits: Limits) -> int:
        """Count the weights; activations are made and dropped as they come."""
        return weight_bytes(shape, precision)

    def load(self, shape: GraderShape, read: Read, precision: str, limits: Limits) -> EmulatedModel:
        """Read the weights."""
        return EmulatedModel(shape, read, precision)


class EmulatedModel:
    """See `asa_engine.gpu.device.Model`."""

    def __init__(self, shape: GraderShape, read: Read, precision: str) -> None:
        self._shape = shape
        self._dtype = DTYPES[precision]
        self._keys = attention_tile(shape.encoder.d_model // shape.encoder.heads, precision).columns
        self._weights = Weights(shape, read, self._dtype, "cpu")
        head = {name: value.numpy() for name, value in self._weights.head.items()}
        for kind in ("weight", "bias"):
            for i, row in enumerate(head.pop(f"pool_norms.{kind}")):
                head[f"pool_norms.{i}.{kind}"] = row
        self._head = Head(head)

    @torch.inference_mode()
    def encode(
        self, batch: Ragged, sums: NDArray[np.float64] | None = None, *, frames: bool = False
    ) -> Outputs:
        """Encode window by window."""
        pairs = zip(batch.starts, batch.starts[1:], strict=False)
        encoded = [self._encode(batch.values[begin:end]) for begin, end in pairs]
        stats = torch.stack([stats for stats, _ in encoded]).numpy()
        scores, prior = self.head((stats + (0.0 if sums is None else sums)).astype(np.float32))
        return Outputs(stats, scores, prior, [x.numpy() for _, x in encoded] if frames else None)

    def head(self, stats: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Compute scores and prior row by row: the head is float32 on the GPU too."""
        scores, prior = zip(*(self._head(row) for row in stats), strict=True)
        return np.stack(scores), np.stack(prior)

    def close(self) -> None:
        """Forget the weights."""
        del self._weights

    def _low(self, x: Tensor) -> Tensor:
        return x.to(self._dtype).float()

    def _conv(self, x: Tensor, product: Product, stride: int) -> Tensor:
        taps = product.weight.float().permute(1, 2, 0)
        return F.gelu(F.conv1d(self._low(x), taps, product.bias, stride, padding=1))

    def _linear(self, x: Tensor, product: Product, norm_of: Tensor | None = None) -> Tensor:
        total = self._low(x) @ product.weight.float().T
        if norm_of is not None:
            mean = norm_of.mean(1, keepdim=True)
            scale = (norm_of.square().mean(1, keepdim=True) - mean.square() + 1e-5).rsqrt()
            total = (total - mean * product.sums) * scale
        return total + product.bias

    def _attend(self, qkv: Tensor) -> Tensor:
        """Weights of the softmax are rounded as they are there, relative to a running maximum."""
        heads = self._shape.encoder.heads
        q, k, v = (
            part.reshape(len(part), heads, -1).transpose(0, 1)
            for part in self._low(qkv).chunk(3, 1)
        )
        score = q @ k.transpose(1, 2) / math.sqrt(q.shape[2])
        running = torch.stack([part.amax(2) for part in torch.split(score, self._keys, 2)], 2)
        top = running.cummax(2).values.repeat_interleave(self._keys, 2)[..., : score.shape[2]]
        p = (score - top).exp()
        weights = (top - top[..., -1:]).exp()
        mixed = (self._low(p) * weights) @ v / (p * weights).sum(2, keepdim=True)
        joined: Tensor = mixed.transpose(0, 1).flatten(1)
        return joined

    def _encode(self, window: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
        weights, config = self._weights, self._shape.encoder
        mel = log_mel(window, config.n_mels) if window.ndim == 1 else window.T
        x = self._conv(torch.from_numpy(np.ascontiguousarray(mel)), weights.conv1, 1)
        x = self._conv(x, weights.conv2, 2).T
        x = x + weights.positions[: len(x)]
        layers = [x]
        for layer in weights.layers:
            x = x + self._linear(self._attend(self._linear(x, layer.qkv, x)), layer.out)
            x = x + self._linear(F.gelu(self._linear(x, layer.fc1, x)), layer.fc2)
            layers.append(x)
        gain, shift = weights.norm
        layers[-1] = F.layer_norm(x, x.shape[1:], gain, shift)
        mixed = sum(
            (weight * layer for weight, layer in zip(weights.mix, layers, strict=True)),
            torch.zeros(()),
        )
        head = weights.head
        w = 4 * torch.tanh(F.linear(mixed, head["attention.weight"], head["attention.bias"]) / 4)
        w = w.exp()
        sums = [
            torch.tensor([float(len(x))]),
            mixed.sum(0),
            mixed.square().sum(0),
            w.sum(0),
            (w.T @ mixed).flatten(),
        ]
        if self._shape.centres:
            sums += [layer.sum(0) for layer in layers]
            sums += [layer.square().sum(0) for layer in layers]
        return torch.cat(sums), mixed
