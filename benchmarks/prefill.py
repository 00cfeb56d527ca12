"""A language model's passes on every runtime of its bundles, in turn.

    python benchmarks/prefill.py BUNDLE... [--rows 140 20 5 1] [--threads 1] [--rounds 11]
        [--data MANIFEST] [--seconds 10 30 120] [--json FILE]

Every round runs each variant of the BUNDLEs once on the same random embeddings: --rows positions
behind 100 others, or behind none where there are more of them than 100. Printed is for each the
median of the rounds: CPU time of a pass, ms, positions a second of that time, and CPU time as a
share of the first variant's, the median of the rounds' ratios. CPU time, all threads together,
moves less than wall time where other work runs on the machine. With --data also, of the first dev
recordings joined to --seconds of speech and fed in pieces of 100 ms: CPU time from the last sample
to the score, ms, and of all the work, s.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import asa_engine as asa
from asa_engine.bundle import Bundle
from asa_engine.language_model.base import CausalModel
from asa_engine.language_model.opening import open_model
from asa_export.speech import manifest_recordings

BEHIND = 100
RATE = 16_000
_SEED = 0


def main() -> None:
    """Parse the command line; measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--rows", type=int, nargs="+", default=[140, 20, 5, 1])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seconds", type=int, nargs="+", default=[10, 30, 120])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    models: dict[str, CausalModel] = {}
    engines: dict[str, asa.Engine] = {}
    for path in options.bundles:
        bundle = Bundle.open(path)
        for backend, variants in bundle.stages["language_model"].items():
            for precision, file in variants.items():
                if backend in ("onnxruntime", "native"):
                    name = f"{backend}/{precision}"
                    models[name] = open_model(path / file, threads=options.threads)
                    engines[name] = asa.load(
                        path, backend=backend, precision=precision, threads=options.threads
                    )
    print(f"{options.threads} thread(s), median of {options.rounds} rounds")
    print(f"{'':20}{'positions':>10}{'CPU ms':>9}{'a second':>10}{'share':>8}")
    rows = []
    for count in options.rows:
        times = measure(models, count, options.rounds)
        first = next(iter(times.values()))
        for name, taken in times.items():
            ms = statistics.median(taken) * 1e3
            share = statistics.median(a / b for a, b in zip(taken, first, strict=True))
            print(f"{name:20}{count:10}{ms:9.2f}{count / ms * 1e3:10.0f}{share:8.3f}", flush=True)
            rows.append({"variant": name, "positions": count, "cpu_ms": ms, "share": share})
    scores = [] if options.data is None else judge(engines, options)
    if options.json is not None:
        about = {"threads": options.threads, "rounds": options.rounds}
        about |= {"passes": rows, "scores": scores}
        options.json.write_text(json.dumps(about, indent=1) + "\n")


def measure(models: dict[str, CausalModel], count: int, rounds: int) -> dict[str, list[float]]:
    """Return the CPU seconds of a pass over so many positions, of each round."""
    times: dict[str, list[float]] = {name: [] for name in models}
    before = BEHIND if count <= BEHIND else 0
    for index in range(rounds + 1):  # the first one warms up
        for name, model in models.items():
            x = embeddings(before + count, model.width)
            sequence = model.start(before + count)
            if before:
                sequence.extend(x[:before], 0)
            start = time.process_time()
            sequence.extend(x[before:], 1)
            if index:
                times[name].append(time.process_time() - start)
    return times


def judge(engines: dict[str, asa.Engine], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Score speech on every engine in turn; print and return medians of CPU time."""
    recordings = manifest_recordings(options.data, dev=True).judging
    most = max(options.seconds) * RATE
    speech = np.concatenate([item.samples() for item in recordings])
    speech = np.tile(speech, -(-most // speech.size))
    print(f"{'':20}{'seconds':>10}{'end, ms':>9}{'share':>8}{'all, s':>8}")
    rows = []
    for seconds in options.seconds:
        ends: dict[str, list[float]] = {name: [] for name in engines}
        wholes: dict[str, list[float]] = {name: [] for name in engines}
        for _ in range(options.rounds):
            for name, engine in engines.items():
                begin = time.process_time()
                with engine.stream() as stream:
                    for start in range(0, seconds * RATE, RATE // 10):
                        stream.feed(speech[start : min(start + RATE // 10, seconds * RATE)])
                    last = time.process_time()
                    stream.finish()
                ends[name].append(time.process_time() - last)
                wholes[name].append(time.process_time() - begin)
        first = next(iter(ends.values()))
        for name, taken in ends.items():
            ms, whole = statistics.median(taken) * 1e3, statistics.median(wholes[name])
            share = statistics.median(a / b for a, b in zip(taken, first, strict=True))
            print(f"{name:20}{seconds:10}{ms:9.1f}{share:8.3f}{whole:8.2f}", flush=True)
            row = {"variant": name, "seconds": seconds, "end_cpu_ms": ms, "share": share}
            rows.append({**row, "all_cpu_s": whole})
    return rows


def embeddings(count: int, width: int) -> NDArray[np.float32]:
    """Return rows of the size of audio tokens."""
    shape: Sequence[int] = (count, width)
    return np.random.default_rng(_SEED).normal(0, 0.1, shape).astype(np.float32)


if __name__ == "__main__":
    main()
