"""ONNX Runtime on an NVIDIA GPU: its CUDA provider, and its TensorRT provider."""

from __future__ import annotations

import contextlib
import io
import re
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Final

from asa_engine.errors import BackendError
from asa_engine.gpu.device_memory import CudaDriver, Gpu, cuda_text
from asa_engine.runtimes.base import Availability, Runtime

__all__ = [
    "CUDA_PROVIDER",
    "PLAIN",
    "TENSORRT_PROVIDER",
    "OnnxRuntimeCuda",
    "OnnxRuntimeTensorRT",
    "Options",
    "claim_gpu",
    "gpu_session",
]

CUDA_PROVIDER: Final = "CUDAExecutionProvider"
TENSORRT_PROVIDER: Final = "TensorrtExecutionProvider"
_PACKAGE: Final = "onnxruntime-gpu"
_INSTALL: Final = "pip install 'asa-engine[gpu]'"
_MISSING: Final = re.compile(r"Failed to load (\S+?):")

Options = dict[str, str]

PLAIN: Final[Options] = {"device_id": "0", "use_tf32": "0"}
"""One GPU, and float32 that is float32."""


class OnnxRuntimeCuda(Runtime):
    """The CUDA provider."""

    name = "onnxruntime-cuda"
    provider: ClassVar[str] = CUDA_PROVIDER

    @classmethod
    def availability(cls) -> Availability:
        """Usable with onnxruntime-gpu, a driver for its CUDA, and a GPU."""
        try:
            gpu, version = claim_gpu(cls.provider)
        except BackendError as error:
            return Availability(False, str(error))
        machine = gpu.machine()
        gpu.close()
        return Availability(
            True,
            f"{machine.name}, {machine.free_bytes // 2**20} MiB free, {machine.driver}",
            {_PACKAGE: version, "cuda_driver": cuda_text(gpu.driver.version)},
        )


class OnnxRuntimeTensorRT(OnnxRuntimeCuda):
    """The TensorRT provider."""

    name = "onnxruntime-tensorrt"
    provider = TENSORRT_PROVIDER


def gpu_session(path: Path, provider: str, options: Options = PLAIN) -> Any:
    """Create a session on a GPU's provider.

    Raises:
        BackendError: The provider is not in this package, or cannot be loaded, or refuses.
    """
    _check(provider)
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    providers = [(provider, options), "CPUExecutionProvider"]
    if provider == TENSORRT_PROVIDER:
        providers.insert(1, (CUDA_PROVIDER, PLAIN))
    said = io.StringIO()  # onnxruntime prints what it misses, and goes on without
    try:
        with contextlib.redirect_stdout(said):
            if hasattr(ort, "preload_dlls"):
                ort.preload_dlls()  # CUDA and cuDNN from their packages, where these are installed
            graph = ort.InferenceSession(str(path), settings, providers=providers)
    except Exception as failure:  # onnxruntime raises its own, unrelated exception types
        raise BackendError(
            f"onnxruntime cannot load {path.name} on the GPU: {failure}",
            hint="run 'asa-engine doctor'",
        ) from None
    if graph.get_providers()[0] != provider:
        missing = ", ".join(dict.fromkeys(_MISSING.findall(said.getvalue())))
        why = f": it lacks {missing}" if missing else ""
        raise BackendError(
            f"onnxruntime could not load its {provider} and would have used the CPU{why}",
            hint=f"CUDA {_cuda_major()} and cuDNN 9 must be installed: "
            "pip install 'asa-engine[gpu]'",
        )
    graph.disable_fallback()
    return graph


def claim_gpu(provider: str) -> tuple[Gpu, str]:
    """Return the GPU and the version of the package that runs a provider on it.

    Raises:
        BackendError: The package, the provider, a driver for its CUDA or a GPU is missing.
    """
    version = _check(provider)
    driver = CudaDriver.open()
    driver.require(_cuda_major(), _PACKAGE)
    return Gpu(driver), version


def _check(provider: str) -> str:
    """Return the version of the package that has a GPU's provider."""
    try:
        version = metadata.version(_PACKAGE)
    except metadata.PackageNotFoundError:
        raise BackendError(f"{_PACKAGE} is not installed", hint=_INSTALL) from None
    import onnxruntime as ort

    if provider not in ort.get_available_providers():
        raise BackendError(
            f"the onnxruntime that is imported has no {provider}: the package for the CPU lies "
            "over the one for GPUs",
            hint="pip uninstall onnxruntime onnxruntime-gpu, then pip install 'asa-engine[gpu]'",
        )
    return version


def _cuda_major() -> int:
    """Return the major version of CUDA that the package was made for; 12 where it is not said."""
    try:
        from onnxruntime.capi import build_and_package_info as build
    except ImportError:
        return 12
    return int(str(getattr(build, "cuda_version", "") or "12").split(".")[0])
