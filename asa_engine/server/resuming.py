"""Streams that have an id: told where to go on, kept while they come, given again once scored."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

from asa_engine.server.jobs import StreamJob
from asa_engine.server.refusal import BadRequest, NotKept, StoreDown, TakenOver
from asa_engine.server.store import Keeper, Saved, Store, StoreError

__all__ = ["KeptStream", "KeptStreams", "stream_id"]

WITHIN_S: Final = 5.0  # the store is asked
PIECE_TURNS: Final = 4  # of a worker: four seconds, as a store's work is by pieces
MOST_UNKEPT_BYTES: Final = 2**21  # of a stream, before it goes on without the store
ID_HINT: Final = "16 to 64 letters, digits, - or _, random: who knows it may go on with the stream"

T = TypeVar("T")

_ID: Final = re.compile(r"[A-Za-z0-9_-]{16,64}")
_log = logging.getLogger("asa_engine.server")


def stream_id(text: str) -> str:
    """Return an id.

    Raises:
        BadRequest: It cannot be one.
    """
    if not _ID.fullmatch(text):
        raise BadRequest("the stream's id cannot be used", hint=ID_HINT)
    return text


@dataclass
class KeptStream:
    """One stream on one connection.

    Audio that came stays in memory until the store has it, up to a bound: a store that is slow, or
    away for half a minute, misses nothing.

    Attributes:
        name: Its id.
        saved: What was kept of it when it came.
        keeper: Keeps it.
        holder: This connection's number.
        piece_bytes: How much audio is kept at a time.
        on_lost: Called when it is another's, or deleted.
        size: Bytes of audio that are kept.
    """

    name: str
    saved: Saved
    keeper: Keeper
    holder: int
    piece_bytes: int
    on_lost: Callable[[], None]
    size: int = 0
    _asked: int = 0  # the store has been asked to keep what is before
    _due: int = 0  # what comes beyond is to be kept
    _flight: asyncio.Future[int | None] = field(default_factory=asyncio.Future)
    _is_over: bool = False
    _unkept: bytearray = field(default_factory=bytearray)  # from `size` on

    def __post_init__(self) -> None:
        self.size = self._asked = self.saved.size
        self._due = self.size + self.piece_bytes

    async def audio(self) -> AsyncIterator[bytes]:
        """Yield what is kept.

        Raises:
            StoreDown: The store fails.
        """
        offset = 0
        while offset < self.saved.size:
            piece = await _asking(self.keeper, partial(_piece_of, self.name, offset))
            if not piece:
                raise StoreDown
            yield piece
            offset += len(piece)

    async def keep(self, pcm: bytes) -> None:
        """Keep audio that came; wait only while much is not kept yet.

        Where the store fails the stream goes on without it: a learner is speaking.
        """
        if self._is_over:
            return
        self._unkept += pcm
        come = self.size + len(self._unkept)
        if come >= self._due and self._asked == self.size:
            self._due = come + self.piece_bytes
            self._flush()
        while len(self._unkept) > MOST_UNKEPT_BYTES:
            size = self.size
            flight = self._flight if self._asked > size else self._flush()
            await asyncio.wait([flight], timeout=WITHIN_S)
            if self.size == size:
                return self._end()

    def _flush(self) -> asyncio.Future[int | None]:
        """Have kept what the store was not asked to keep yet."""
        offset = self._asked
        piece = bytes(self._unkept[offset - self.size :])
        self._asked += len(piece)
        call = partial(_append, self.name, self.holder, offset, piece)
        done = asyncio.wrap_future(self.keeper.later(call))
        done.add_done_callback(self._kept)
        self._flight = done
        return done

    def _kept(self, done: asyncio.Future[int | None]) -> None:
        if self._is_over or done.cancelled():
            return
        if done.exception() is not None:
            self._asked = self.size  # again, with what comes next
        elif (kept := done.result()) is None:
            self._end()
            self.on_lost()
        elif not self.size <= kept <= self.size + len(self._unkept):
            self._end()  # the store lost what it had
        else:
            del self._unkept[: kept - self.size]
            self.size = self._asked = kept

    def _end(self) -> None:
        self._is_over = True
        self._unkept.clear()

    def leave(self) -> None:
        """Have all of it kept that came: its connection is over."""
        if not self._is_over and len(self._unkept) > self._asked - self.size:
            self._flush()
        self._is_over = True

    async def finish(self, result: str) -> None:
        """Keep the assessment; where the store fails the client still gets it."""
        self._is_over = True
        call = partial(_finish, self.name, self.holder, result)
        done = asyncio.wrap_future(self.keeper.later(call))
        await asyncio.wait([done], timeout=WITHIN_S)
        if not done.done() or done.exception() is not None:
            _log.error("an assessment could not be kept")


class KeptStreams:
    """The streams of a server that have an id.

    Args:
        keeper: Keeps them; started.
    """

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._open: dict[str, StreamJob] = {}
        self._left = asyncio.Event()

    async def come(
        self, name: str, owner: str, terms: Mapping[str, Any], job: StreamJob
    ) -> KeptStream:
        """Begin a stream, or go on with one; a connection that still has it loses it.

        Raises:
            BadRequest: It was begun with other terms.
            NotKept: It is somebody else's.
            StoreDown: The store fails.
        """
        await self.free(name)
        self._open[name] = job
        holder = secrets.randbits(63)
        try:
            told = json.dumps(terms, sort_keys=True)
            taking = partial(_take, name, owner, told, holder)
            saved = await _asking(self._keeper, taking)
            if saved.owner != owner:
                raise NotKept
            if saved.terms != told:
                raise BadRequest(
                    "the stream was begun with other parameters",
                    hint="go on with the same ones, or begin another stream",
                )
        except BaseException:
            self.leave(name, job)
            raise
        piece_bytes = PIECE_TURNS * job.turn_bytes
        lost = partial(job.post, TakenOver())
        return KeptStream(name, saved, self._keeper, holder, piece_bytes, lost)

    def leave(self, name: str, job: StreamJob) -> None:
        """Take note that a connection is over."""
        if self._open.get(name) is job:
            del self._open[name]
            self._left.set()

    async def forget(self, name: str) -> None:
        """Keep a stream that cannot be scored no longer, if the store lets it."""
        with contextlib.suppress(StoreDown):
            await _asking(self._keeper, lambda store: store.delete(name))

    async def free(self, name: str) -> None:
        """Take a stream from the connection that has it."""
        while (job := self._open.get(name)) is not None:
            job.post(TakenOver())
            self._left.clear()
            try:
                async with asyncio.timeout(WITHIN_S):
                    await self._left.wait()
            except TimeoutError:
                raise StoreDown from None

    async def find(self, name: str, owner: str) -> Saved:
        """Return what is kept of a stream.

        Raises:
            NotKept: Nothing, or it is somebody else's.
            StoreDown: The store fails.
        """
        saved = await _asking(self._keeper, lambda store: store.find(name))
        if saved is None or saved.owner != owner:
            raise NotKept
        return saved

    async def delete(self, name: str, owner: str) -> None:
        """Keep nothing of a stream, and end it where it is open. Raises as `find`."""
        await self.find(name, owner)
        await self.free(name)
        await _asking(self._keeper, lambda store: store.delete(name))


def _take(name: str, owner: str, terms: str, holder: int, store: Store) -> Saved:
    return store.take(name, owner, terms, holder)


def _append(name: str, holder: int, offset: int, audio: bytes, store: Store) -> int | None:
    return store.append(name, holder, offset, audio)


def _finish(name: str, holder: int, result: str, store: Store) -> bool:
    return store.finish(name, holder, result)


def _piece_of(name: str, offset: int, store: Store) -> bytes:
    return store.audio(name, offset)


async def _asking(keeper: Keeper, call: Callable[[Store], T]) -> T:
    try:
        return await keeper.do(call, WITHIN_S)
    except StoreError:
        raise StoreDown from None
