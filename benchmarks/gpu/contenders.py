"""Who is timed: the grader's encoder and pooling, from windows on the host to sums on the host."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from asa_engine.bundle import CONFIG_NAME, WEIGHTS_NAME, Bundle, write_manifest
from asa_engine.errors import AsaError, BackendError
from asa_engine.gpu.device import Device, Limits, Model, Ragged
from asa_engine.gpu.families import FAMILIES
from asa_engine.graders import DEFAULT_GRADER, grader_entry
from asa_engine.graders.acoustic.backends.base import DeviceBackend
from asa_engine.runtimes import runtime
from benchmarks.gpu.workloads import Size, prepare

__all__ = [
    "CONTENDERS",
    "DRY",
    "REFERENCE",
    "Contender",
    "NotHere",
    "gpu_description",
    "library_versions",
    "open_device",
]

Array = NDArray[np.float32]


class NotHere(Exception):
    """A contender cannot run here; the message says why."""


class Contender(ABC):
    """One way to encode windows.

    Args:
        size: The grader.
        folder: Holds its checkpoint, and room for what is made of it.
        limits: The largest batch that will come.
        dry: Whether this is a walk on the CPU.

    Attributes:
        ragged: Whether it takes windows of different lengths without padding.
    """

    ragged: ClassVar[bool] = False

    def __init__(self, size: Size, folder: Path, limits: Limits, *, dry: bool) -> None:
        self.size = size
        self.folder = folder
        self.limits = limits
        self.dry = dry
        self.config, self.shape, self.read = prepare(size, folder)

    @property
    @abstractmethod
    def version(self) -> str:
        """Of the library."""

    @abstractmethod
    def encode(self, mels: Sequence[Array]) -> Array:
        """Return the pooled sums of windows, [n, K]; all of one length unless `ragged`."""

    def close(self) -> None:  # noqa: B027  # most hold nothing that the process's end does not free
        """Give back what it holds."""


class Torch(Contender):
    """The grader's own PyTorch module."""

    precision: ClassVar[str] = "fp32"
    attention: ClassVar[str] = ""
    compile_mode: ClassVar[str | None] = None

    def __init__(self, size: Size, folder: Path, limits: Limits, *, dry: bool) -> None:
        super().__init__(size, folder, limits, dry=dry)
        import torch

        from asa_engine.graders.acoustic.model import AcousticGrader

        self._torch = torch
        self._device = "cpu" if dry else "cuda"
        if not dry and not torch.cuda.is_available():
            raise NotHere("torch finds no GPU")
        self._type = torch.float32 if self.precision == "fp32" else torch.bfloat16
        grader = AcousticGrader.load(folder).to(self._device, self._type).eval()
        self._run: Any = grader.encode_window
        if self.compile_mode is not None and not dry:
            self._run = torch.compile(grader.encode_window, mode=self.compile_mode, dynamic=False)

    @property
    def version(self) -> str:
        return f"torch {self._torch.__version__}"

    @contextlib.contextmanager
    def _chosen(self) -> Iterator[None]:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with self._torch.inference_mode():
            if self.attention:
                with sdpa_kernel(getattr(SDPBackend, self.attention)):
                    yield
            else:
                yield

    def encode(self, mels: Sequence[Array]) -> Array:
        host = self._torch.from_numpy(np.stack(mels))
        if not self.dry:
            host = host.pin_memory()
        with self._chosen():
            mel = host.to(self._device, self._type, non_blocking=True)
            stats = self._run(mel)[1]
            pooled: Array = stats.float().cpu().numpy()
        return pooled


class EagerFp32(Torch):
    pass


class EagerBf16(Torch):
    precision, attention = "bf16", "MATH"


class SdpaBf16(Torch):
    precision = "bf16"


class CompiledBf16(Torch):
    precision, compile_mode = "bf16", "default"


class CompiledMaxBf16(Torch):
    precision, compile_mode = "bf16", "max-autotune"


def open_device(family: str, *, dry: bool) -> Device:
    """Return the GPU through a family of kernels; in a dry run, what stands in for it.

    Raises:
        NotHere: It cannot run here.
    """
    if dry:
        stand_ins = {
            "triton": "asa_engine.gpu.triton.emulation:EmulatedDevice",
            "cuda": "asa_engine.gpu.numpy_device:NumpyDevice",
        }
        module, name = stand_ins[family].split(":")
        stand_in: Device = getattr(importlib.import_module(module), name)()
        return stand_in
    module, name = FAMILIES[family].split(":")
    try:
        device: Device = getattr(importlib.import_module(module), name).find()
        return device
    except (BackendError, ImportError) as error:
        raise NotHere(str(error)) from None


class Ours(Contender):
    """The project's kernels."""

    ragged = True
    family: ClassVar[str]
    precision: ClassVar[str] = "bf16"

    def __init__(self, size: Size, folder: Path, limits: Limits, *, dry: bool) -> None:
        super().__init__(size, folder, limits, dry=dry)
        self._device = open_device(self.family, dry=dry)
        need = self._device.need_bytes(self.shape, self.precision, limits)
        free = self._device.machine().free_bytes
        if need > free:
            raise NotHere(f"{limits} needs {need >> 20} MiB, {free >> 20} MiB are free")
        self.model: Model = self._device.load(self.shape, self.read, self.precision, limits)

    @property
    def version(self) -> str:
        return ", ".join(f"{k} {v}" for k, v in self._device.versions().items())

    def encode(self, mels: Sequence[Array]) -> Array:
        return self.model.encode(Ragged.of(mels)).stats

    def close(self) -> None:
        self.model.close()


class OursTriton(Ours):
    family = "triton"


class OursTritonFp16(OursTriton):
    precision = "fp16"


class OursCuda(Ours):
    family = "cuda"


class Exported(Contender):
    """A backend that runs the typed graph: ONNX Runtime and TensorRT."""

    backend: ClassVar[str]
    precision: ClassVar[str] = "bf16"

    def __init__(self, size: Size, folder: Path, limits: Limits, *, dry: bool) -> None:
        super().__init__(size, folder, limits, dry=dry)
        if not (usable := runtime(self.backend).availability()).usable:
            raise NotHere(usable.reason)
        try:
            bundle = self._bundle()
            opened = grader_entry(bundle.grader).open(bundle, self.backend, self.precision, 1)
        except AsaError as error:
            raise NotHere(str(error)) from None
        if not isinstance(opened, DeviceBackend):
            raise NotHere(f"{self.backend} takes one window at a time")
        self._backend = opened

    @property
    def version(self) -> str:
        return ", ".join(f"{k} {v}" for k, v in self._backend.versions().items())

    def encode(self, mels: Sequence[Array]) -> Array:
        return self._backend.encode_many(mels).stats

    def _bundle(self) -> Bundle:
        """Export the checkpoint, once, without judging it: its weights are random."""
        folder = self.folder.with_name(f"{self.folder.name}-{self.backend}-{self.precision}")
        if not (folder / "asa.json").is_file():
            import onnx

            from asa_export.onnx import head_model
            from asa_export.typed import typed_model
            from asa_export.weights import Weights

            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for name in (CONFIG_NAME, WEIGHTS_NAME):
                shutil.copyfile(self.folder / name, folder / name)
            weights = Weights(folder / WEIGHTS_NAME)
            onnx.save(typed_model(self.config, weights, self.precision), folder / "grader.onnx")
            onnx.save(head_model(self.config, weights), folder / "head.onnx")
            write_manifest(
                folder,
                name="random",
                version="1",
                grader=DEFAULT_GRADER,
                stages={
                    "grader": {self.backend: {self.precision: "grader.onnx"}},
                    "head": {self.backend: {self.precision: "head.onnx"}},
                },
                auto=(),
                parity={},
            )
        return Bundle.open(folder)


class OnnxRuntimeCuda(Exported):
    backend = "onnxruntime-cuda"


class OnnxRuntimeTensorRT(Exported):
    backend = "onnxruntime-tensorrt"


class TensorRT(Exported):
    backend = "tensorrt"


CONTENDERS: dict[str, type[Contender]] = {
    "torch-eager-fp32": EagerFp32,
    "torch-eager-bf16": EagerBf16,
    "torch-sdpa-bf16": SdpaBf16,
    "torch-compile-bf16": CompiledBf16,
    "torch-compile-max-bf16": CompiledMaxBf16,
    "onnxruntime-cuda-bf16": OnnxRuntimeCuda,
    "onnxruntime-tensorrt-bf16": OnnxRuntimeTensorRT,
    "tensorrt-bf16": TensorRT,
    "ours-triton-bf16": OursTriton,
    "ours-triton-fp16": OursTritonFp16,
    "ours-cuda-bf16": OursCuda,
}
REFERENCE = "torch-eager-fp32"
# A dry run takes one of each kind; what cannot run on a CPU says so, as on a GPU.
DRY = ("torch-eager-fp32", "torch-sdpa-bf16", "tensorrt-bf16", "ours-triton-bf16", "ours-cuda-bf16")


def library_versions() -> dict[str, str]:
    """Versions of what may take part, as far as it is installed."""
    versions = {}
    for name in ("torch", "triton", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def gpu_description(*, dry: bool) -> dict[str, Any]:
    """The GPU and its driver, as JSON values."""
    if dry:
        return {"name": "none (dry run on the CPU)", "compute_capability": "", "driver": ""}
    from asa_engine.gpu.device_memory import CudaDriver, Gpu

    gpu = Gpu(CudaDriver.open())
    machine = gpu.machine()
    gpu.close()
    return {
        "name": machine.name,
        "compute_capability": "{}.{}".format(*machine.compute_capability),
        "driver": machine.driver,
        "total_gib": round(machine.total_bytes / 2**30, 1),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
    }
