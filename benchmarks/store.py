"""What it costs to keep streams, from their beginning to their score: CPU, beside the graders'.

    python benchmarks/store.py [postgresql://user@host/database]

Streams take turns with pieces of two seconds, each in a transaction of its own, which is the
dearest way, plain and encrypted. What the processes of PostgreSQL take is not counted: they may run
elsewhere.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

import asa_engine as asa
from asa_engine.server.jobs import TURN_S
from asa_engine.server.resuming import PIECE_TURNS
from asa_engine.server.store import Keeper
from asa_engine.server.store.places import open_store

ROUNDS, STREAMS, PIECES = 5, 16, 15
RATE_HZ = 16_000
AUDIO_S = 60
PIECE_S = TURN_S * PIECE_TURNS
PIECE = np.random.default_rng(1).bytes(int(PIECE_S * RATE_HZ) * 2)
RESULT = "{" + "x" * 6000 + "}"  # as long as an assessment of two minutes
HOLDER = 1


def _store_s(place: str, key: bytes | None) -> float:
    """Return CPU seconds for a second of audio."""
    keeper = Keeper(lambda: open_store(place, 2**30, key), 3600.0)
    keeper.start()
    names = [f"stream-{number}" for number in range(STREAMS)]
    start = time.process_time()
    for name in names:
        keeper.later(partial(_take, name)).result()
    for number in range(PIECES):
        for name in names:
            keeper.later(partial(_append, name, number)).result()
    for name in names:
        keeper.later(lambda store, name=name: store.finish(name, HOLDER, RESULT)).result()
    spent_s = time.process_time() - start
    for name in names:
        keeper.later(lambda store, name=name: store.delete(name)).result()
    keeper.stop()
    return spent_s / (STREAMS * PIECES * PIECE_S)


def _take(name: str, store: object) -> None:
    store.take(name, "", "{}", HOLDER)  # type: ignore[attr-defined]


def _append(name: str, number: int, store: object) -> None:
    store.append(name, HOLDER, number * len(PIECE), PIECE)  # type: ignore[attr-defined]


def _grader_s(bundle: str | None) -> float:
    """Return CPU seconds for a second of audio."""
    engine = asa.load(bundle, threads=1)
    noise = np.random.default_rng(1).standard_normal(AUDIO_S * RATE_HZ).astype(np.float32)
    start = time.process_time()
    engine.assess((0.05 * noise, RATE_HZ))
    return (time.process_time() - start) / AUDIO_S


def main(arguments: list[str]) -> int:
    """Measure and print the medians."""
    spent: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(ROUNDS):
            for kind, key in (("plain", None), ("encrypted", b"k" * 32)):
                path = str(Path(folder, f"{kind}-{number}.db"))
                spent.setdefault(f"SQLite, {kind}", []).append(_store_s(path, key))
            if arguments:
                spent.setdefault("PostgreSQL, plain", []).append(_store_s(arguments[0], None))
            spent.setdefault("acoustic grader", []).append(_grader_s("acoustic"))
            spent.setdefault("default grader", []).append(_grader_s(None))
    medians = {name: statistics.median(each) for name, each in spent.items()}
    for name, each in medians.items():
        parts = [f"{1e3 * each:6.2f} ms of CPU for a second of audio"]
        if not name.endswith("grader"):
            for grader in ("acoustic grader", "default grader"):
                parts.append(f"{100 * each / medians[grader]:.1f} % of the {grader}'s")
        print(f"{name:22}", ", ".join(parts))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
