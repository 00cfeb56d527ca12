"""What a GPU does for the acoustic grader: the seam between its kernels and who feeds them.

A `Device` is one GPU through one family of kernels. It loads a grader into a `Model`, which takes
ragged batches: windows of different lengths, end to end, without padding. What a model computes
for a window is the same bits whatever else is in the batch, and what is wrong with a window (NaN)
stays in that window's results.

Sums of windows are added in float64, on the host or in the model (`Model.encode`, `sums`), so that
a recording's score is what `asa_engine.graders.acoustic` gives on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from asa_engine.nn.acoustic_tensors import GraderShape

__all__ = [
    "HOP_SAMPLES",
    "Device",
    "Limits",
    "Machine",
    "Model",
    "Outputs",
    "Ragged",
    "Read",
    "frames_of",
    "mel_frames_of",
]

HOP_SAMPLES = 160
CONV_STRIDE = 2

Read = Callable[[str, tuple[int, ...]], NDArray[np.float32]]
"""Returns a tensor by its checkpoint name, of the shape asked for, or raises."""


def mel_frames_of(samples: int) -> int:
    """Return how many log-mel frames (100 Hz) come of so many samples."""
    return samples // HOP_SAMPLES


def frames_of(mel_frames: int) -> int:
    """Return how many encoder frames (50 Hz) come of so many log-mel frames."""
    return -(-mel_frames // CONV_STRIDE)


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest batch a model takes; its buffers are made for it once.

    Attributes:
        windows: Windows in a batch.
        frames: Encoder frames (50 Hz) over all windows of a batch.
    """

    windows: int
    frames: int


@dataclass(frozen=True, slots=True)
class Machine:
    """A GPU, as it is now.

    Attributes:
        name: What the driver calls it.
        compute_capability: Such as (9, 0).
        driver: Version of the driver, or of what stands in for it.
        total_bytes: Memory in all.
        free_bytes: Memory that nobody holds, other processes included.
    """

    name: str
    compute_capability: tuple[int, int]
    driver: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Ragged:
    """Windows of different lengths end to end.

    Attributes:
        values: Samples, float32 [n], 16 kHz; or log-mel frames, float32 [n, n_mels], 100 a second.
        starts: Where each window begins, and where the last one ends, int32 [windows + 1].
    """

    values: NDArray[np.float32]
    starts: NDArray[np.int32]

    @classmethod
    def of(cls, windows: Sequence[NDArray[np.float32]]) -> Self:
        """Join windows, each samples [n] or a log-mel [n_mels, T] as the CPU kernels give it.

        Raises:
            ValueError: There is no window, or their shapes do not go together.
        """
        if len({(window.ndim, *window.shape[:-1]) for window in windows}) != 1:
            raise ValueError("a batch is one or more windows, all samples or all log-mels")
        lengths = [window.shape[-1] for window in windows]
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        values = np.concatenate([window.T for window in windows]).astype(np.float32, copy=False)
        return cls(np.ascontiguousarray(values), starts)

    @property
    def windows(self) -> int:
        """Number of windows."""
        return len(self.starts) - 1

    @property
    def frames(self) -> list[int]:
        """Encoder frames of each window."""
        lengths = np.diff(self.starts).tolist()
        if self.values.ndim == 1:
            lengths = [mel_frames_of(length) for length in lengths]
        return [frames_of(length) for length in lengths]


class Outputs(NamedTuple):
    """What a model computed, one row a window.

    Attributes:
        stats: Pooled sums of each window alone, float32 [windows, K].
        scores: In scale units, not clipped, of `sums + stats`, float32 [windows, aspects].
        prior: Probabilities of the prior's levels, likewise, float32 [windows, levels].
        frames: Mixed encoder frames of each window, float32 [T, D]; `None` unless asked for.
    """

    stats: NDArray[np.float32]
    scores: NDArray[np.float32]
    prior: NDArray[np.float32]
    frames: list[NDArray[np.float32]] | None = None


class Model(Protocol):
    """A grader on a GPU. One thread at a time may use it."""

    def encode(
        self, batch: Ragged, sums: NDArray[np.float64] | None = None, *, frames: bool = False
    ) -> Outputs:
        """Encode windows, pool them and score the recordings so far.

        Args:
            batch: At most `Limits`; every window at least one encoder frame and at most the
                positional table.
            sums: Sums over the recording's earlier windows, [windows, K]; `None` for none.
            frames: Whether to return the encoder frames too.

        Raises:
            BackendError: The GPU failed; the model is of no more use.
        """

    def head(self, stats: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Compute scores [n, aspects] and prior [n, levels] of summed stats, float32 [n, K].

        Any n; a model cuts it to `Limits.windows` rows a launch.

        Raises:
            BackendError: As for `encode`.
        """

    def close(self) -> None:
        """Give the memory back."""


class Device(Protocol):
    """One GPU through one family of kernels.

    Attributes:
        name: The family, for the receipt: "triton", "cuda", "numpy".
        precisions: What `load` takes, of "fp32", "bf16" and "fp16".
    """

    name: str
    precisions: tuple[str, ...]

    def machine(self) -> Machine:
        """Describe the GPU.

        Raises:
            BackendError: There is none, or its driver cannot run this.
        """

    def versions(self) -> dict[str, str]:
        """Return the libraries that scores depend on and their versions."""

    def need_bytes(self, shape: GraderShape, precision: str, limits: Limits) -> int:
        """Return the most memory that `load` and every later call take, without touching any."""

    def load(self, shape: GraderShape, read: Read, precision: str, limits: Limits) -> Model:
        """Put a grader on the GPU. Encoder weights are read as "encoder." + Hugging Face's name.

        Raises:
            BackendError: It does not fit, or the GPU failed.
            CheckpointError: What `read` raises.
        """
