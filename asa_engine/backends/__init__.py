"""Run-time backends: one file each, found by name in `BACKENDS`."""

from __future__ import annotations

import importlib

from asa_engine.backends.base import Availability, Backend, Encoded, HeadOutput
from asa_engine.errors import BackendError

__all__ = [
    "BACKENDS",
    "UNSUPPORTED",
    "Availability",
    "Backend",
    "Encoded",
    "HeadOutput",
    "backend_class",
]

BACKENDS = {
    "native": "asa_engine.backends.native:NativeBackend",
    "onnxruntime": "asa_engine.backends.onnxruntime:OnnxRuntimeBackend",
    "torch": "asa_engine.backends.torch:TorchBackend",
    "fake": "asa_engine.backends.fake:FakeBackend",
}

# Named by the command line's contract, with the reason why this version cannot run them.
UNSUPPORTED = {
    "ctranslate2": "it runs recognisers and language models, which no grader of this version has",
    "tensorrt": "this version exports no TensorRT engines",
}


def backend_class(name: str) -> type[Backend]:
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
    found: type[Backend] = getattr(importlib.import_module(module), attribute)
    return found
