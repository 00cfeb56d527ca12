"""The project's own GPU kernels: the whole grader on one NVIDIA GPU, for many streams at once.

All engines of a process that open the same bundle at the same precision share one model and one
batcher, so the windows of their streams run in common batches.
"""

from __future__ import annotations

import importlib
import os
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from asa_engine.backends.base import Availability, DeviceBackend, HeadOutput
from asa_engine.backends.batching import Batcher, Work
from asa_engine.backends.gpu import CudaDriver, Gpu
from asa_engine.backends.safetensors import Tensors
from asa_engine.bundle import WEIGHTS_NAME, Bundle
from asa_engine.errors import BackendError, CheckpointError
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.kernels.device import (
    Device,
    GraderShape,
    Limits,
    Outputs,
    frames_of,
    mel_frames_of,
)

__all__ = ["FAMILIES", "CudaBackend", "find_device", "grader_shape", "limits_of"]

FAMILIES: Final = {
    "triton": "asa_engine.kernels.triton.device:TritonDevice",
    "cuda": "asa_engine.kernels.cuda.device:CudaDevice",
}
FAMILY_VARIABLE: Final = "ASA_GPU_KERNELS"
LEAST_CAPABILITY: Final = (8, 0)
_INSTALL: Final = "pip install 'asa-engine[cuda]'"
MAX_BATCH_WINDOWS: Final = 256
# A batch's buffers grow with its frames: this many full windows at once, the rest takes turns.
MAX_BATCH_FRAMES: Final = 48_000


def find_device() -> Device:
    """Return the GPU through the family of kernels that `ASA_GPU_KERNELS` names, or the first here.

    Raises:
        BackendError: There is none; every family says what it lacks.
    """
    wanted = os.environ.get(FAMILY_VARIABLE)
    if wanted is not None and wanted not in FAMILIES:
        raise BackendError(
            f"{FAMILY_VARIABLE} is {wanted!r}", mend=f"choose from {', '.join(FAMILIES)}"
        )
    lacking = []
    for name in FAMILIES if wanted is None else (wanted,):
        module, attribute = FAMILIES[name].split(":")
        try:
            device: Device = getattr(importlib.import_module(module), attribute).find()
            return device
        except BackendError as error:
            lacking.append(f"{name}: {error}")
        except ImportError as error:
            lacking.append(f"{name}: {error}")
    raise BackendError("no family of GPU kernels can run here", mend="; ".join(lacking))


def grader_shape(config: AcousticConfig) -> GraderShape:
    """Return what a device must know of a grader."""
    return GraderShape(
        encoder=config.encoder,
        pooling_heads=config.attention_heads,
        prior_width=config.prior_width,
        levels=len(config.prior_levels),
        prior_embedding=config.prior_embedding,
        head_width=config.head_width,
        aspects=len(config.aspects),
        centres=config.kernel_centres,
        place=config.kernel_width if config.kernel_centres else 0,
    )


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
        f"the grader needs {_mib(need)} of GPU memory at {precision} for one window; "
        f"{machine.name} has {_mib(machine.free_bytes)} free of {_mib(machine.total_bytes)}",
        mend=f"free some of the {_mib(others)} that are taken (nvidia-smi names the processes), "
        "choose a lower precision or a smaller grader",
    )


def _mib(size_bytes: int) -> str:
    return f"{-(-size_bytes // 2**20)} MiB"


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
                mend="name another precision",
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
    def availability(cls) -> Availability:
        """Usable with a driver, a GPU of compute capability 8.0 or newer, and kernels for it."""
        try:
            driver = CudaDriver.open()
            gpu = Gpu(driver)
            machine = gpu.machine()
            gpu.close()
        except BackendError as error:
            packages = [name for name in ("torch", "triton") if find_spec(name) is None]
            lacking = f"; {' and '.join(packages)} not installed ({_INSTALL})" if packages else ""
            return Availability(False, f"{error}{lacking}")
        capability = "{}.{}".format(*machine.compute_capability)
        if machine.compute_capability < LEAST_CAPABILITY:
            least = "{}.{}".format(*LEAST_CAPABILITY)
            return Availability(
                False, f"{machine.name} has compute capability {capability}; cuda needs {least}"
            )
        try:
            device = find_device()
        except BackendError as error:
            return Availability(False, str(error))
        free, total = _mib(machine.free_bytes), _mib(machine.total_bytes)
        return Availability(
            True,
            f"{machine.name}, compute capability {capability}, {free} free of {total}, "
            f"{machine.driver}, kernels in {device.name}",
            device.versions(),
        )

    @classmethod
    def open(cls, bundle: Bundle, *, precision: str, threads: int) -> Self:
        """Put the bundle's checkpoint on the GPU, or share what is there already."""
        return cls(find_device(), bundle, precision=precision, threads=threads)

    def encode_many(
        self,
        mels: Sequence[NDArray[np.float32]],
        sums: NDArray[np.float64] | None = None,
        *,
        frames: bool = False,
    ) -> Outputs:
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
        found = [future.result() for future in futures]
        return Outputs(
            np.concatenate([one.stats for one in found]),
            np.concatenate([one.scores for one in found]),
            np.concatenate([one.prior for one in found]),
            [kept for one in found for kept in one.frames or ()] if frames else None,
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
    shape = grader_shape(config)
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
            mend="weights and configuration are not of one model",
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
