"""A session over one connection: responses begun, spoken and ended, one after another."""

from __future__ import annotations

from collections import deque
from typing import Any, Final, NamedTuple

from asa_engine.engine import Engine
from asa_engine.profiling import recording
from asa_engine.server.jobs import StreamJob
from asa_engine.server.messages import Heard
from asa_engine.server.refusal import BadRequest
from asa_engine.session_stream import SessionStream

__all__ = ["SessionJob"]

MOST_MARKS: Final = 64
MOST_NAME: Final = 100
_FINISHED: Final = "the session is finished"


class _Mark(NamedTuple):
    """Where in the samples a response begins, and its part; or where it ends, and `None`."""

    at_bytes: int
    part: str | None


class SessionJob(StreamJob):
    """Raw PCM of a session's responses, which `begin` and `end` stand around."""

    kind = "session"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._marks: deque[_Mark] = deque()
        self._is_open = False  # as the client has told it
        self._done_bytes = 0
        self._part = ""
        self._session: SessionStream | None = None

    async def feed(self, pcm: bytes) -> None:
        """Take the next bytes of the response; as `StreamJob.feed` otherwise.

        Raises:
            BadRequest: No response was begun.
        """
        if pcm and not self._is_open and not self._finishing:
            raise BadRequest(
                "audio came outside a response", hint='send {"type": "begin", "part": ...} first'
            )
        await super().feed(pcm)

    def begin(self, part: object) -> None:
        """Begin the next response.

        Raises:
            BadRequest: That is no part's name, or the session is finished.
        """
        if not isinstance(part, str) or not 0 < len(part) <= MOST_NAME:
            raise BadRequest("a response begins without its part", hint='name it: "part": "P1"')
        self._head = b""
        self._mark(part)
        self._is_open = True

    def end(self) -> None:
        """End the response; `Heard` comes as a message.

        Raises:
            BadRequest: The session is finished.
        """
        self._mark(None)
        self._is_open = False

    def _mark(self, part: str | None) -> None:
        if self._finishing:
            raise BadRequest(_FINISHED, hint="open another")
        if len(self._marks) >= MOST_MARKS:
            raise BadRequest("responses begin and end faster than they are heard", hint="speak")
        with self._lock:
            self._marks.append(_Mark(self._received_bytes, part))
        self._wake()

    def _has_work(self) -> bool:
        return bool(self._marks) or super()._has_work()

    def _step(self, engine: Engine) -> None:
        with self._lock:
            finishing = self._finishing and not self._marks
            mark = self._marks[0] if self._marks else None
            ahead = len(self._pcm) if mark is None else mark.at_bytes - self._done_bytes
            pcm = self._cut(min(ahead, self.turn_bytes))
            self._done_bytes += len(pcm)
        session = self._session or self._open_session(engine)
        if pcm:
            session.feed(self._samples(pcm))
        self._call(self._moved.set)
        if mark is not None and ahead - len(pcm) < self._frame_bytes:
            self._check_whole(ahead - len(pcm))
            with self._lock:
                self._marks.popleft()
            self._pass(session, mark)
        elif finishing and ahead - len(pcm) < self._frame_bytes:
            self._conclude(session.finish())
        elif self._windows > self._said_windows and (scores := session.provisional) is not None:
            self._say_scores(scores, [])

    def _pass(self, session: SessionStream, mark: _Mark) -> None:
        if mark.part is not None:
            self._part = mark.part
            return session.begin(mark.part, self._sample_rate_hz)
        self._say(Heard(self._part, session.end()))
        # Now, as a part's scores may be read out before the next response closes a window.
        if not self._finishing and (scores := session.provisional) is not None:
            self._say_scores(scores, [])

    def _open_session(self, engine: Engine) -> SessionStream:
        with recording(self._take_span):
            self._session = engine.session()
        return self._session

    def _release(self) -> None:
        super()._release()
        self._session = None
