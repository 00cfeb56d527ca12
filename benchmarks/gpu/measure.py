"""The measurements: each takes a cell of the plan and returns JSON values."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asa_engine.bundle import Bundle
from asa_engine.evaluation.manifest import read_manifest
from asa_engine.gpu.batching import Batcher, Work
from asa_engine.gpu.device import Limits, Ragged, frames_of, mel_frames_of
from asa_engine.graders.acoustic.backends.cuda import CudaBackend
from asa_engine.graders.acoustic.backends.native import NativeBackend
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.graders.acoustic.runtime import AcousticRun
from asa_engine.measuring.speech import find_source, samples_in_memory
from asa_engine.profiling import StageClock
from benchmarks.gpu.contenders import CONTENDERS, REFERENCE, Contender, Ours, open_device
from benchmarks.gpu.workloads import SIZES, bytes_of_window, flops_of_window, mels, samples

__all__ = ["MEASURES", "Cell", "passes"]

Cell = dict[str, Any]
"""What to measure: `section`, and what the section needs; JSON values."""

WARM_PASSES = 3
LATENCY_GOAL_MS = 50.0
CHECKED_WINDOWS = 2
RAGGED_RANGE_S = (1.0, 30.0)


def passes(run: Callable[[], object], seconds: float, least: int, warm: int) -> list[float]:
    """Time a function again and again; return milliseconds.

    Args:
        run: Ends when its result is on the host.
        seconds: For how long, at least.
        least: Fewest passes.
        warm: Passes before, untimed.
    """
    for _ in range(warm):
        run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        started = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - started))
    return times


def _summary(times: list[float]) -> dict[str, Any]:
    p50, p99 = np.percentile(times, (50, 99)).tolist()
    kept = times if len(times) <= 200 else times[:: math.ceil(len(times) / 200)]
    return {
        "n": len(times),
        "p50_ms": p50,
        "p99_ms": p99,
        "samples_ms": [round(ms, 4) for ms in kept],
    }


def peaks(cell: Cell, folder: Path) -> dict[str, Any]:
    """Measure what the machine can do: the matrix peak at 16 bits, and copies in its memory."""
    import torch

    dry = cell["dry"]
    device, side, size = ("cpu", 64, 2**16) if dry else ("cuda", 8192, 2**30)

    def settle() -> None:
        if not dry:
            torch.cuda.synchronize()

    figures: dict[str, Any] = {}
    for name in ("bf16", "fp16"):
        dtype = torch.bfloat16 if name == "bf16" else torch.float16
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

        def multiply(a: Any = a, b: Any = b) -> None:
            torch.matmul(a, b)
            settle()

        best = min(passes(multiply, cell["seconds"], 3, WARM_PASSES))
        figures[f"{name}_tflops"] = 2 * side**3 / best / 1e9
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        settle()

    best = min(passes(copy, cell["seconds"], 3, WARM_PASSES))
    figures["copy_gb_s"] = 2 * size / best / 1e6  # read and written
    return figures


def _open(cell: Cell, folder: Path, limits: Limits) -> Contender:
    size = SIZES[cell["size"]]
    return CONTENDERS[cell["contender"]](size, folder / cell["size"], limits, dry=cell["dry"])


def _frames(seconds: float) -> int:
    return frames_of(round(100 * seconds))


def encoder(cell: Cell, folder: Path) -> dict[str, Any]:
    """Time a batch of full windows, from log-mels on the host to sums on the host."""
    size, batch = SIZES[cell["size"]], cell["batch"]
    frames = _frames(size.window_s)
    contender = _open(cell, folder, Limits(batch, batch * frames))
    windows = mels(size, [size.window_s] * batch)
    error = _error(contender, folder / f"{cell['size']}-truth.npy", cell)
    times = passes(
        lambda: contender.encode(windows), cell["seconds"], cell["least"], min(WARM_PASSES, batch)
    )
    result = _summary(times)
    seconds = result["p50_ms"] / 1e3
    result |= {
        "version": contender.version,
        "relative_error": error,
        "windows_per_s": batch / seconds,
        "tflops": batch * flops_of_window(size.encoder, frames) / seconds / 1e12,
        "least_gb_s": batch * bytes_of_window(size.encoder, frames, batch) / seconds / 1e9,
    }
    contender.close()
    return result


def _error(contender: Contender, truth: Path, cell: Cell) -> float | None:
    """Relative error of the mean frames against the reference, whose sums are kept in a file."""
    size = contender.size
    width = size.encoder.d_model
    windows = mels(size, [size.window_s] * min(CHECKED_WINDOWS, cell["batch"]))
    sums = contender.encode(windows)[:, 1 : 1 + width].astype(np.float64)
    if cell["contender"] == REFERENCE and cell["batch"] >= CHECKED_WINDOWS:
        np.save(truth, sums)
    if not truth.is_file():
        return None
    expected = np.load(truth)[: len(sums)]
    return float(np.linalg.norm(sums - expected) / np.linalg.norm(expected))


def ragged(cell: Cell, folder: Path) -> dict[str, Any]:
    """Time windows of 1 to 30 s together: as they are where that can be, padded elsewhere."""
    size, batch = SIZES[cell["size"]], cell["batch"]
    low, high = (min(s, size.window_s) for s in RAGGED_RANGE_S)
    lengths = np.random.default_rng(0).uniform(low / 2 if low == high else low, high, batch)
    seconds = [round(float(length), 2) for length in lengths]
    full = batch * _frames(size.window_s)
    contender = _open(cell, folder, Limits(batch, full))
    if not contender.ragged:
        seconds = [size.window_s] * batch
    windows = mels(size, seconds)
    times = passes(lambda: contender.encode(windows), cell["seconds"], cell["least"], WARM_PASSES)
    result = _summary(times)
    result |= {
        "version": contender.version,
        "padded": not contender.ragged,
        "speech_s": float(lengths.sum()),
        "speech_s_per_s": 1e3 * float(lengths.sum()) / result["p50_ms"],
    }
    contender.close()
    return result


def latency(cell: Cell, folder: Path) -> dict[str, Any]:
    """Time one window from samples on the host to scores on the host, on the shipped bundle."""
    bundle = Bundle.open("acoustic")
    config = AcousticConfig.from_dict(bundle.config)
    contender = CONTENDERS[cell["contender"]]
    sound = samples(0.5 if cell["dry"] else config.window_s)
    if issubclass(contender, Ours):
        device = open_device(contender.family, dry=cell["dry"])
        backend = CudaBackend(device, bundle, precision=contender.precision, threads=1)

        def run() -> object:
            return backend.encode_many([sound]).scores
    else:
        run = _torch_pipeline(bundle, sound, cell)
    times = passes(run, cell["seconds"], cell["least"], WARM_PASSES)
    return {**_summary(times), "window_s": len(sound) / 16_000}


def _torch_pipeline(bundle: Bundle, sound: NDArray[np.float32], cell: Cell) -> Callable[[], object]:
    """The module on the GPU behind the CPU's log-mel, as the engine would use it."""
    import torch

    from asa_engine.graders.acoustic.model import AcousticGrader
    from asa_engine.kernels import log_mel

    device = "cpu" if cell["dry"] else "cuda"
    grader = AcousticGrader.load(bundle.path).to(device)

    @torch.inference_mode()
    def run() -> object:
        mel = torch.from_numpy(log_mel(sound)).unsqueeze(0).to(device)
        with torch.autocast(device, torch.bfloat16, enabled="bf16" in cell["contender"]):
            stats = grader.encode_window(mel)[1]
        return grader.head(stats.float()).scores.cpu()

    return run


def streams(cell: Cell, folder: Path) -> dict[str, Any]:
    """Find how many live streams are served with p99 of a window's latency within 50 ms.

    Each stream closes a window every `window_s`, all of them spread evenly; a window's latency
    runs from the moment it closes to its scores. The number doubles until it fails, then the gap
    is halved down to a tenth.
    """
    size = SIZES[cell["size"]]
    window_s = min(4.0, size.window_s)
    frames = _frames(window_s)
    most = 2 if cell["dry"] else 240
    limits = Limits(most, most * frames)
    contender = _open(cell, folder, limits)
    assert isinstance(contender, Ours)
    window = samples(window_s)
    # One that every batch size was compiled and captured for is not a learner's wait.
    for batch in [2**i for i in range(most.bit_length())]:
        contender.model.encode(Ragged.of([window] * min(batch, most)))
    batcher = Batcher(contender.model, limits, max_waiting=2**20)
    batcher.start()
    tried: dict[int, float] = {}

    def fits(count: int) -> bool:
        tried[count] = _served(batcher, count, window, window_s, cell["seconds"])
        return tried[count] <= LATENCY_GOAL_MS

    good, count, top = 0, cell["first_streams"], cell["most_streams"]
    while count <= top and fits(count):
        good, count = count, 2 * count
    bad = count
    while good and bad - good > good // 10 + 1 and bad <= top:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    batcher.close()
    return {
        "streams": good,
        "window_s": window_s,
        "p99_ms": tried.get(good),
        "tried": {str(count): p99 for count, p99 in sorted(tried.items())},
    }


def _served(
    batcher: Batcher, count: int, window: NDArray[np.float32], period_s: float, seconds: float
) -> float:
    """Return the p99 latency of windows, ms; infinity where one fails."""
    times: list[float] = []
    failed: list[BaseException] = []
    done = threading.Semaphore(0)
    total = max(count, round(count * seconds / period_s))
    length = frames_of(mel_frames_of(len(window)))
    names = [object() for _ in range(count)]
    started = time.perf_counter()
    for number in range(total):
        due = started + number * period_s / count
        if (wait := due - time.perf_counter()) > 0:
            time.sleep(wait)

        def note(future: Any, due: float = due) -> None:
            times.append(1e3 * (time.perf_counter() - due))
            if (error := future.exception()) is not None:
                failed.append(error)
            done.release()

        work = Work(names[number % count], window, length)
        work.future.add_done_callback(note)
        batcher.submit(work)
    for _ in range(total):
        done.acquire()
    return math.inf if failed else float(np.percentile(times, 99))


def drift(cell: Cell, folder: Path) -> dict[str, Any]:
    """Compare scores of the shipped bundle with those of the CPU's kernels at fp32."""
    bundle = Bundle.open("acoustic")
    contender = CONTENDERS[cell["contender"]]
    assert issubclass(contender, Ours)
    device = open_device(contender.family, dry=cell["dry"])
    ours = CudaBackend(device, bundle, precision=contender.precision, threads=1)
    native = NativeBackend.open(bundle, precision="fp32", threads=1)
    source = find_source()
    if source.suffix == ".jsonl":
        paths = [item.audio for item in read_manifest(source)]
        paths = paths[:: max(1, len(paths) // cell["recordings"])][: cell["recordings"]]
    else:
        paths = [source]
    config = AcousticConfig.from_dict(bundle.config)
    changes = []
    for path in paths:
        sound = samples_in_memory(path)
        scores = []
        for backend in (native, ours):
            run = AcousticRun(config, backend, StageClock())
            run.push(sound)
            grade = run.finish()
            assert grade is not None
            scores.append([score.value for score in grade.scores.values()])
        changes.append(np.subtract(scores[1], scores[0]))
    moved = np.array(changes)
    scale = config.aspects[0].scale_max - config.aspects[0].scale_min
    return {
        "recordings": len(paths),
        "scale": scale,
        "rms": float(np.sqrt((moved**2).mean())),
        "max": float(np.abs(moved).max()),
        "budget_rms": 0.01 * scale / 6,
        "budget_max": 0.05 * scale / 6,
    }


def stability(cell: Cell, folder: Path) -> dict[str, Any]:
    """Count bits that differ between a window alone and the same window among others."""
    size, batch = SIZES[cell["size"]], cell["batch"]
    rng = np.random.default_rng(1)
    seconds = [round(float(s), 2) for s in rng.uniform(0.1, size.window_s, batch)]
    contender = _open(cell, folder, Limits(batch, batch * _frames(size.window_s)))
    windows = mels(size, seconds)
    together = contender.encode(windows)
    order = rng.permutation(batch)
    shuffled = contender.encode([windows[i] for i in order])
    differ = int((shuffled != together[order]).any(axis=1).sum())
    for i in range(0, batch, max(1, batch // 16)):
        differ += int((contender.encode([windows[i]])[0] != together[i]).any())
    contender.close()
    return {"windows": batch, "windows_that_differ": differ}


MEASURES: dict[str, Callable[[Cell, Path], dict[str, Any]]] = {
    "peaks": peaks,
    "encoder": encoder,
    "ragged": ragged,
    "latency": latency,
    "streams": streams,
    "drift": drift,
    "stability": stability,
}
