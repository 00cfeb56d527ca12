"""The project's own kernels on an NVIDIA GPU."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from asa_engine.errors import BackendError
from asa_engine.gpu.device_memory import CudaDriver, Gpu, mib
from asa_engine.gpu.families import find_device
from asa_engine.runtimes.base import Availability, Runtime

__all__ = ["CudaRuntime"]

LEAST_CAPABILITY: Final = (8, 0)
_INSTALL: Final = "pip install 'asa-engine[cuda]'"


class CudaRuntime(Runtime):
    """Kernels of our own, in one of two families."""

    name = "cuda"

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
        free, total = mib(machine.free_bytes), mib(machine.total_bytes)
        return Availability(
            True,
            f"{machine.name}, compute capability {capability}, {free} free of {total}, "
            f"{machine.driver}, kernels in {device.name}",
            device.versions(),
        )
