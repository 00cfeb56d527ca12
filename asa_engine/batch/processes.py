"""Recordings to rows in several processes, always in their order."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from asa_engine.batch.recordings import Recording
from asa_engine.batch.rows import Row
from asa_engine.errors import AsaError, BackendError
from asa_engine.workers import ChildProcess, DiedError

__all__ = ["Team", "score_in_processes"]

_AHEAD: Final = 16  # recordings a worker may be ahead of one that takes long


def score_in_processes(
    recordings: Iterable[Recording],
    options: Mapping[str, Any],
    uses: tuple[str, ...],
    *,
    workers: int,
) -> Generator[Row, None, None]:
    """Yield the row of each recording, in order, scored by several processes.

    Each process has an engine of its own; weights that are mapped from a file are in memory once.
    A process that dies over a recording is replaced, and the recording tried once more.

    Args:
        recordings: Taken a little ahead of the rows.
        options: Arguments of `asa_engine.engine.load`, JSON values.
        uses: `Engine.uses`.
        workers: Number of processes.

    Raises:
        AsaError: A process cannot load the engine.
    """
    team = Team(options, workers)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="asa-batch")
    waiting: deque[Future[Row]] = deque()
    try:
        team.start()
        for recording in recordings:
            waiting.append(pool.submit(_row, team, recording, uses))
            if len(waiting) >= _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        team.stop()
        pool.shutdown(cancel_futures=True)
        team.close()


def _row(team: Team, recording: Recording, uses: tuple[str, ...]) -> Row:
    texts = recording.texts(uses)
    return Row(recording, team.score(recording.name, str(recording.audio), texts))


class Team:
    """Processes with an engine each; each is with one thread at a time.

    Args:
        options: Arguments of `asa_engine.engine.load`, JSON values.
        workers: How many there are.
    """

    def __init__(self, options: Mapping[str, Any], workers: int) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._stopped = False
        self._all: set[ChildProcess] = set()
        self._idle: queue.SimpleQueue[ChildProcess] = queue.SimpleQueue()
        self._size = workers

    def start(self) -> None:
        """Start every process, then wait until each has loaded its engine.

        Raises:
            AsaError: One cannot.
        """
        started = [self._begin(number) for number in range(1, self._size + 1)]
        for process in started:
            _answer(process.receive())
            self._idle.put(process)

    def score(self, name: str, audio: str, texts: Mapping[str, str | None]) -> Mapping[str, Any]:
        """Return the outcome of a recording, by the process that is free first."""
        process = self._idle.get()
        request = {"audio": audio, "texts": texts}
        try:
            for is_last in (False, True):
                try:
                    outcome: Mapping[str, Any] = process.call(request)["outcome"]
                    return outcome
                except DiedError as death:
                    process = self._replaced(process)
                    if is_last:
                        error = BackendError(
                            f"{name}: {death.message}",
                            hint="score it alone; it may need more memory than there is",
                        )
            return error.to_dict()
        finally:
            self._idle.put(process)

    def stop(self) -> None:
        """End all processes, whatever they are doing."""
        with self._lock:
            self._stopped = True
            for process in self._all:
                process.end()

    def close(self) -> None:
        """Let go of them, once no thread waits for one."""
        for process in self._all:
            process.kill()

    def _begin(self, number: int) -> ChildProcess:
        with self._lock:
            if self._stopped:
                raise BackendError("scoring was stopped")
            process = ChildProcess(
                f"worker {number}", "asa_engine.batch.worker", hears_interrupts=False
            )
            self._all.add(process)
        process.send(self._options)
        return process

    def _replaced(self, dead: ChildProcess) -> ChildProcess:
        number = int(dead.name.split()[-1])
        with self._lock:
            self._all.discard(dead)
        dead.kill()
        process = self._begin(number)
        _answer(process.receive())
        return process


def _answer(reply: Mapping[str, Any]) -> None:
    """Raise what kept a process from loading its engine."""
    if "failure" in reply:
        failure = reply["failure"]
        error = AsaError(failure["message"], hint=failure["hint"])
        error.exit_code = failure["exit_code"]
        raise error
