"""Compiles every Triton kernel for GPUs that are not here, as the shipped shapes launch them.

    python -m benchmarks.gpu.compiles --capabilities 80,86,87,89,90,120 --sizes default,large-v3

Needs no GPU. Ends with 1 where a kernel does not compile, or takes more shared memory than a GPU
of that kind has.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

os.environ.pop(
    "TRITON_INTERPRET", None
)  # before triton is imported: the interpreter compiles nothing

from asa_engine.bundle import Bundle
from asa_engine.gpu.triton.ahead import SHARED_LIMIT_BYTES, compile_launch, launches_of
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.nn.acoustic_tensors import GraderShape
from benchmarks.gpu.workloads import SIZES

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Compile and print a line for each kernel; return the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu.compiles", description=__doc__)
    parser.add_argument("--capabilities", default=",".join(map(str, SHARED_LIMIT_BYTES)))
    parser.add_argument("--sizes", default="default", help=f"of default, {', '.join(SIZES)}")
    parser.add_argument("--precisions", default="bf16")
    args = parser.parse_args(argv)
    failures = 0
    for size in args.sizes.split(","):
        for precision in args.precisions.split(","):
            for launch in launches_of(_shape(size), precision):
                for capability in map(int, args.capabilities.split(",")):
                    name = f"{size} {precision} {launch.name} sm_{capability}"
                    try:
                        made = compile_launch(launch, capability)
                    except Exception as error:  # whatever the compiler says is the finding
                        failures += 1
                        print(f"{name}: DOES NOT COMPILE: {str(error).splitlines()[-1]}")
                        continue
                    too_much = made.shared_bytes > SHARED_LIMIT_BYTES[capability]
                    failures += too_much
                    print(
                        f"{name}: {made.shared_bytes} bytes shared, {made.registers} registers, "
                        f"{made.spilled_bytes} bytes spilled"
                        f"{', tensor cores' if made.tensor_cores else ''}"
                        f"{' TOO MUCH SHARED MEMORY' if too_much else ''}",
                        flush=True,
                    )
    return 1 if failures else 0


def _shape(size: str) -> GraderShape:
    if size == "default":
        return AcousticConfig.from_dict(Bundle.open("acoustic").config).shape
    return SIZES[size].config().shape


if __name__ == "__main__":
    sys.exit(main())
