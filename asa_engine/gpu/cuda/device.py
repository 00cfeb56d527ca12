"""The GPU that the CUDA kernels run on."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from asa_engine import _cuda
from asa_engine.errors import BackendError
from asa_engine.gpu.device import Limits, Machine, Outputs, Ragged, Read
from asa_engine.nn.acoustic_tensors import (
    HEAD_NAMES,
    REGRESSOR_NAMES,
    GraderShape,
    layer_tensors,
    layer_weights,
)

__all__ = ["CudaDevice", "CudaModel"]

RESERVE_BYTES = 128 * 2**20
"""For captured graphs, loaded kernels and what the driver rounds up."""

_POOLING = ("attention.weight", "attention.bias")

Result = TypeVar("Result")


class CudaDevice:
    """See `asa_engine.gpu.device.Device`."""

    name = "cuda"
    precisions = ("bf16", "fp16")

    @classmethod
    def find(cls) -> Self:
        """Return this process's GPU.

        Raises:
            BackendError: This build has no CUDA kernels; or no driver, no GPU, or too old a one
                is here.
        """
        device = cls()
        device.machine()
        return device

    def machine(self) -> Machine:
        """Describe the GPU as it is now.

        Raises:
            BackendError: As for `find`.
        """
        try:
            name, major, minor, driver, _, total, free = _cuda.machine()
        except RuntimeError as error:
            raise _unavailable(error) from None
        return Machine(name, (major, minor), f"CUDA {driver}", total, free)

    def versions(self) -> dict[str, str]:
        """Return the version of CUDA that the kernels were built with."""
        try:
            return {"cuda": _cuda.machine()[4]}
        except RuntimeError as error:
            raise _unavailable(error) from None

    def need_bytes(self, shape: GraderShape, precision: str, limits: Limits) -> int:
        """Count weights and buffers exactly, and a reserve for what the driver takes.

        Raises:
            BackendError: No kernel takes this shape, or this build has none.
        """
        try:
            need = _cuda.need_bytes(*_sizes(shape), limits.windows, limits.frames)
        except RuntimeError as error:
            raise _unavailable(error) from None
        except ValueError as error:
            raise _unfit(error) from None
        return need + RESERVE_BYTES

    def load(self, shape: GraderShape, read: Read, precision: str, limits: Limits) -> CudaModel:
        """Put a grader on the GPU.

        Raises:
            BackendError: It does not fit, no kernel takes its shape, or the GPU failed.
            CheckpointError: What `read` raises.
        """
        if precision not in self.precisions:
            raise BackendError(
                f"the CUDA kernels run at {' and '.join(self.precisions)}, not {precision}",
                hint="name another precision, or use Triton's kernels",
            )
        try:
            model = _cuda.Model(*_sizes(shape), precision, limits.windows, limits.frames)
        except _cuda.Unavailable as error:
            raise _unavailable(error) from None
        except RuntimeError as error:
            raise _failed(error) from None
        except ValueError as error:
            raise _unfit(error) from None
        _fill(model, shape, read)
        return CudaModel(model, shape)


class CudaModel:
    """See `asa_engine.gpu.device.Model`."""

    def __init__(self, model: _cuda.Model, shape: GraderShape) -> None:
        self._model: _cuda.Model | None = model
        self._width = shape.encoder.d_model

    def encode(
        self, batch: Ragged, sums: NDArray[np.float64] | None = None, *, frames: bool = False
    ) -> Outputs:
        """Encode windows, pool them and score the recordings so far, in one graph.

        Raises:
            BackendError: The batch is beyond the limits, or not one of this model's; or the GPU
                failed, and the model is of no more use.
        """
        model = self._open()
        stats, scores, prior, mixed = _run(
            lambda: model.encode(batch.values, batch.starts, sums, frames)
        )
        kept = None if mixed is None else np.split(mixed, np.cumsum(batch.frames)[:-1])
        return Outputs(stats, scores, prior, kept)

    def head(self, stats: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Compute scores and prior of summed stats.

        Raises:
            BackendError: `stats` is of another width; or the GPU failed, as for `encode`.
        """
        model = self._open()
        return _run(lambda: model.score(np.ascontiguousarray(stats)))

    def time(self, batch: Ragged, runs: int) -> float:
        """Return the least of so many runs' time on the GPU, ms, without copies to and from it.

        The batch must have been encoded before: what is on the GPU is what is computed with.
        """
        model = self._open()
        return _run(lambda: model.time(batch.values, batch.starts, runs))

    def close(self) -> None:
        """Give the memory back."""
        self._model = None

    def _open(self) -> _cuda.Model:
        if self._model is None:
            raise BackendError("the model was closed", hint="load it again")
        return self._model


def _sizes(shape: GraderShape) -> tuple[list[int], list[int]]:
    config = shape.encoder
    outputs = config.layers + 1 if shape.centres else 0
    return (
        [config.n_mels, config.d_model, config.heads, config.ffn, config.layers, config.positions],
        [
            config.d_model,
            shape.pooling_heads,
            shape.prior_width,
            shape.levels,
            shape.prior_embedding,
            shape.head_width,
            shape.aspects,
            outputs,
            shape.place,
            shape.centres,
        ],
    )


def _fill(model: _cuda.Model, shape: GraderShape, read: Read) -> None:
    config = shape.encoder
    width = config.d_model

    def encoder(name: str, *size: int) -> NDArray[np.float32]:
        return np.ascontiguousarray(read(f"encoder.{name}", size))

    model.set_stem(
        [
            encoder("conv1.weight", width, config.n_mels, 3),
            encoder("conv1.bias", width),
            encoder("conv2.weight", width, width, 3),
            encoder("conv2.bias", width),
            encoder("embed_positions.weight", config.positions, width),
        ]
    )
    for layer in range(config.layers):
        tensors = [
            encoder(f"layers.{layer}.{name}", *size) for name, size in layer_tensors(config).items()
        ]
        model.set_layer(layer, tensors)
    model.set_final_norm([encoder("layer_norm.weight", width), encoder("layer_norm.bias", width)])

    weights = {name: read(name, size) for name, size in shape.head_shapes().items()}
    for kind in ("weight", "bias"):
        weights[f"pool_norms.{kind}"] = np.stack(
            [weights[f"pool_norms.{i}.{kind}"] for i in range(2 + shape.pooling_heads)]
        )
    names = (*_POOLING, *HEAD_NAMES, *(REGRESSOR_NAMES if shape.centres else ()))
    model.set_head(
        [np.ascontiguousarray(weights[name], np.float32) for name in names],
        layer_weights(weights["layer_mix"]).tolist(),
    )


def _run(work: Callable[[], Result]) -> Result:
    try:
        return work()
    except ValueError as error:
        raise BackendError(str(error), hint="send a batch of the model's limits") from None
    except RuntimeError as error:
        raise _failed(error) from None


def _unavailable(error: RuntimeError) -> BackendError:
    # The kernels' own messages end with what to do.
    what, _, hint = str(error).partition("; ")
    return BackendError(what, hint=hint)


def _failed(error: RuntimeError) -> BackendError:
    if "lower the limits" in str(error):
        return _unavailable(error)
    memory = re.search(r"out of memory", str(error))
    hint = "another process took it; see nvidia-smi" if memory else "load the model again"
    return BackendError(f"the GPU failed: {error}", hint=hint)


def _unfit(error: ValueError) -> BackendError:
    return BackendError(f"the CUDA kernels cannot run this grader: {error}", hint="use Triton's")
