"""Libraries that run models: one file each, found by name in `RUNTIMES`."""

from __future__ import annotations

import importlib

from asa_engine.errors import BackendError
from asa_engine.runtimes.base import Availability, Runtime

__all__ = ["RUNTIMES", "Availability", "Runtime", "runtime"]

RUNTIMES = {
    "native": "native:NativeRuntime",
    "onnxruntime": "onnxruntime:OnnxRuntime",
    "onnxruntime-cuda": "onnxruntime_gpu:OnnxRuntimeCuda",
    "onnxruntime-tensorrt": "onnxruntime_gpu:OnnxRuntimeTensorRT",
    "tensorrt": "tensorrt:TensorRTRuntime",
    "cuda": "cuda:CudaRuntime",
    "ctranslate2": "ctranslate2:CTranslate2Runtime",
    "torch": "torch:TorchRuntime",
    "fake": "fake:FakeRuntime",
}
"""Name -> module and class in this package; the names are those of backends, too."""


def runtime(name: str) -> type[Runtime]:
    """Return the runtime of that name, importing its file only now.

    Raises:
        BackendError: There is no such runtime.
    """
    if name not in RUNTIMES:
        raise BackendError(
            f"there is no backend {name!r}", hint=f"choose from {', '.join(RUNTIMES)}"
        )
    module, attribute = RUNTIMES[name].split(":")
    kind: type[Runtime] = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    return kind
