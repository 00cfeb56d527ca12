"""What it costs to keep streams, from their beginning to their score: CPU, beside the graders'.

    python benchmarks/store.py [postgresql://user@host/database]

Streams take turns with pieces of the server's length, each in a transaction of its own, which is
the dearest way, plain and encrypted; and, beside them in every round, with pieces of two seconds
and a log of SQLite's of 4 MiB, as servers before had them. A share is of the same round's grader;
of shares, too, medians are printed. What the processes of PostgreSQL take is not counted: they may
run elsewhere.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np

import asa_engine as asa
from asa_engine.server.jobs import TURN_S
from asa_engine.server.resuming import PIECE_TURNS
from asa_engine.server.store import Keeper, sqlite
from asa_engine.server.store.places import open_store

ROUNDS, STREAMS = 5, 16
RATE_HZ = 16_000
AUDIO_S = 60
STREAM_S = 32.0
PIECE_S = TURN_S * PIECE_TURNS
FORMER_PIECE_S, FORMER_LOG_BYTES = 2.0, 4 * 2**20
RESULT = "{" + "x" * 6000 + "}"  # as long as an assessment of two minutes
HOLDER = 1


@dataclass(frozen=True)
class Cost:
    """Seconds for a second of audio: of CPU, and by the clock."""

    cpu_s: float
    wall_s: float


def _store(place: str, key: bytes | None, piece_s: float = PIECE_S) -> Cost:
    keeper = Keeper(lambda: open_store(place, 2**30, key), 3600.0)
    keeper.start()
    names = [f"stream-{number}" for number in range(STREAMS)]
    piece = np.random.default_rng(1).bytes(int(piece_s * RATE_HZ) * 2)
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    for name in names:
        keeper.later(partial(_take, name)).result()
    for number in range(int(STREAM_S / piece_s)):
        for name in names:
            keeper.later(partial(_append, name, number, piece)).result()
    for name in names:
        keeper.later(lambda store, name=name: store.finish(name, HOLDER, RESULT)).result()
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    for name in names:
        keeper.later(lambda store, name=name: store.delete(name)).result()
    keeper.stop()
    return Cost(cpu_s / (STREAMS * STREAM_S), wall_s / (STREAMS * STREAM_S))


def _former(place: str) -> Cost:
    with mock.patch.object(sqlite, "CHECKPOINT_BYTES", FORMER_LOG_BYTES):
        return _store(place, None, FORMER_PIECE_S)


def _take(name: str, store: object) -> None:
    store.take(name, "", "{}", HOLDER)  # type: ignore[attr-defined]


def _append(name: str, number: int, piece: bytes, store: object) -> None:
    store.append(name, HOLDER, number * len(piece), piece)  # type: ignore[attr-defined]


def _grader(bundle: str | None) -> Cost:
    engine = asa.load(bundle, threads=1)
    noise = np.random.default_rng(1).standard_normal(AUDIO_S * RATE_HZ).astype(np.float32)
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    engine.assess((0.05 * noise, RATE_HZ))
    return Cost((time.process_time() - cpu_s) / AUDIO_S, (time.perf_counter() - wall_s) / AUDIO_S)


def _round(folder: Path, postgresql: str | None) -> dict[str, Cost]:
    costs = {
        "SQLite, plain": _store(str(folder / "plain.db"), None),
        "SQLite, encrypted": _store(str(folder / "encrypted.db"), b"k" * 32),
        "SQLite, as before": _former(str(folder / "former.db")),
    }
    if postgresql is not None:
        costs["PostgreSQL, plain"] = _store(postgresql, None)
    return {**costs, "acoustic grader": _grader("acoustic"), "default grader": _grader(None)}


def main(arguments: list[str]) -> int:
    """Measure and print the medians."""
    rounds = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append(_round(Path(folder), arguments[0] if arguments else None))
    for name in rounds[0]:
        cpu_s = statistics.median(each[name].cpu_s for each in rounds)
        wall_s = statistics.median(each[name].wall_s for each in rounds)
        parts = [f"{1e3 * cpu_s:6.2f} ms of CPU, {1e3 * wall_s:6.2f} ms by the clock"]
        if not name.endswith("grader"):
            for grader in ("acoustic grader", "default grader"):
                share = statistics.median(each[name].cpu_s / each[grader].cpu_s for each in rounds)
                parts.append(f"{100 * share:.1f} % of the {grader}'s CPU")
        print(f"{name:18}", ", ".join(parts))
    ratios = [each["SQLite, plain"].cpu_s / each["SQLite, as before"].cpu_s for each in rounds]
    print(f"SQLite, plain, to as before: {statistics.median(ratios):.2f} of the CPU")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
