"""A device of plain NumPy in float64: the truth that GPU kernels are tested against.

It has the interface of a GPU and none of its speed; programs that feed a GPU are tested on it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from asa_engine.errors import BackendError
from asa_engine.gpu.device import Limits, Machine, Outputs, Ragged, Read
from asa_engine.kernels import reference
from asa_engine.nn.acoustic_tensors import GraderShape, layer_weights

__all__ = ["NumpyDevice"]

MEMORY_BYTES = 2**30
_NO_MENTION = ("layer_mix", "attention.weight", "attention.bias")


class NumpyDevice:
    """See `asa_engine.gpu.device.Device`; any precision asked for is float64.

    Args:
        total_bytes: Memory it pretends to have.
        held_bytes: Memory that somebody else pretends to hold.
    """

    name = "numpy"
    precisions = ("fp32", "bf16", "fp16")

    def __init__(self, total_bytes: int = MEMORY_BYTES, held_bytes: int = 0) -> None:
        self._total_bytes = total_bytes
        self._held_bytes = held_bytes

    def machine(self) -> Machine:
        """Describe what it pretends to be."""
        free = self._total_bytes - self._held_bytes
        return Machine("NumPy", (0, 0), "none", self._total_bytes, free)

    def versions(self) -> dict[str, str]:
        """Return NumPy's version."""
        return {"numpy": np.__version__}

    def need_bytes(self, shape: GraderShape, precision: str, limits: Limits) -> int:
        """Count the weights, and for each frame its widest rows."""
        weights = {**shape.encoder_shapes(), **shape.head_shapes()}
        numbers = sum(int(np.prod(size)) for size in weights.values())
        config = shape.encoder
        return 8 * (numbers + limits.frames * (4 * config.d_model + config.ffn))

    def load(self, shape: GraderShape, read: Read, precision: str, limits: Limits) -> NumpyModel:
        """Read the weights."""
        weights = {**shape.encoder_shapes(), **shape.head_shapes()}
        return NumpyModel(shape, {name: read(name, size) for name, size in weights.items()}, limits)


class NumpyModel:
    """See `asa_engine.gpu.device.Model`.

    Attributes:
        batches: Frames of every batch so far, for tests.
    """

    def __init__(
        self, shape: GraderShape, weights: Mapping[str, NDArray[np.float32]], limits: Limits
    ) -> None:
        self._shape = shape
        self._limits = limits
        self._encoder = {
            name.removeprefix("encoder."): value
            for name, value in weights.items()
            if name.startswith("encoder.")
        }
        self._pooling = weights["attention.weight"], weights["attention.bias"]
        self._mix = layer_weights(weights["layer_mix"])
        self._head = {
            name: value
            for name, value in weights.items()
            if not name.startswith("encoder.") and name not in _NO_MENTION
        }
        self.batches: list[list[int]] = []

    def encode(
        self, batch: Ragged, sums: NDArray[np.float64] | None = None, *, frames: bool = False
    ) -> Outputs:
        """Encode window by window."""
        lengths = batch.frames
        if len(lengths) > self._limits.windows or sum(lengths) > self._limits.frames:
            raise BackendError(f"a batch of {lengths} frames is larger than {self._limits}")
        self.batches.append(lengths)
        pairs = zip(batch.starts, batch.starts[1:], strict=False)
        encoded = [self._encode(batch.values[begin:end]) for begin, end in pairs]
        stats = np.stack([stats for stats, _ in encoded]).astype(np.float32)
        scores, prior = self.head((stats + (0.0 if sums is None else sums)).astype(np.float32))
        kept = [mixed.astype(np.float32) for _, mixed in encoded] if frames else None
        return Outputs(stats, scores, prior, kept)

    def head(self, stats: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Compute prior and scores row by row."""
        rows = [reference.head(self._head, row) for row in stats]
        scores, prior = (np.stack(part).astype(np.float32) for part in zip(*rows, strict=True))
        return scores, prior

    def close(self) -> None:
        """Forget the weights."""
        self._encoder.clear()
        self._head.clear()

    def _encode(self, window: NDArray[np.float32]) -> tuple[NDArray[np.float64], ...]:
        config = self._shape.encoder
        mel = reference.log_mel(window, config.n_mels) if window.ndim == 1 else window.T
        with np.errstate(invalid="ignore"):  # a window of NaN is the caller's to find
            layers = reference.encode(config, self._encoder, mel)
            mixed = np.tensordot(self._mix, np.stack(layers), axes=1)
            stats = reference.pool(mixed, *(part.astype(np.float64) for part in self._pooling))
            if self._shape.centres:
                moments = [layer.sum(0) for layer in layers]
                moments += [(layer**2).sum(0) for layer in layers]
                stats = np.concatenate([stats, *moments])
        return stats, mixed
