"""One recording on the server: a live stream or an upload, done turn by turn.

A job is two-sided. Handlers use it on the event loop: they hand audio in and take messages out.
A worker thread calls `turn`, which does at most `TURN_S` of audio, so that no recording can keep a
worker from the others for longer than one window takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeAlias

import numpy as np

from asa_engine.assessment import Assessment
from asa_engine.audio import AudioChunk, AudioReader, open_audio
from asa_engine.engine import Engine
from asa_engine.errors import AsaError, AudioError
from asa_engine.profiling import Span, recording
from asa_engine.request import Request
from asa_engine.server.metrics import Metrics
from asa_engine.server.refusal import BadRequest, InternalError, TooLarge
from asa_engine.stream import Stream

__all__ = ["Job", "Message", "Provisional", "StreamJob", "UploadJob"]

TURN_S: Final = 0.5
WAITING_S: Final = 2.0
MAX_UNTAKEN: Final = 16
_NO_TEXTS: Final = Request()

_log = logging.getLogger("asa_engine.server")


@dataclass(frozen=True, slots=True)
class Provisional:
    """Scores of the windows closed so far.

    Attributes:
        scores: Score name -> JSON values of the score.
        windows: How many windows they stand on.
    """

    scores: dict[str, dict[str, Any]]
    windows: int


Message: TypeAlias = Provisional | Assessment | AsaError | None
"""What a job says; an Assessment, an error or `None` (the client is gone) is the last thing."""


class Job(ABC):
    """Work on one recording. Made on the event loop, admitted by a `Pool`.

    Args:
        metrics: Where windows and scores are counted.
        max_s: Longest audio taken.
        request: Texts that came with it.

    Attributes:
        kind: What the metrics call it.
        outcome: "finished", "failed", or "dropped" while it is neither.
    """

    kind: ClassVar[str]

    def __init__(self, metrics: Metrics, max_s: float, request: Request = _NO_TEXTS) -> None:
        self.outcome = "dropped"
        self._metrics = metrics
        self._max_s = max_s
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._outbox: asyncio.Queue[Message] = asyncio.Queue()
        self._moved = asyncio.Event()
        self._lock = threading.Lock()
        self._queue: Callable[[Job], None] | None = None
        self._queued = False
        self._over = False
        self._stream: Stream | None = None
        self._windows = 0
        self._ended_s = 0.0

    # On the event loop.

    def assign(self, queue: Callable[[Job], None]) -> None:
        """Take the worker's queue, which `turn` is called from."""
        self._queue = queue

    async def next(self) -> Message:
        """Wait for the next message."""
        message = await self._outbox.get()
        self._moved.set()
        return message

    def post(self, message: Message) -> None:
        """Put a message behind those that wait to be taken."""
        self._outbox.put_nowait(message)
        self._moved.set()

    def close(self) -> None:
        """Drop what is left to do; a turn in progress ends by itself."""
        self._over = True
        self._moved.set()
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            if self._queued or self._queue is None:
                return
            self._queued = True
        self._queue(self)

    # On the worker's thread.

    def turn(self, engine: Engine) -> bool:
        """Do a little of the work; return whether there is more to do at once."""
        try:
            if not self._over:
                self._step(engine)
        except AsaError as error:
            self._end(error)
        except Exception:
            _log.exception("a %s failed", self.kind)
            self._end(InternalError())
        if self._over:
            self._release()
        with self._lock:
            self._queued = not self._over and self._has_work()
            return self._queued

    @property
    def waiting_s(self) -> float:
        """Seconds of live audio that have come and had no turn yet."""
        return 0.0

    @abstractmethod
    def _step(self, engine: Engine) -> None:
        """Do at most `TURN_S` of audio, or finish."""

    @abstractmethod
    def _has_work(self) -> bool:
        """Tell whether a turn would find something to do; called under the lock."""

    def _release(self) -> None:
        self._stream = None

    def _open(self, engine: Engine, sample_rate_hz: int) -> Stream:
        with recording(self._take_span):
            texts = {name: getattr(self._request, name) for name in self._request.given()}
            self._stream = engine.stream(sample_rate_hz, **texts)
        return self._stream

    def _take_span(self, span: Span) -> None:
        # A grader of speech frames encodes a window at a time; one of words says how many it heard.
        for _ in range(span.args.get("windows", int(span.stage == "encoder"))):
            self._windows += 1
            self._metrics.window()

    def _score(self, stream: Stream) -> None:
        """Finish the stream; the time to score counts the wait for turns as well."""
        result = stream.finish()
        waited_ms = 1e3 * (time.perf_counter() - self._ended_s)
        timing = dataclasses.replace(
            result.timing, time_to_score_ms=max(waited_ms, result.timing.time_to_score_ms)
        )
        self._metrics.scored(self.kind, timing.time_to_score_ms / 1e3, timing.audio_s)
        self._end(dataclasses.replace(result, timing=timing))

    def _end(self, message: Assessment | AsaError) -> None:
        self.outcome = "finished" if isinstance(message, Assessment) else "failed"
        self._over = True
        self._say(message)

    def _say(self, message: Message) -> None:
        self._call(self.post, message)

    def _call(self, function: Callable[..., object], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop may be closed: nobody listens any more
            self._loop.call_soon_threadsafe(function, *args)


class StreamJob(Job):
    """Raw PCM as it is spoken.

    Args:
        metrics: Where windows and scores are counted.
        max_s: Longest audio taken.
        request: Texts that came with it.
        sample_rate_hz: Rate of the samples.
        dtype: "<i2" or "<f4"; mono.
    """

    kind = "stream"

    def __init__(
        self,
        metrics: Metrics,
        max_s: float,
        request: Request = _NO_TEXTS,
        *,
        sample_rate_hz: int,
        dtype: str,
    ) -> None:
        super().__init__(metrics, max_s, request)
        self._sample_rate_hz = sample_rate_hz
        self._dtype = np.dtype(dtype)
        self._bytes_per_s = sample_rate_hz * self._dtype.itemsize
        self._turn_bytes = int(TURN_S * sample_rate_hz) * self._dtype.itemsize
        self._pcm = bytearray()
        self._received_bytes = 0
        self._said_windows = 0
        self._finishing = False

    async def feed(self, pcm: bytes) -> None:
        """Take the next bytes, cut anywhere; wait while too much is waiting already.

        Raises:
            BadRequest: The stream is finished.
            TooLarge: It is longer than is taken.
        """
        if self._finishing:
            raise BadRequest("audio came after finish", mend="open another stream")
        self._received_bytes += len(pcm)
        if self._received_bytes > self._max_s * self._bytes_per_s:
            raise TooLarge(
                f"the stream is longer than {self._max_s:g} s", mend="finish it and open another"
            )
        with self._lock:
            self._pcm += pcm
        self._wake()
        while not self._over and self._is_behind():
            self._moved.clear()
            await self._moved.wait()

    def finish(self) -> None:
        """End the speech; the Assessment comes as the last message.

        Raises:
            BadRequest: It is finished already.
        """
        if self._finishing:
            raise BadRequest("the stream is finished already", mend="send finish once")
        self._ended_s = time.perf_counter()
        self._finishing = True
        self._wake()

    @property
    def waiting_s(self) -> float:
        """Seconds of audio that have come and had no turn yet."""
        return len(self._pcm) / self._bytes_per_s

    def _is_behind(self) -> bool:
        return self.waiting_s > WAITING_S or self._outbox.qsize() > MAX_UNTAKEN

    def _has_work(self) -> bool:
        return len(self._pcm) >= self._dtype.itemsize or self._finishing

    def _step(self, engine: Engine) -> None:
        with self._lock:
            # Read before the bytes: a finish that comes meanwhile gets a turn of its own.
            finishing = self._finishing
            whole = len(self._pcm) - len(self._pcm) % self._dtype.itemsize
            taken = min(whole, self._turn_bytes)
            pcm = bytes(self._pcm[:taken])
            del self._pcm[:taken]
            left = len(self._pcm)
        stream = self._stream or self._open(engine, self._sample_rate_hz)
        stream.feed(np.frombuffer(pcm, dtype=self._dtype))
        self._call(self._moved.set)
        if finishing and left < self._dtype.itemsize:
            if left:
                raise AudioError(
                    f"the stream ends inside a sample of {self._dtype.itemsize} bytes",
                    mend="check that format is what is sent",
                )
            self._score(stream)
        elif self._windows > self._said_windows and (scores := stream.provisional) is not None:
            self._said_windows = self._windows
            told = {name: score.to_dict() for name, score in scores.items()}
            self._say(Provisional(told, self._windows))


class UploadJob(Job):
    """The bytes of an audio file, which come after the job has found its place."""

    kind = "upload"

    def __init__(self, metrics: Metrics, max_s: float, request: Request = _NO_TEXTS) -> None:
        super().__init__(metrics, max_s, request)
        self._data = b""
        self._reader: AudioReader | None = None
        self._more = True

    def start(self, data: bytes) -> None:
        """Score this file; the Assessment comes as the only message."""
        self._ended_s = time.perf_counter()
        self._data = data
        self._wake()

    def _has_work(self) -> bool:
        return True

    def _step(self, engine: Engine) -> None:
        if self._reader is None:
            self._reader = open_audio(self._data)
        stream = self._stream or self._open(engine, self._reader.sample_rate_hz)
        stream.feed_all(self._one_block(self._reader))
        if not self._more:
            self._score(stream)

    def _one_block(self, reader: AudioReader) -> Iterator[AudioChunk]:
        self._more = False
        for block in itertools.islice(reader.blocks(), 1):
            self._more = True
            self._max_s -= len(block) / reader.sample_rate_hz
            if self._max_s < 0:
                raise TooLarge("the recording is longer than is taken", mend="cut it into parts")
            yield block

    def _release(self) -> None:
        super()._release()
        self._data = b""
        if self._reader is not None:
            self._reader.close()
