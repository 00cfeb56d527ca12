"""The project's own GPU kernels: the whole grader on one NVIDIA GPU, for many streams at once.

All engines of a process that open the same bundle at the same precision share one model and one
batcher, so the windows of their streams run in common batches.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from asa_engine.artifacts.safetensors import Tensors
from asa_engine.bundle import WEIGHTS_NAME, Bundle
from asa_engine.errors import BackendError, CheckpointError
from asa_engine.gpu.batching import Batcher, Work
from asa_engine.gpu.device import Device, Limits, Outputs, frames_of, mel_frames_of
from asa_engine.gpu.device_memory import mib
from asa_engine.gpu.families import find_device
from asa_engine.graders.acoustic.backends.base import DeviceBackend, HeadOutput, Mels, Sums
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.nn.acoustic_tensors import GraderShape

__all__ = ["CudaBackend", "limits_of"]

MAX_BATCH_WINDOWS: Final = 256
# A batch's buffers grow with its frames: this many full windows at once, the rest takes turns.
MAX_BATCH_FRAMES: Final = 48_000


def limits_of(device: Device, shape: GraderShape, precision: str, window_frames: int) -> Limits:
    """Return the largest batch that fits into the memory that is free now, halving until it does.

    Args:
        device: The GPU.
        shape: The grader.
        precision: Its precision.
        window_frames: Encoder frames of its longest window.

    Raises:
        BackendError: Not even one window fits; nothing was allocated.
    """
    machine = device.machine()
    windows = min(MAX_BATCH_WINDOWS, max(1, MAX_BATCH_FRAMES // window_frames))
    while True:
        limits = Limits(windows, windows * window_frames)
        need = device.need_bytes(shape, precision, limits)
        if need <= machine.free_bytes:
            return limits
        if windows == 1:
            break
        windows //= 2
    others = machine.total_bytes - machine.free_bytes
    raise BackendError(
        f"the grader needs {mib(need)} of GPU memory at {precision} for one window; "
        f"{machine.name} has {mib(machine.free_bytes)} free of {mib(machine.total_bytes)}",
        hint=f"free some of the {mib(others)} that are taken (nvidia-smi names the processes), "
        "choose a lower precision or a smaller grader",
    )


@dataclass(slots=True)
class _Shared:
    """A model that several backends of a process use."""

    batcher: Batcher
    versions: dict[str, str]
    users: int = 0


_shared: dict[tuple[str, str], _Shared] = {}
# Reentrant: a backend may be collected, and let go, while another is being made.
_shared_lock = threading.RLock()


class CudaBackend(DeviceBackend):
    """The acoustic grader on one GPU, its batches shared with every other engine of its kind.

    Args:
        device: The GPU.
        bundle: Where the weights are.
        precision: One of the device's.
        threads: Threads asked for; the GPU needs none.

    Raises:
        BackendError: The precision is not the device's, or there is too little memory.
        CheckpointError: The weights are damaged, or not this grader's.
    """

    name = "cuda"

    def __init__(self, device: Device, bundle: Bundle, *, precision: str, threads: int) -> None:
        if precision not in device.precisions:
            raise BackendError(
                f"cuda runs at {', '.join(device.precisions)}, not {precision}",
                hint="name another precision",
            )
        self.precision = precision
        self.threads = threads
        key = bundle.sha256, precision
        with _shared_lock:
            held = _shared.get(key) or _load(device, bundle, precision)
            held.users += 1
            _shared[key] = self._held = held
        weakref.finalize(self, _let_go, key)

    @classmethod
    def open(cls, bundle: Bundle, *, precision: str, threads: int) -> Self:
        """Put the bundle's checkpoint on the GPU, or share what is there already."""
        return cls(find_device(), bundle, precision=precision, threads=threads)

    def encode_many(self, mels: Mels, sums: Sums = None, *, frames: bool = False) -> Outputs:
        """Let windows wait for their batches, together with those of other streams.

        Args:
            mels: Log-mels [n_mels, T], or samples [n], each of one recording.
            sums: As for `DeviceBackend.encode_many`.
            frames: Whether to return the encoder frames too.

        Raises:
            AudioError: A window holds NaN or infinity.
            BackendError: The GPU failed, or its sums overflow.
        """
        works = [
            Work(
                stream=object(),
                window=window,
                length=_length(window),
                sums=None if sums is None else sums[row],
                keep=frames,
            )
            for row, window in enumerate(mels)
        ]
        futures = [self._held.batcher.submit(work) for work in works]
        outputs = [future.result() for future in futures]
        return Outputs(
            np.concatenate([one.stats for one in outputs]),
            np.concatenate([one.scores for one in outputs]),
            np.concatenate([one.prior for one in outputs]),
            [kept for one in outputs for kept in one.frames or ()] if frames else None,
        )

    def head(self, stats: NDArray[np.float32]) -> HeadOutput:
        """Compute prior and scores."""
        scores, prior = self._held.batcher.head(stats[np.newaxis])
        return HeadOutput(scores[0], prior[0])

    def versions(self) -> dict[str, str]:
        """Return the GPU, the family of kernels and its libraries."""
        return self._held.versions


def _load(device: Device, bundle: Bundle, precision: str) -> _Shared:
    config = AcousticConfig.from_dict(bundle.config)
    shape = config.shape
    limits = limits_of(device, shape, precision, config.window_frames)
    tensors = Tensors(bundle.path / WEIGHTS_NAME)
    unread = set(tensors.names())

    def read(name: str, size: tuple[int, ...]) -> NDArray[np.float32]:
        unread.discard(name)
        return tensors.read(name, size)

    model = device.load(shape, read, precision, limits)
    if unread:
        model.close()
        raise CheckpointError(
            f"{tensors.path} has unknown {', '.join(sorted(unread)[:3])}",
            hint="weights and configuration are not of one model",
        )
    batcher = Batcher(model, limits)
    batcher.start()
    machine = device.machine()
    versions = {
        "gpu": machine.name,
        "gpu_driver": machine.driver,
        "gpu_kernels": device.name,
        **device.versions(),
    }
    return _Shared(batcher, versions)


def _let_go(key: tuple[str, str]) -> None:
    """Close a model with its last user."""
    with _shared_lock:
        shared = _shared[key]
        shared.users -= 1
        if shared.users:
            return
        del _shared[key]
    shared.batcher.close()


def _length(window: NDArray[np.float32]) -> int:
    mel_frames = window.shape[-1] if window.ndim == 2 else mel_frames_of(window.shape[-1])
    return frames_of(mel_frames)
