"""Run-time backends: one file each, found by name in `BACKENDS`."""

from __future__ import annotations

import importlib

from asa_engine.backends.base import Availability, Backend, Encoded, HeadOutput, Runtime
from asa_engine.errors import BackendError

__all__ = [
    "BACKENDS",
    "UNSUPPORTED",
    "Availability",
    "Backend",
    "Encoded",
    "HeadOutput",
    "Runtime",
    "backend_class",
]

BACKENDS = {
    "native": "asa_engine.backends.native:NativeBackend",
    "onnxruntime": "asa_engine.backends.onnxruntime:OnnxRuntimeBackend",
    "ctranslate2": "asa_engine.backends.ctranslate2:CTranslate2Runtime",
    "torch": "asa_engine.backends.torch:TorchBackend",
    "fake": "asa_engine.backends.fake:FakeBackend",
}

# Named by the command line's contract, with the reason why this version cannot run them.
UNSUPPORTED = {
    "tensorrt": "this version exports no TensorRT engines",
}


def backend_class(name: str) -> type[Runtime]:
    """Return the backend of that name, importing its file only now.

    Raises:
        BackendError: There is no such backend.
    """
    if name in UNSUPPORTED:
        raise BackendError(
            f"the {name} backend cannot be used: {UNSUPPORTED[name]}",
            mend=f"choose from {', '.join(BACKENDS)}",
        )
    if name not in BACKENDS:
        raise BackendError(
            f"there is no backend {name!r}", mend=f"choose from {', '.join(BACKENDS)}"
        )
    module, attribute = BACKENDS[name].split(":")
    found: type[Runtime] = getattr(importlib.import_module(module), attribute)
    return found
