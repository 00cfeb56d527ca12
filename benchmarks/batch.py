"""How much more several workers score than one: recordings a second, memory, CPU time.

    python benchmarks/batch.py ../shared/data/speechocean762/audio --recordings 80 --rounds 5

Ways of scoring take turns in random order, every round all of them, on the same recordings; each
starts its own processes, whose start is not counted: the clock runs from the first row to the
last. Ratios are taken within rounds. Memory is each worker's share (proportional set size: a page
that k processes map counts 1/k in each). Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

from asa_engine.batch.processes import score_in_processes
from asa_engine.batch.recordings import Recording, read_recordings
from asa_engine.engine import load
from asa_engine.measuring.host import describe_host, load_average
from asa_engine.selection import usable_cores


class Way(NamedTuple):
    """A way of scoring: so many processes, so many threads in each."""

    workers: int
    threads: int

    def __str__(self) -> str:
        return f"{self.workers} x {self.threads}"


class Turn(NamedTuple):
    """What one turn of a way gave."""

    rate: float  # recordings a second
    cpu_s: float  # of the workers, a recording
    pss_mb: float  # of a worker, mean
    scores: list[Any]


def main() -> None:
    """Print a line for each way, and the medians as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("inputs", nargs="+", type=Path, help="as of asa-engine assess")
    parser.add_argument("--bundle", default="default")
    parser.add_argument("--text", default="", help="for graders of readings, without a manifest")
    parser.add_argument("--recordings", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=usable_cores())
    args = parser.parse_args()

    found = read_recordings(args.inputs, text=args.text)
    random.Random(762).shuffle(found)
    recordings = found[: args.recordings]
    engine = load(args.bundle, threads=1)
    one = Way(1, 1)
    ways = [one, Way(args.workers, 1), Way(1, args.workers)]
    host, turns = describe_host(), {way: [] for way in ways}
    order, shuffle = list(ways), random.Random(18).shuffle
    for _ in range(args.rounds):
        shuffle(order)
        for way in order:
            turns[way].append(_turn(engine, recordings, way))
    scores = turns[one][0].scores
    assert all(turn.scores == scores for each in turns.values() for turn in each), "scores differ"

    print(f"{host.cpu}, {host.cores} cores, load {host.load_average[0]} to {load_average()[0]}")
    print(f"{len(recordings)} recordings, {args.rounds} rounds, {engine.choice}")
    values: dict[str, Any] = {"busy": host.busy, "load": [host.load_average, load_average()]}
    for way, each in turns.items():
        ratios = [turn.rate / first.rate for turn, first in zip(each, turns[one], strict=True)]
        values[str(way)] = row = {
            "recordings_a_second": statistics.median(turn.rate for turn in each),
            "times_one": statistics.median(ratios),
            "times_one_range": [min(ratios), max(ratios)],
            "cpu_ms_a_recording": 1e3 * statistics.median(turn.cpu_s for turn in each),
            "pss_mb_a_worker": statistics.median(turn.pss_mb for turn in each),
        }
        low, high = row["times_one_range"]
        print(
            f"{way!s:>6}: {row['recordings_a_second']:7.2f}/s, {row['times_one']:.2f} times one "
            f"({low:.2f} to {high:.2f}), {row['cpu_ms_a_recording']:.1f} ms of CPU a recording, "
            f"{row['pss_mb_a_worker']:.0f} MB a worker"
        )
    print(json.dumps(values))


def _turn(engine: Any, recordings: list[Recording], way: Way) -> Turn:
    options = {
        "bundle": str(engine.bundle.path),
        "backend": engine.choice.backend,
        "precision": engine.choice.precision,
        "threads": way.threads,
    }
    rows = score_in_processes(recordings, options, engine.uses, workers=way.workers)
    scored = [next(rows)]
    workers = _children()
    start, before = time.perf_counter(), sum(map(_cpu_s, workers))
    for row in rows:
        scored.append(row)
        if len(scored) == len(recordings):  # before they are ended
            break
    seconds, cpu_s = time.perf_counter() - start, sum(map(_cpu_s, workers)) - before
    pss_mb = statistics.mean(map(_pss_mb, workers))
    rows.close()
    rest = len(recordings) - 1
    return Turn(rest / seconds, cpu_s / rest, pss_mb, [row.outcome.get("scores") for row in scored])


def _children() -> list[int]:
    me = os.getpid()
    return [int(pid) for pid in Path(f"/proc/{me}/task/{me}/children").read_text().split()]


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _pss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6


if __name__ == "__main__":
    main()
