"""TensorRT, or TensorRT-RTX, on an NVIDIA GPU."""

from __future__ import annotations

from typing import Final

from asa_engine.errors import BackendError
from asa_engine.gpu.device_memory import CudaDriver, Gpu, cuda_text
from asa_engine.gpu.tensorrt_engines import load_library
from asa_engine.runtimes.base import Availability, Runtime

__all__ = ["TensorRTRuntime"]

OLDEST: Final = (7, 5)
"""The oldest compute capability that TensorRT knows."""


class TensorRTRuntime(Runtime):
    """Engines built ahead of time, or on this machine."""

    name = "tensorrt"

    @classmethod
    def availability(cls) -> Availability:
        """Usable with a driver, a GPU that is new enough, and a library that fits the driver."""
        try:
            library = load_library()
            driver = CudaDriver.open()
            driver.require(library.cuda_major, library.name)
            gpu = Gpu(driver)
        except BackendError as error:
            return Availability(False, str(error))
        machine = gpu.machine()
        gpu.close()
        capability = "{}.{}".format(*machine.compute_capability)
        if machine.compute_capability < OLDEST:
            return Availability(
                False, f"{machine.name} has compute capability {capability}; TensorRT needs 7.5"
            )
        free = machine.free_bytes // 2**20
        return Availability(
            True,
            f"{machine.name}, compute capability {capability}, {free} MiB free, {machine.driver}",
            {library.name: library.version, "cuda_driver": cuda_text(driver.version)},
        )
