"""What the native encoder's kernels did, and the roofs over them, measured on this machine.

The roofline model: a kernel can do no more operations a second than the smaller of the peak of
its precision and bandwidth times its operations a byte (Williams et al. 2009).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asa_engine import _kernels
from asa_engine.kernels import isa

__all__ = ["TASK", "Lap", "LapLog", "Roofs", "laps_of", "measure_roofs", "summarise_laps"]

TASK: Final = "task"
_STEPS: Final = (
    TASK,
    "pack",
    "conv1",
    "conv2",
    "layer norm",
    "queries",
    "keys",
    "values",
    "attention",
    "output projection",
    "feed-forward in",
    "feed-forward out",
    "mix of layers",
    "moments",
)
_PRECISIONS: Final = ("fp32", "bf16", "int8", "int16")
# Both buffers of a copy together: a first-level cache, a second-level cache, far beyond any cache.
_COPIES: Final = {"L1": 8 << 10, "L2": 128 << 10, "memory": 128 << 20}


class Lap(NamedTuple):
    """One kernel's work on one block of rows.

    Attributes:
        step: Name of the kernel; `TASK` stands for a block's whole way through a layer.
        layer: Index of the layer, -1 for the convolutions before the first.
        precision: Of the products.
        thread: Index of the thread it ran on.
        start_s: When it began, by the clock of `time.perf_counter`.
        end_s: When it ended.
        operations: Useful ones, two a multiply-add; rows that only pad do not count.
        bytes: Weights, inputs and outputs, each once.
    """

    step: str
    layer: int
    precision: str
    thread: int
    start_s: float
    end_s: float
    operations: float
    bytes: float


class LapLog:
    """Laps of kernels that are called one by one from Python, on the calling thread."""

    def __init__(self) -> None:
        self._laps: list[Lap] = []

    @contextlib.contextmanager
    def lap(self, step: str, operations: float, size: float) -> Iterator[None]:
        """Note the block as one kernel's work in float32, of so many operations and bytes."""
        start = time.perf_counter()
        try:
            yield
        finally:
            end = time.perf_counter()
            self._laps.append(Lap(step, -1, "fp32", 0, start, end, operations, size))

    def take(self) -> list[Lap]:
        """Return what was noted since the last call."""
        laps, self._laps = self._laps, []
        return laps


@dataclass(frozen=True, slots=True)
class Roofs:
    """What this machine can do at most, on a number of threads together.

    Attributes:
        isa: Instruction set of the kernels.
        threads: Threads that were busy.
        operations_per_s: Precision -> multiply-adds on registers, two operations each, a second.
        bytes_per_s: "L1", "L2" or "memory" -> bytes read and written a second by copies that fit.
    """

    isa: str
    threads: int
    operations_per_s: Mapping[str, float]
    bytes_per_s: Mapping[str, float]

    def peak(self, precision: str) -> float:
        """Return the operations a second of one of the threads."""
        return self.operations_per_s[precision] / self.threads

    def to_dict(self) -> dict[str, Any]:
        """Return the roofs as JSON values."""
        return asdict(self)


def laps_of(table: NDArray[np.float64]) -> list[Lap]:
    """Name the columns of what `_kernels.Encoder.take_laps` returns, in order of time."""
    laps = [
        Lap(_STEPS[int(row[0])], int(row[1]), _PRECISIONS[int(row[2])], int(row[3]), *row[4:])
        for row in table.tolist()
    ]
    return sorted(laps, key=lambda lap: (lap.start_s, -lap.end_s))


def summarise_laps(laps: Iterable[Lap], roofs: Roofs) -> list[dict[str, Any]]:
    """Add up the laps of each kernel and precision, as JSON values, the longest first.

    Returns:
        Objects with `kernel`, `precision`, `calls`, `ms` (of all threads together), `share` of all
        kernels' time, `operations`, `bytes`, `gflops` and `gb_per_s` (a thread's rates), and
        `of_peak`, the share of the precision's peak; the last is `None` for kernels that only
        move data.
    """
    sums: dict[tuple[str, str], list[float]] = {}
    for lap in laps:
        if lap.step != TASK:
            row = sums.setdefault((lap.step, lap.precision), [0, 0.0, 0.0, 0.0])
            measured = (1, lap.end_s - lap.start_s, lap.operations, lap.bytes)
            row[:] = [old + new for old, new in zip(row, measured, strict=True)]
    total_s = sum(row[1] for row in sums.values())
    return [
        {
            "kernel": step,
            "precision": precision,
            "calls": int(calls),
            "ms": 1e3 * seconds,
            "share": seconds / total_s,
            "operations": operations,
            "bytes": size,
            "gflops": operations / seconds / 1e9,
            "gb_per_s": size / seconds / 1e9,
            "of_peak": operations / seconds / roofs.peak(precision) if operations else None,
        }
        for (step, precision), (calls, seconds, operations, size) in sorted(
            sums.items(), key=lambda item: -item[1][1]
        )
    ]


def measure_roofs(threads: int = 1, seconds: float = 0.1) -> Roofs:
    """Measure the roofs; each figure is the best of many short runs.

    Args:
        threads: Threads to keep busy together.
        seconds: For each figure; there are seven.

    Raises:
        ValueError: `seconds` is not in (0, 10].
        BackendError: `ASA_CPU_ISA` names an instruction set this CPU lacks.
    """
    name = isa()
    with ThreadPoolExecutor(threads) as pool:

        def together(rate: Callable[[], float]) -> float:
            return sum(each.result() for each in [pool.submit(rate) for _ in range(threads)])

        return Roofs(
            isa=name,
            threads=threads,
            operations_per_s={
                precision: together(lambda p=precision: _kernels.matrix_rate(p, seconds))  # type: ignore[misc]
                for precision in _PRECISIONS
            },
            bytes_per_s={
                level: together(lambda n=size: _kernels.copy_rate(n, seconds))  # type: ignore[misc]
                for level, size in _COPIES.items()
            },
        )
