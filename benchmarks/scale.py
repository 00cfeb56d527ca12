"""How many learners who speak at once a server, a replica and a proxy hold: a simulation.

    python benchmarks/scale.py

Its costs are measured ones: CPU of a second of speech by `stream_costs.py`, of a window by
docs/performance.md. Everything else follows from queues: frames come every 100 ms, a window closes
every four seconds, each process does one thing at a time, in the order it came. `docs/scale.md` has
what it prints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

FRAME_S: Final = 0.1
WINDOW_S: Final = 4.0
WINDOW_CPU_S: Final = 0.013  # docs/performance.md, "Where the time goes"
LATE_S: Final = 0.1  # to be held at the 95th percentile
RUN_S: Final = 120.0
ANSWERS_S: Final = (20.0, 60.0)  # shortest and longest answer
SEED: Final = 7
PIECE_S: Final = 4.0  # of audio, that a store is given at a time
BYTES_S: Final = 32_000
FULL, PLACES, LOOK_S, START_S = 0.75, 32, 10.0, 6.0  # of the autoscaling; a replica's start


@dataclass(frozen=True)
class Layout:
    """Processes between a learner and the scores.

    Attributes:
        name: For people.
        replica_ms: CPU of a second of speech in what scores.
        proxy_ms: Likewise, in the one process that all of a node's streams pass.
        rest_ms: Likewise, everything else.
    """

    name: str
    replica_ms: float
    proxy_ms: float
    rest_ms: float


LAYOUTS: Final = (
    Layout("asa-engine serve", 21.5, 0.0, 0.0),
    Layout("Ray, Serve's proxy", 29.9, 14.0, 4.1),
    Layout("Ray, HAProxy", 22.2, 0.0, 5.5),  # threads, not one process: among the rest
)


def late_s(streams: int, cpu_ms: float, *, encodes: bool, seed: int = SEED) -> float:
    """Return the 95th percentile of how long after the last frame the scores are there.

    Args:
        streams: Who speak at once.
        cpu_ms: CPU of a second of speech.
        encodes: Whether windows are a part of that; a proxy passes frames alone.
        seed: Of when answers begin and end.
    """
    random = np.random.default_rng(seed)
    window_s = WINDOW_CPU_S if encodes else 0.0
    frame_s = (cpu_ms / 1000 - window_s / WINDOW_S) * FRAME_S
    arrivals, work, last = [], [], []
    for _ in range(streams):
        at = random.uniform(0, ANSWERS_S[1])
        while at < RUN_S:
            frames = int(random.uniform(*ANSWERS_S) / FRAME_S)
            costs = np.full(frames, frame_s)
            costs[int(WINDOW_S / FRAME_S) - 1 :: int(WINDOW_S / FRAME_S)] += window_s
            costs[-1] = frame_s + window_s * random.uniform()  # the open window
            arrivals.append(at + FRAME_S * np.arange(frames))
            work.append(costs)
            last.append(np.arange(frames) == frames - 1)
            at += FRAME_S * frames  # the next learner
    order = np.argsort(np.concatenate(arrivals), kind="stable")
    come, spent = np.concatenate(arrivals)[order], np.concatenate(work)[order]
    # Lindley: done = max(come, done before) + spent.
    total = np.cumsum(spent)
    done = total + np.maximum.accumulate(come - total + spent)
    is_measured = np.concatenate(last)[order] & (come > ANSWERS_S[1])
    return float(np.percentile((done - come)[is_measured], 95))


def held(cpu_ms: float, *, encodes: bool) -> int:
    """Return the most streams that one process holds within `LATE_S`."""
    most = int(1000 / cpu_ms) + 1  # beyond, work piles up without end
    fits, not_fits = 1, most + most // 4
    while not_fits - fits > 1:
        middle = (fits + not_fits) // 2
        if late_s(middle, cpu_ms, encodes=encodes) <= LATE_S:
            fits = middle
        else:
            not_fits = middle
    return fits


def turned_away(learners: int, within_s: float, replicas: int, places: int) -> tuple[int, float]:
    """Return how many find no place at first, and when there are replicas for all.

    Args:
        learners: Who begin within so many seconds, evenly, and go on.
        within_s: These seconds.
        replicas: There at the beginning.
        places: Of each replica.
    """
    starting: list[float] = []
    seen: list[float] = []
    refused, open_now, second = 0.0, 0.0, 0.0
    while True:
        ready = replicas + sum(at <= second for at in starting)
        if open_now >= learners - 0.5:
            return round(refused), second
        tries = learners / within_s if second < within_s else 0.0
        waiting = min(learners, learners * (second + 1) / within_s) - open_now
        let_in = min(waiting, ready * places - open_now)
        refused += max(0.0, tries - let_in)
        open_now += let_in
        seen.append(open_now)
        if second and second % LOOK_S == 0:
            wanted = math.ceil(np.mean(seen[-int(LOOK_S) :]) / (FULL * places))
            missing = max(0, wanted - replicas - len(starting))
            starting += [second + START_S] * missing
        second += 1.0


def main() -> None:
    """Print the tables of docs/scale.md."""
    print(
        "layout | a replica holds | a proxy holds | cores for 1,000 | nodes | for 100,000 | nodes"
    )
    for layout in LAYOUTS:
        replica = held(layout.replica_ms, encodes=True)
        proxy = held(layout.proxy_ms, encodes=False) if layout.proxy_ms else 0
        row = [layout.name, str(replica), str(proxy or "-")]
        for learners in (1_000, 100_000):
            replicas = math.ceil(learners / replica)
            others = learners * (layout.proxy_ms + layout.rest_ms) / 1000
            nodes = math.ceil(learners / proxy) if proxy else 0
            row += [f"{replicas + math.ceil(others):,}", f"{nodes:,}" if nodes else "any"]
        print(" | ".join(row))
    print("streams of Serve's replica: 95th percentile, ms")
    for streams in (16, 24, 28, 30, 32, 34, 36):
        print(f"  {streams}: {1000 * late_s(streams, LAYOUTS[1].replica_ms, encodes=True):.0f}")
    print(
        "1,000 learners begin within a minute: replicas at first, turned away at first, all in at"
    )
    for replicas in (1, 8, 24, 42):
        refused, seconds = turned_away(1_000, 60.0, replicas, PLACES)
        print(f"  {replicas}: {refused}, {seconds:.0f} s")
    for learners in (1_000, 100_000):
        print(
            f"{learners:,} learners: {learners * BYTES_S * 8 / 1e9:.2f} Gbit/s, "
            f"{learners / PIECE_S:,.0f} pieces a second into the store, "
            f"{learners * BYTES_S / 1e6:,.0f} MB/s"
        )


if __name__ == "__main__":
    main()
