"""Worker threads with an engine each; the recordings open on one take turns on it.

Threads, not processes: decoding, resampling, the kernels and ONNX Runtime release the interpreter
lock, one process is simpler to run and to stop, and its metrics are all in one place. An engine is
not thread-safe, so each thread has its own and a recording stays with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeVar

from asa_engine.engine import Engine
from asa_engine.server.jobs import Job, StreamJob
from asa_engine.server.keys import Key
from asa_engine.server.metrics import Metrics
from asa_engine.server.readiness import check_scores
from asa_engine.server.refusal import Full, Stopping, TooMany

__all__ = ["Pool", "Returns", "Turns"]

JOIN_S: Final = 5.0
STREAM_TURNS: Final = 4
RETURNS_PER_S: Final = 10  # to turn one away takes some milliseconds
SOONEST_RETURN_S: Final = 2.0
LATEST_RETURN_S: Final = 60.0

AnyJob = TypeVar("AnyJob", bound=Job)


class Turns:
    """Jobs that wait for a turn on one worker.

    Streams take turns among themselves, uploads among themselves; while both wait, an upload comes
    after every four turns of streams: someone who has just spoken does not stand behind a folder
    of recordings, and the folder still moves on.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._streams: deque[Job] = deque()
        self._uploads: deque[Job] = deque()
        self._streams_in_a_row = 0
        self._closed = False

    def put(self, job: Job) -> None:
        """Give the job a turn after those of its kind that wait already."""
        with self._changed:
            (self._streams if isinstance(job, StreamJob) else self._uploads).append(job)
            self._changed.notify()

    def take(self) -> Job | None:
        """Wait for the next job; `None` once closed."""
        with self._changed:
            while not (self._closed or self._streams or self._uploads):
                self._changed.wait()
            if self._closed:
                return None
            upload_is_due = self._uploads and self._streams_in_a_row >= STREAM_TURNS
            if self._streams and not upload_is_due:
                self._streams_in_a_row += 1
                return self._streams.popleft()
            self._streams_in_a_row = 0
            return self._uploads.popleft()

    def close(self) -> None:
        """Give no more turns."""
        with self._changed:
            self._closed = True
            self._changed.notify()


class Returns:
    """When those who find no place are to come again.

    One after another, so that a crowd at a full server costs those inside no more than a few do;
    and whoever came first may come first.
    """

    def __init__(self) -> None:
        self._latest_s = 0.0

    def after_s(self, now_s: float) -> float:
        """Return in how many seconds the next one is to come.

        Args:
            now_s: On a clock that never goes back.
        """
        latest_s = max(self._latest_s + 1 / RETURNS_PER_S, now_s + SOONEST_RETURN_S)
        self._latest_s = min(latest_s, now_s + LATEST_RETURN_S)
        return self._latest_s - now_s


class _Worker(threading.Thread):
    """A thread with an engine, on which jobs take turns."""

    def __init__(self, number: int, load: Callable[[], Engine]) -> None:
        # A daemon: an engine call that hangs must not keep the process from ending.
        super().__init__(name=f"asa-worker-{number}", daemon=True)
        self.jobs = 0
        self.turns = Turns()
        self.loaded = threading.Event()
        self.engine: Engine | None = None
        self.failure: BaseException | None = None
        self._load = load

    def run(self) -> None:
        """Load the engine here: some backends keep their thread count by thread."""
        try:
            engine = self._load()
            check_scores(engine)
            self.engine = engine
        except BaseException as failure:
            self.failure = failure
            return
        finally:
            self.loaded.set()
        while (job := self.turns.take()) is not None:
            if job.turn(engine):
                self.turns.put(job)


class Pool:
    """Places for recordings on worker threads.

    All methods but `start` and `stop` are for the event loop's thread.

    Args:
        load: Makes an engine; called once on every worker's thread.
        workers: Number of worker threads.
        places: Kind -> recordings of it that may be open at once.
        metrics: Where ended recordings are counted.

    Attributes:
        draining: No more recordings are admitted.
    """

    def __init__(
        self,
        load: Callable[[], Engine],
        *,
        workers: int,
        places: Mapping[str, int],
        metrics: Metrics,
    ) -> None:
        self.draining = False
        self._workers = [_Worker(number, load) for number in range(workers)]
        self._places = places
        self._metrics = metrics
        self._open: dict[Job, _Worker] = {}
        self._owners: dict[Job, str] = {}
        self._returns = Returns()
        self._released = asyncio.Event()

    def start(self) -> None:
        """Start every worker and wait until its engine is loaded.

        Raises:
            AsaError: An engine cannot be loaded.
        """
        for worker in self._workers:
            worker.start()
        for worker in self._workers:
            worker.loaded.wait()
            if worker.failure is not None:
                self.stop()
                raise worker.failure

    def stop(self) -> None:
        """End the workers; recordings that are still open get no more turns."""
        for worker in self._workers:
            worker.turns.close()
        for worker in self._workers:
            if worker.is_alive():  # what failed before them leaves them unstarted
                worker.join(JOIN_S)

    @property
    def engine(self) -> Engine:
        """One of the engines, to read its description from; all are alike."""
        engine = self._workers[0].engine
        assert engine is not None, "the pool is not started"
        return engine

    @property
    def is_whole(self) -> bool:
        """Whether every worker lives."""
        return all(worker.is_alive() for worker in self._workers)

    @property
    def open_jobs(self) -> dict[str, int]:
        """Recordings open now, by kind."""
        return {"stream": 0, "session": 0, "upload": 0, **Counter(job.kind for job in self._open)}

    @property
    def waiting_s(self) -> float:
        """Seconds of live audio that wait for a turn, over all streams: grows under overload."""
        return sum(job.waiting_s for job in self._open)

    @contextlib.contextmanager
    def admit(self, job: AnyJob, key: Key | None = None) -> Iterator[AnyJob]:
        """Give a recording a place on the worker that has fewest, for the block.

        Args:
            job: The recording.
            key: The API key it came with.

        Raises:
            Full: Every place of its kind is taken.
            Stopping: The server is shutting down.
            TooMany: The key has as many open as it may.
        """
        if self.draining:
            raise Stopping
        if self.open_jobs[job.kind] >= self._places[job.kind]:
            self._metrics.ended(job.kind, "refused")
            raise Full(self._returns.after_s(time.monotonic()))
        owner = "" if key is None else key.name
        if key is not None and key.most_open is not None:
            if sum(each == owner for each in self._owners.values()) >= key.most_open:
                self._metrics.ended(job.kind, "refused")
                raise TooMany(key.most_open)
        worker = min(self._workers, key=lambda each: each.jobs)
        worker.jobs += 1
        self._open[job] = worker
        self._owners[job] = owner
        job.assign(worker.turns.put)
        try:
            yield job
        except ConnectionError:  # the client is gone
            raise
        except Exception:
            job.outcome = "failed"
            raise
        finally:
            job.close()
            worker.jobs -= 1
            del self._open[job], self._owners[job]
            self._metrics.ended(job.kind, job.outcome)
            self._released.set()

    async def drain(self) -> None:
        """Admit no more, and wait until no recording is open."""
        self.draining = True
        await self.until_empty()

    async def until_empty(self) -> None:
        """Wait until no recording is open."""
        while self._open:
            self._released.clear()
            await self._released.wait()

    def dismiss(self) -> None:
        """Tell every open recording that the server stops."""
        for job in self._open:
            job.post(Stopping())
