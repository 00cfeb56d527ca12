"""Windows of many streams onto one GPU: who is next, how many wait, and what hurts whom.

While a batch runs the next one gathers, so nobody waits for a batch to fill up: a lone window
starts at once, and under load batches grow by themselves. Every stream is served once before any
is served twice.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from asa_engine.errors import AudioError, BackendError
from asa_engine.gpu.device import Limits, Model, Outputs, Ragged

__all__ = ["Batcher", "Schedule", "Work"]


@dataclass(slots=True, eq=False)
class Work:
    """One window on its way to the GPU.

    Attributes:
        stream: Whose it is; any object, compared by identity.
        window: Samples, float32 [n], or log-mel, float32 [n_mels, T].
        length: Encoder frames of it.
        sums: Sums over the recording's earlier windows, float64 [K]; `None` for none.
        keep: Whether the encoder frames are wanted.
        future: Resolves to `Outputs` of one window.
    """

    stream: object
    window: NDArray[np.float32]
    length: int
    sums: NDArray[np.float64] | None = None
    keep: bool = False
    future: Future[Outputs] = field(default_factory=Future)


MAX_WAITING: Final = 1024
MAX_WAITING_A_STREAM: Final = 64
JOIN_S: Final = 5.0


class Schedule:
    """The windows that wait, stream by stream. Not thread-safe.

    Args:
        limits: The largest batch.
        max_waiting: Windows that may wait over all streams.
        max_waiting_a_stream: Windows of one stream that may wait.
    """

    def __init__(
        self,
        limits: Limits,
        max_waiting: int = MAX_WAITING,
        max_waiting_a_stream: int = MAX_WAITING_A_STREAM,
    ) -> None:
        self._limits = limits
        self._max_waiting = max_waiting
        self._max_waiting_a_stream = max_waiting_a_stream
        # Streams in the order of their next turns.
        self._streams: OrderedDict[int, deque[Work]] = OrderedDict()
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def has_room(self, stream: object) -> bool:
        """Tell whether another window of the stream may wait."""
        mine = len(self._streams.get(id(stream), ()))
        return self._waiting < self._max_waiting and mine < self._max_waiting_a_stream

    def add(self, work: Work) -> None:
        """Let a window wait behind the others of its stream.

        Raises:
            BackendError: It is longer than any batch, or too many wait already.
        """
        if work.length > self._limits.frames:
            raise BackendError(
                f"a window of {work.length} frames is longer than the GPU's largest batch, "
                f"{self._limits.frames}"
            )
        if not self.has_room(work.stream):
            raise BackendError(
                f"{self._waiting} windows wait for the GPU already", hint="send less, or later"
            )
        self._streams.setdefault(id(work.stream), deque()).append(work)
        self._waiting += 1

    def drop(self, stream: object) -> list[Work]:
        """Forget what waits of a stream and return it."""
        dropped = list(self._streams.pop(id(stream), ()))
        self._waiting -= len(dropped)
        return dropped

    def take(self) -> list[Work]:
        """Return the next batch: one window of each stream in turn, round after round.

        The oldest turn decides whether the batch is of samples or of log-mels. A window that
        does not fit ends the batch: no small one passes a large one, which would wait for ever.
        Streams that were served go behind those that were not.
        """
        taken: list[Work] = []
        frames = 0
        full = False
        while not full:
            before = len(taken)
            for key, waiting in list(self._streams.items()):
                work = waiting[0]
                if taken and work.window.ndim != taken[0].window.ndim:
                    continue
                frames += work.length
                if len(taken) == self._limits.windows or frames > self._limits.frames:
                    full = True
                    break
                taken.append(waiting.popleft())
                self._streams.move_to_end(key)
                if not waiting:
                    del self._streams[key]
            full = full or len(taken) == before
        self._waiting -= len(taken)
        return taken


class Batcher:
    """Runs batches of a model on a thread of its own.

    Args:
        model: The grader on the GPU.
        limits: The model's.
        max_waiting: As for `Schedule`.
        max_waiting_a_stream: As for `Schedule`.
    """

    def __init__(
        self,
        model: Model,
        limits: Limits,
        *,
        max_waiting: int = MAX_WAITING,
        max_waiting_a_stream: int = MAX_WAITING_A_STREAM,
    ) -> None:
        self._model = model
        self._schedule = Schedule(limits, max_waiting, max_waiting_a_stream)
        self._changed = threading.Condition()
        self._turn = threading.Lock()
        self._closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Run batches from now on, on a daemon thread: a GPU that hangs must not keep a process."""
        self._thread = threading.Thread(target=self._run, name="asa-gpu", daemon=True)
        self._thread.start()

    def submit(self, work: Work, *, wait: bool = True) -> Future[Outputs]:
        """Let a window wait for its batch.

        Args:
            work: The window.
            wait: Whether to wait while too many wait, instead of failing.

        Returns:
            The window's outputs, one row each; an `AudioError` where the window holds NaN or
            infinity, a `BackendError` where the GPU failed on it.

        Raises:
            BackendError: It can never run, too many wait, or the batcher is closed.
        """
        if not np.isfinite(work.window).all():
            work.future.set_exception(AudioError("the audio holds NaN or infinite samples"))
            return work.future
        with self._changed:
            while wait and not self._closed and not self._schedule.has_room(work.stream):
                self._changed.wait()
            if self._closed:
                raise BackendError("the GPU's queue is closed", hint="load the engine again")
            self._schedule.add(work)
            self._changed.notify_all()
        return work.future

    def cancel(self, stream: object) -> None:
        """Drop what waits of a stream; a window in a running batch runs to its end."""
        with self._changed:
            dropped = self._schedule.drop(stream)
            self._changed.notify_all()
        for work in dropped:
            work.future.cancel()

    def head(self, stats: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Compute scores and prior of summed stats, between two batches."""
        with self._turn:
            return self._model.head(stats)

    def step(self) -> int:
        """Run the next batch on the calling thread; return how many windows it had."""
        with self._changed:
            batch = self._schedule.take()
            self._changed.notify_all()
        batch = [work for work in batch if work.future.set_running_or_notify_cancel()]
        if batch:
            self._serve(batch)
        return len(batch)

    def close(self) -> None:
        """Fail what waits, end the thread, give the model's memory back."""
        if self._thread is threading.current_thread():
            # The last user was collected in the middle of a batch: this thread cannot join itself.
            threading.Thread(target=self.close, daemon=True).start()
            return
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(JOIN_S)
        while len(self._schedule):
            for work in self._schedule.take():
                work.future.cancel()
        with self._turn:
            self._model.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and not len(self._schedule):
                    self._changed.wait()
                if self._closed:
                    return
            self.step()

    def _serve(self, batch: list[Work]) -> None:
        """Encode a batch; where it fails, each window alone, so that one hurts no other."""
        try:
            outputs = self._encode(batch)
        except Exception as failure:
            if len(batch) > 1:
                for work in batch:
                    self._serve([work])
            else:
                batch[0].future.set_exception(_said(failure))
        else:
            self._resolve(batch, outputs)

    def _encode(self, batch: list[Work]) -> Outputs:
        sums = None
        if any(work.sums is not None for work in batch):
            width = next(len(work.sums) for work in batch if work.sums is not None)
            sums = np.stack([np.zeros(width) if w.sums is None else w.sums for w in batch])
        ragged = Ragged.of([work.window for work in batch])
        with self._turn:
            return self._model.encode(ragged, sums, frames=any(work.keep for work in batch))

    def _resolve(self, batch: list[Work], outputs: Outputs) -> None:
        for row, work in enumerate(batch):
            one = slice(row, row + 1)
            part = Outputs(
                outputs.stats[one],
                outputs.scores[one],
                outputs.prior[one],
                [outputs.frames[row]] if work.keep and outputs.frames else None,
            )
            if np.isfinite(part.stats).all():
                work.future.set_result(part)
            else:
                work.future.set_exception(
                    BackendError(
                        "the GPU's sums of a window overflow", hint="choose a higher precision"
                    )
                )


def _said(failure: Exception) -> Exception:
    if isinstance(failure, BackendError):
        return failure
    return BackendError(
        f"the GPU failed on a window: {failure}",
        hint="start the process again if it stays so",
    )
