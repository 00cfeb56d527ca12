"""Compiles the kernels for GPUs that are not here, as a model would launch them.

Triton brings NVIDIA's assembler along, so that everything but running can be checked on any
machine: that each kernel compiles for each architecture, what it takes of shared memory and
registers, and whether registers spill.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
from numpy.typing import NDArray
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from asa_engine.gpu.device import Limits, Ragged
from asa_engine.gpu.triton.model import TritonModel
from asa_engine.nn.acoustic_tensors import GraderShape

__all__ = ["SHARED_LIMIT_BYTES", "Compiled", "Launch", "compile_launch", "launches_of"]

# CUDA C++ Programming Guide, "Technical Specifications per Compute Capability": most shared
# memory of a thread block.
SHARED_LIMIT_BYTES = {
    80: 163 * 1024, 86: 99 * 1024, 87: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024, 120: 99 * 1024,
}  # fmt: skip
_POINTERS = {
    torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16",
    torch.float64: "*fp64", torch.int32: "*i32",
}  # fmt: skip
_ALIGNMENT = 16


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel as it is launched: its arguments' types, and the values it is compiled for."""

    kernel: JITFunction[Any]
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    aligned: tuple[int, ...]
    warps: int
    stages: int

    @property
    def name(self) -> str:
        """The kernel's name."""
        return str(self.kernel.__name__)


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a kernel takes on an architecture.

    Attributes:
        shared_bytes: Shared memory of a thread block.
        registers: Registers of a thread.
        spilled_bytes: Registers that found no room, stores and loads.
        tensor_cores: Whether it multiplies on tensor cores.
    """

    name: str
    capability: int
    shared_bytes: int
    registers: int
    spilled_bytes: int
    tensor_cores: bool


def launches_of(shape: GraderShape, precision: str) -> list[Launch]:
    """Return every different launch of a model on windows of samples, running none."""
    launches: dict[Launch, None] = {}

    def zeros(_: str, size: tuple[int, ...]) -> NDArray[np.float32]:
        return np.zeros(size, np.float32)

    with _recorded(lambda launch: launches.setdefault(launch)):
        model = TritonModel(shape, zeros, precision, Limits(1, 64), "cpu")
        model.encode(Ragged.of([np.zeros(1600, np.float32)]))
        model.head(np.ones((1, shape.stats_width), np.float32))
    return list(launches)


@contextmanager
def _recorded(take: Callable[[Launch], object]) -> Iterator[None]:
    """Hand over launches instead of running them."""
    launch = JITFunction.__getitem__

    def record(kernel: JITFunction[Any], grid: object) -> Callable[..., None]:
        def called(*arguments: Any, num_warps: int = 4, num_stages: int = 3, **named: Any) -> None:
            take(_described(kernel, arguments, named, num_warps, num_stages))

        return called

    JITFunction.__getitem__ = record
    try:
        yield
    finally:
        JITFunction.__getitem__ = launch


def _described(
    kernel: JITFunction[Any],
    arguments: tuple[Any, ...],
    named: dict[str, Any],
    warps: int,
    stages: int,
) -> Launch:
    values = dict(zip(kernel.arg_names, arguments, strict=False)) | named
    signature, constants, aligned = [], [], []
    for place, parameter in enumerate(kernel.params):
        value = values[parameter.name]
        if parameter.is_constexpr:
            signature.append((parameter.name, "constexpr"))
            constants.append((parameter.name, value))
        elif isinstance(value, torch.Tensor):
            signature.append((parameter.name, _POINTERS[value.dtype]))
            aligned.append(place)
        elif isinstance(value, int):
            signature.append((parameter.name, "i32"))
            if value % _ALIGNMENT == 0:
                aligned.append(place)
        else:
            signature.append((parameter.name, "fp32"))
    return Launch(kernel, tuple(signature), tuple(constants), tuple(aligned), warps, stages)


def compile_launch(launch: Launch, capability: int) -> Compiled:
    """Compile and assemble a launch.

    Args:
        launch: One of `launches_of`.
        capability: Such as 90 for Hopper.

    Raises:
        Exception: Triton or the assembler refuses it.
    """
    attributes = {(place,): [["tt.divisibility", _ALIGNMENT]] for place in launch.aligned}
    source = ASTSource(launch.kernel, dict(launch.signature), dict(launch.constants), attributes)
    options = {"num_warps": launch.warps, "num_stages": launch.stages}
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    ptx = made.asm["ptx"]
    registers, spilled = _assemble(ptx, capability)
    return Compiled(
        launch.name,
        capability,
        made.metadata.shared,
        registers,
        spilled,
        "wgmma" in ptx or "mma.sync" in ptx,
    )


def _assemble(ptx: str, capability: int) -> tuple[int, int]:
    """Return registers a thread and spilled bytes, as the assembler says."""
    target = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)
    assert target is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx, encoding="utf-8")
        said = subprocess.run(
            [
                get_ptxas(capability).path,
                "-v",
                f"--gpu-name={target[1]}",
                str(path),
                "-o",
                str(path.with_suffix(".cubin")),
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stderr
    registers = re.search(r"Used (\d+) registers", said)
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", said)
    assert registers is not None, said
    return int(registers[1]), sum(map(int, spills))
