"""Two families of kernels of our own for one GPU: Triton's and CUDA C++'s.

Both stay until a GPU has measured them; then the slower one goes.
"""

from __future__ import annotations

import importlib
import os
from typing import Final

from asa_engine.errors import BackendError
from asa_engine.gpu.device import Device

__all__ = ["FAMILIES", "find_device"]

FAMILIES: Final = {
    "triton": "asa_engine.gpu.triton.device:TritonDevice",
    "cuda": "asa_engine.gpu.cuda.device:CudaDevice",
}
FAMILY_VARIABLE: Final = "ASA_GPU_KERNELS"


def find_device() -> Device:
    """Return the GPU through the family of kernels that `ASA_GPU_KERNELS` names, or the first here.

    Raises:
        BackendError: There is none; every family says what it lacks.
    """
    wanted = os.environ.get(FAMILY_VARIABLE)
    if wanted is not None and wanted not in FAMILIES:
        raise BackendError(
            f"{FAMILY_VARIABLE} is {wanted!r}", hint=f"choose from {', '.join(FAMILIES)}"
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
    raise BackendError("no family of GPU kernels can run here", hint="; ".join(lacking))
