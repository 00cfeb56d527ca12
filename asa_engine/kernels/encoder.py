"""Whisper's audio encoder on the compiled kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from asa_engine import _kernels
from asa_engine.kernels import isa
from asa_engine.kernels.laps import Lap, laps_of
from asa_engine.nn.acoustic_tensors import encoder_tensors, layer_tensors
from asa_engine.nn.config import WhisperEncoderConfig

__all__ = ["PRECISIONS", "Encoder", "Read", "dense_precision", "pool"]

PRECISIONS = ("fp32", "bf16", "int8")

Read = Callable[[str, tuple[int, ...]], NDArray[np.float32]]
"""Returns a tensor by Hugging Face's name, of the shape asked for, or raises."""

_MAX_THREADS = 256
_MOST_SETS = 64

_STEM = ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias", "embed_positions.weight")
_CLOSING = ("layer_norm.weight", "layer_norm.bias")


def dense_precision() -> str:
    """Return the precision, by name, of layers that a plan spares from int8, on this CPU."""
    isa()
    return "bf16" if _kernels.has_bf16_products() else "fp32"


class Encoder:
    """A Whisper encoder of any size, its weights packed for this CPU.

    Args:
        config: Its shape.
        read: Where the weights come from; each is read once.
        precision: `fp32`; `bf16`: products of bfloat16, sums and everything between in float32;
            `int8`: the feed-forward layers but the first in 8 bits, one scale for every 128 inputs
            of a row, the rest as in bf16 where the CPU has it and in fp32 elsewhere. Or one for
            each layer; an `int8` layer, the first included, is as above. The first layer's output
            projection is in float32 unless that layer is named `int8`.
        threads: Threads one call may use, 1 to 256; they sleep when idle.
        packed: Returns what `packed` returned for the same weights, precision and instruction set,
            given their number, or `None` to have them packed anew. Nothing is read if it does.

    Raises:
        ValueError: A precision or thread count out of range, or not as many precisions as layers.
        BackendError: `ASA_CPU_ISA` names an instruction set this CPU lacks.
    """

    def __init__(
        self,
        config: WhisperEncoderConfig,
        read: Read,
        *,
        precision: str | Sequence[str],
        threads: int = 1,
        packed: Callable[[int], NDArray[np.int32] | None] = lambda words: None,
    ) -> None:
        for named in [precision] if isinstance(precision, str) else precision:
            if named not in PRECISIONS:
                raise ValueError(f"precision is {named!r}; it must be one of {PRECISIONS}")
        if not 1 <= threads <= _MAX_THREADS:
            raise ValueError(f"threads is {threads}; it must be in [1, {_MAX_THREADS}]")
        isa()
        self.config = config
        self.precision = precision
        self.threads = threads
        self._encoder = _kernels.Encoder(
            config.n_mels,
            config.d_model,
            config.heads,
            config.ffn,
            config.layers,
            config.positions,
            precision if isinstance(precision, str) else list(precision),
            threads,
        )
        if (words := packed(self._encoder.packed_words)) is not None:
            self._encoder.adopt(words)
            return
        shapes = encoder_tensors(config)
        self._encoder.set_stem([read(name, shapes[name]) for name in _STEM])
        for layer in range(config.layers):
            names = [f"layers.{layer}.{name}" for name in layer_tensors(config)]
            self._encoder.set_layer(layer, [read(name, shapes[name]) for name in names])
        self._encoder.set_final_norm([read(name, shapes[name]) for name in _CLOSING])

    def packed(self) -> NDArray[np.int32]:
        """Return all weights as packed, a view: what `packed=` takes the next time."""
        return self._encoder.packed()

    def encode(
        self, mels: Sequence[ArrayLike], layer_weights: ArrayLike | None = None
    ) -> list[NDArray[np.float32]]:
        """Encode log-mel windows of any lengths; each result is what the window gives alone.

        Two threads may call one encoder; they take turns.

        Args:
            mels: Each float32 [n_mels, T], T from 1 to twice `positions`.
            layer_weights: Weights of the embedded input and of each layer's output, the last one
                after the closing LayerNorm, `layers + 1` in all; their weighted sum is returned.
                Of several sets of them, [S, layers + 1], the sums are returned side by side.
                `None` returns the last output.

        Returns:
            Each float32 [ceil(T / 2), d_model], 50 frames a second; of S sets [.., S * d_model].

        Raises:
            ValueError: A wrong shape, dtype or number, NaN or infinity.
        """
        return self._run(mels, layer_weights, moments=False)[0]

    def encode_with_moments(
        self, mels: Sequence[ArrayLike], layer_weights: ArrayLike | None = None
    ) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Encode as `encode` does, and sum every layer's output over its frames.

        Returns:
            For each window what `encode` returns, and float32 [2, (layers + 1) * d_model]: the sums
            over frames of h_0, ..., h_L, then the sums of their squares, h_0 being the embedded
            input and h_L the last output after the closing LayerNorm.

        Raises:
            ValueError: As for `encode`.
        """
        return list(zip(*self._run(mels, layer_weights, moments=True), strict=True))

    def record(self, on: bool) -> None:
        """Keep from now on what every kernel does, or no longer."""
        self._encoder.record(on)

    def take_laps(self) -> list[Lap]:
        """Return what was kept since the last call, in order of time.

        The first 2^20 laps of each thread are kept, and later ones dropped.
        """
        return laps_of(self._encoder.take_laps())

    def _run(
        self, mels: Sequence[ArrayLike], layer_weights: ArrayLike | None, *, moments: bool
    ) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
        count = self.config.layers + 1
        weights = np.eye(count)[-1] if layer_weights is None else np.asarray(layer_weights, float)
        if (
            weights.ndim not in (1, 2)
            or weights.shape[-1] != count
            or not 1 <= weights.size <= count * _MOST_SETS
            or not np.isfinite(weights).all()
        ):
            raise ValueError(f"layer_weights must be {count} finite numbers, or rows of them")
        arrays = []
        for mel in mels:
            array = np.asarray(mel)
            if array.ndim != 2 or array.dtype != np.float32:
                raise ValueError(
                    f"mel must be float32 [n_mels, T], not {array.dtype} {list(array.shape)}"
                )
            arrays.append(np.ascontiguousarray(array))
        return self._encoder.encode(arrays, weights.ravel().tolist(), moments)


def pool(
    frames: NDArray[np.float32], weight: NDArray[np.float32], bias: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Sum a window's frames for the head; the sums of windows may be added.

    Args:
        frames: Encoder frames, float32 [T, D].
        weight: Attention vectors a_h, float32 [H, D].
        bias: Attention biases c_h, float32 [H].

    Returns:
        float32 [1 + 2 D + H + H D]: the count T; sum of x; sum of x^2; for each head the sum of
        w_h = exp(4 tanh((a_h . x + c_h) / 4)); for each head the sum of w_h x.

    Raises:
        ValueError: Shapes do not fit.
    """
    isa()
    return _kernels.pool(frames, weight, bias)
