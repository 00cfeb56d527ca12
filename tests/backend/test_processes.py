"""Threads, asyncio, forks and spawned processes: the same scores, or one clear error."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from audio_samples import RATE_HZ, speech

from asa_engine.engine import Engine, load
from asa_engine.errors import BackendError
from asa_engine.runtimes.gate import Gate

ANSWERS = [speech(seconds, seed=seed) for seed, seconds in enumerate((2.0, 5.0, 3.0, 9.0))]
LIMIT_S = 60


def scores(engine: Engine, samples: np.ndarray) -> dict[str, float]:
    result = engine.assess((samples, RATE_HZ))
    return {name: score.value for name, score in result.scores.items()}


@pytest.fixture(scope="module", params=[1, 2])
def engine(request: pytest.FixtureRequest) -> Engine:
    return load("acoustic", backend="native", threads=request.param)


@pytest.fixture(scope="module")
def expected(engine: Engine) -> list[dict[str, float]]:
    found = [scores(engine, samples) for samples in ANSWERS]
    assert all(found)
    return found


def _in_a_fork(work: Callable[[], bool]) -> bool:
    """Return what the work gives in a forked child; False if it raises or hangs."""
    child = os.fork()
    if not child:
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    for _ in range(10 * LIMIT_S):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def test_four_threads_on_one_engine(engine: Engine, expected: list[dict[str, float]]) -> None:
    found: dict[int, list[dict[str, float]]] = {}

    def work(first: int) -> None:
        order = [(first + step) % len(ANSWERS) for step in range(2 * len(ANSWERS))]
        found[first] = [scores(engine, ANSWERS[i]) for i in order]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    for first in range(4):
        assert found[first] == [expected[(first + s) % 4] for s in range(8)]


def test_streams_of_one_engine_in_threads(engine: Engine, expected: list[dict[str, float]]) -> None:
    found: dict[int, dict[str, float]] = {}

    def work(index: int) -> None:
        with engine.stream() as stream:
            for start in range(0, len(ANSWERS[index]), 800):
                stream.feed(ANSWERS[index][start : start + 800])
                _ = stream.provisional
            found[index] = {n: s.value for n, s in stream.finish().scores.items()}

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert [found[i] for i in range(4)] == expected


def test_asyncio(engine: Engine, expected: list[dict[str, float]]) -> None:
    async def work() -> list[dict[str, float]]:
        jobs = (asyncio.to_thread(scores, engine, samples) for samples in ANSWERS)
        return list(await asyncio.gather(*jobs))

    assert asyncio.run(work()) == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_fork_after_loading(engine: Engine, expected: list[dict[str, float]]) -> None:
    assert _in_a_fork(lambda: [scores(engine, samples) for samples in ANSWERS] == expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_fork_while_another_thread_scores(engine: Engine, expected: list[dict[str, float]]) -> None:
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            scores(engine, ANSWERS[3])

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(5):
            assert _in_a_fork(lambda: scores(engine, ANSWERS[0]) == expected[0])
    finally:
        over.set()
        thread.join(LIMIT_S)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_backend_that_would_hang_in_a_fork_says_so() -> None:
    engine = load("acoustic", backend="onnxruntime", threads=2)

    def refused() -> bool:
        with pytest.raises(BackendError, match="onnxruntime does not work in a forked process"):
            scores(engine, ANSWERS[0])
        return True

    assert _in_a_fork(refused)
    assert scores(engine, ANSWERS[0])  # here it still works


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_what_runs_a_part_on_such_a_library_says_so() -> None:
    gates = {True: Gate("native"), False: Gate("native", {"onnxruntime": "1.32"})}

    def passes(gate: Gate) -> bool:
        try:
            with gate:
                return True
        except BackendError:
            return False

    for survives, gate in gates.items():
        assert passes(gate)
        assert _in_a_fork(lambda gate=gate, survives=survives: passes(gate) is survives)


def _spawned(samples: Any) -> dict[str, float]:
    return scores(load("acoustic", backend="native", threads=1), samples)


def test_spawned_processes(expected: list[dict[str, float]]) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map_async(_spawned, ANSWERS[:2]).get(2 * LIMIT_S) == expected[:2]
