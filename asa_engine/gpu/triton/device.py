"""The GPU that the Triton kernels run on, or the interpreter that stands in for it."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec
from typing import Self

from asa_engine.errors import BackendError
from asa_engine.gpu.device import Limits, Machine, Model, Read
from asa_engine.nn.acoustic_tensors import GraderShape

__all__ = ["TritonDevice"]

# The driver's context, compiled kernels, captured graphs, and what the allocator rounds up.
RESERVE_BYTES = 640 * 2**20
INTERPRETER_BYTES = 2**30
_INSTALL = "pip install 'asa-engine[cuda]'"


class TritonDevice:
    """See `asa_engine.gpu.device.Device`.

    Args:
        device: A torch device; "cpu" only under Triton's interpreter (`TRITON_INTERPRET=1`).
    """

    name = "triton"
    precisions = ("fp32", "bf16", "fp16")

    def __init__(self, device: str = "cuda") -> None:
        self._device = device

    @classmethod
    def find(cls) -> Self:
        """Return this process's GPU.

        Raises:
            BackendError: A package, a driver or a GPU is missing, or they do not fit one another.
        """
        missing = [name for name in ("torch", "triton") if find_spec(name) is None]
        if missing:
            raise BackendError(f"{' and '.join(missing)} not installed", hint=_INSTALL)
        import torch
        import triton

        if triton.knobs.runtime.interpret:
            return cls("cpu")
        if torch.version.cuda is None:
            raise BackendError(
                f"torch {torch.__version__} is built without CUDA",
                hint="install the build of torch for CUDA",
            )
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
        except (RuntimeError, AssertionError) as error:
            raise BackendError(
                f"torch {torch.__version__} for CUDA {torch.version.cuda} finds no GPU: {error}",
                hint="install a newer driver; in a container, start it with --gpus all",
            ) from None
        return cls("cuda")

    def machine(self) -> Machine:
        """Describe the GPU as it is now."""
        if self._device == "cpu":
            return Machine(
                "Triton's interpreter", (0, 0), "none", INTERPRETER_BYTES, INTERPRETER_BYTES
            )
        import torch

        free, total = torch.cuda.mem_get_info()
        properties = torch.cuda.get_device_properties()
        return Machine(
            properties.name,
            (properties.major, properties.minor),
            f"CUDA {torch.version.cuda}",
            total,
            free,
        )

    def versions(self) -> dict[str, str]:
        """Return the versions of torch and triton."""
        return {name: metadata.version(name) for name in ("torch", "triton")}

    def need_bytes(self, shape: GraderShape, precision: str, limits: Limits) -> int:
        """Count weights and buffers exactly, and a reserve for what the driver takes."""
        from asa_engine.gpu.triton.buffers import buffer_bytes
        from asa_engine.gpu.triton.weights import weight_bytes

        need = weight_bytes(shape, precision) + buffer_bytes(shape, precision, limits)
        return need + (0 if self._device == "cpu" else RESERVE_BYTES)

    def load(self, shape: GraderShape, read: Read, precision: str, limits: Limits) -> Model:
        """Put a grader on the GPU."""
        import torch

        from asa_engine.gpu.triton.model import TritonModel

        try:
            return TritonModel(shape, read, precision, limits, self._device)
        except torch.cuda.OutOfMemoryError as error:
            raise BackendError(
                f"the GPU's memory was taken while the grader was loaded: {error}",
                hint="another process took it; see nvidia-smi, and load again",
            ) from None
