"""Run-time backends: one file each, found by name in `BACKENDS`."""

from __future__ import annotations

import importlib

from asa_engine.backends.base import (
    Availability,
    Backend,
    DeviceBackend,
    Encoded,
    HeadOutput,
    Runtime,
)
from asa_engine.errors import BackendError

__all__ = [
    "BACKENDS",
    "Availability",
    "Backend",
    "DeviceBackend",
    "Encoded",
    "HeadOutput",
    "Runtime",
    "backend_class",
]

BACKENDS = {
    "native": "asa_engine.backends.native:NativeBackend",
    "onnxruntime": "asa_engine.backends.onnxruntime:OnnxRuntimeBackend",
    "onnxruntime-cuda": "asa_engine.backends.onnxruntime_gpu:OnnxRuntimeCudaBackend",
    "onnxruntime-tensorrt": "asa_engine.backends.onnxruntime_gpu:OnnxRuntimeTensorRTBackend",
    "tensorrt": "asa_engine.backends.tensorrt:TensorRTBackend",
    "cuda": "asa_engine.backends.cuda:CudaBackend",
    "ctranslate2": "asa_engine.backends.ctranslate2:CTranslate2Runtime",
    "torch": "asa_engine.backends.torch:TorchBackend",
    "fake": "asa_engine.backends.fake:FakeBackend",
}


def backend_class(name: str) -> type[Runtime]:
    """Return the backend of that name, importing its file only now.

    Raises:
        BackendError: There is no such backend.
    """
    if name not in BACKENDS:
        raise BackendError(
            f"there is no backend {name!r}", mend=f"choose from {', '.join(BACKENDS)}"
        )
    module, attribute = BACKENDS[name].split(":")
    found: type[Runtime] = getattr(importlib.import_module(module), attribute)
    return found
