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
import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Final

import numpy as np

from asa_engine.assessment import Assessment, Score
from asa_engine.audio import AudioChunk, AudioReader, open_audio
from asa_engine.audio.containers.kinds import HEAD_BYTES, named_by_head
from asa_engine.engine import Engine
from asa_engine.errors import AsaError, AudioError
from asa_engine.profiling import Span, recording
from asa_engine.request import Request
from asa_engine.server.messages import Message, Piece, Provisional
from asa_engine.server.metrics import Metrics
from asa_engine.server.refusal import BadRequest, InternalError, TooLarge
from asa_engine.server.traces import RequestTrace
from asa_engine.stream import Stream

__all__ = ["Job", "StreamJob", "UploadJob"]

TURN_S: Final = 1.0
LEAST_S: Final = 0.02  # of live audio gets a turn, where nobody knows how much makes a difference
WAITING_S: Final = 2.0
MAX_UNTAKEN: Final = 16
_NO_TEXTS: Final = Request()

_log = logging.getLogger("asa_engine.server")


class Job(ABC):
    """Work on one recording. Made on the event loop, admitted by a `Pool`.

    Args:
        metrics: Where windows and scores are counted.
        max_s: Longest audio taken.
        request: Texts that came with it.

    Attributes:
        kind: What the metrics call it.
        outcome: "finished", "failed", or "dropped" while it is neither.
        trace: Told how long everything took; `None` where nobody asks.
    """

    kind: ClassVar[str]

    def __init__(self, metrics: Metrics, max_s: float, request: Request = _NO_TEXTS) -> None:
        self.outcome = "dropped"
        self.trace: RequestTrace | None = None
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
        self._queued_s = 0.0

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
            self._queued_s = time.perf_counter()
        self._queue(self)

    # On the worker's thread.

    def turn(self, engine: Engine) -> bool:
        """Do a little of the work; return whether there is more to do at once."""
        if self.trace is not None:
            self.trace.waited(self._queued_s)
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
        if self.trace is not None:
            self.trace.turn_over()
        with self._lock:
            self._queued_s = time.perf_counter()
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
        if self.trace is not None:
            self.trace.stage(span)
        # A grader of speech frames encodes a window at a time; one of words says how many it heard.
        for _ in range(span.args.get("windows", int(span.stage == "encoder"))):
            self._windows += 1
            self._metrics.window()

    def _score(self, stream: Stream, on_text: Callable[[str], None] | None = None) -> None:
        """Finish the stream."""
        self._conclude(stream.finish(on_text))

    def _conclude(self, result: Assessment) -> None:
        """Say the last thing; the time to score counts the wait for turns as well."""
        if self.trace is not None:
            self.trace.scored(self._ended_s)
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
        dtype: "<i2" or "<f4".
        channels: Interleaved channels.

    Attributes:
        turn_bytes: Bytes of a turn's audio.
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
        channels: int = 1,
    ) -> None:
        super().__init__(metrics, max_s, request)
        self._sample_rate_hz = sample_rate_hz
        self._dtype = np.dtype(dtype)
        self._channels = channels
        self._frame_bytes = channels * self._dtype.itemsize
        self._bytes_per_s = sample_rate_hz * self._frame_bytes
        self.turn_bytes = int(TURN_S * sample_rate_hz) * self._frame_bytes
        self._least_bytes = self._turns_worth(LEAST_S)
        self._pcm = bytearray()
        self._head = b""
        self._received_bytes = 0
        self._said_windows = 0
        self._finishing = False
        self._turns = 0
        self._is_timed = False
        self._is_due = False

    async def feed(self, pcm: bytes) -> None:
        """Take the next bytes, cut anywhere; wait while too much is waiting already.

        Raises:
            AudioError: It begins as a file does.
            BadRequest: The stream is finished.
            TooLarge: It is longer than is taken.
        """
        if self._finishing:
            raise BadRequest("audio came after finish", hint="open another stream")
        if len(self._head) < HEAD_BYTES:
            self._head += pcm[:HEAD_BYTES]
            _check_head(self._head)
        self._received_bytes += len(pcm)
        if self._received_bytes > self._max_s * self._bytes_per_s:
            raise TooLarge(
                f"the stream is longer than {self._max_s:g} s", hint="finish it and open another"
            )
        with self._lock:
            self._pcm += pcm
        if len(self._pcm) >= self._least_bytes:
            self._wake()
        self._limit_wait()
        while not self._over and self._is_behind():
            self._moved.clear()
            await self._moved.wait()

    def _turns_worth(self, seconds: float) -> int:
        """Return how many bytes get a turn where so much audio would make a difference."""
        waits_s = min(max(seconds, LEAST_S), TURN_S)
        return max(1, math.ceil(waits_s * self._sample_rate_hz)) * self._frame_bytes

    def _limit_wait(self) -> None:
        """See to it that what has come gets a turn even if little or nothing follows."""
        if not self._is_timed and self._pcm:
            self._is_timed = True
            self._loop.call_later(TURN_S, self._come_due, self._turns)

    def _come_due(self, turns: int) -> None:
        self._is_timed = False
        if self._over:
            return
        if turns != self._turns:  # what waits now came later
            return self._limit_wait()
        self._is_due = True
        self._wake()

    def seconds(self, pcm: bytes) -> float:
        """Return how long a piece of the stream lasts."""
        return len(pcm) / self._bytes_per_s

    def finish(self, arrived_s: float | None = None) -> None:
        """End the speech; the Assessment comes as the last message.

        Args:
            arrived_s: When the client's word came, on `time.perf_counter`; by default now.

        Raises:
            BadRequest: It is finished already.
        """
        if self._finishing:
            raise BadRequest("the stream is finished already", hint="send finish once")
        self._ended_s = time.perf_counter() if arrived_s is None else arrived_s
        self._finishing = True
        self._wake()

    @property
    def waiting_s(self) -> float:
        """Seconds of audio that have come and had no turn yet."""
        return len(self._pcm) / self._bytes_per_s

    def _is_behind(self) -> bool:
        return self.waiting_s > WAITING_S or self._outbox.qsize() > MAX_UNTAKEN

    def _has_work(self) -> bool:
        least = self._frame_bytes if self._is_due else self._least_bytes
        return len(self._pcm) >= least or self._finishing

    def _step(self, engine: Engine) -> None:
        with self._lock:
            # Read before the bytes: a finish that comes meanwhile gets a turn of its own.
            finishing = self._finishing
            pcm = self._cut(self.turn_bytes)
            left = len(self._pcm)
        stream = self._stream or self._open(engine, self._sample_rate_hz)
        stream.feed(self._samples(pcm))
        self._least_bytes = self._turns_worth(stream.missing_s)
        self._call(self._moved.set)
        if finishing and left < self._frame_bytes:
            self._check_whole(left)
            self._score(stream, lambda text: self._say(Piece(text)))
        elif self._windows > self._said_windows and (scores := stream.provisional) is not None:
            self._say_scores(scores, [word.to_dict() for word in stream.provisional_words])

    def _cut(self, most_bytes: int) -> bytes:
        """Take whole samples off what waits; called under the lock."""
        self._is_due = False
        self._turns += 1
        taken = min(len(self._pcm), most_bytes)
        taken -= taken % self._frame_bytes
        pcm = bytes(self._pcm[:taken])
        del self._pcm[:taken]
        return pcm

    def _samples(self, pcm: bytes) -> AudioChunk:
        samples = np.frombuffer(pcm, dtype=self._dtype)
        return samples.reshape(-1, self._channels) if self._channels > 1 else samples

    def _check_whole(self, left_bytes: int) -> None:
        if left_bytes:
            raise AudioError(
                f"the stream ends inside a sample of {self._frame_bytes} bytes",
                hint="check that format and channels are what is sent",
            )

    def _say_scores(self, scores: Mapping[str, Score], words: list[dict[str, Any]]) -> None:
        self._said_windows = self._windows
        told = {name: score.to_dict() for name, score in scores.items()}
        self._say(Provisional(told, self._windows, words))


def _check_head(head: bytes) -> None:
    """Refuse a file where samples are meant: its header would be heard as noise."""
    if (name := named_by_head(head)) is not None:
        raise AudioError(
            f"the stream begins as a {name} file does, not as raw samples",
            hint="send samples alone (ffmpeg -i - -f s16le -), or POST the file to /v1/assess",
        )


class UploadJob(Job):
    """The bytes of an audio file, which come after the job has found its place."""

    kind = "upload"

    def __init__(self, metrics: Metrics, max_s: float, request: Request = _NO_TEXTS) -> None:
        super().__init__(metrics, max_s, request)
        self._data = b""
        self._reader: AudioReader | None = None
        self._more = True

    def start(self, data: bytes, request: Request) -> None:
        """Score this file, with the texts that came; the Assessment comes as the only message."""
        self._request = request
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
                raise TooLarge("the recording is longer than is taken", hint="cut it into parts")
            yield block

    def _release(self) -> None:
        super()._release()
        self._data = b""
        if self._reader is not None:
            self._reader.close()
