"""The project's own kernels on the CPU."""

from __future__ import annotations

from asa_engine.errors import AsaError
from asa_engine.kernels import isa
from asa_engine.runtimes.base import Availability, Runtime

__all__ = ["NativeRuntime"]


class NativeRuntime(Runtime):
    """Compiled kernels, one table an instruction set."""

    name = "native"

    @classmethod
    def availability(cls) -> Availability:
        """Usable everywhere, unless `ASA_CPU_ISA` asks for what the CPU lacks."""
        try:
            return Availability(True, f"kernels for {isa()}")
        except AsaError as error:
            return Availability(False, str(error))
