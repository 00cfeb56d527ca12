"""What every store does."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["KeptResult", "Saved", "Store", "StoreError"]


class StoreError(Exception):
    """The store did not do what it was asked: it is full, locked, broken or too slow.

    Args:
        message: One line without passwords, audio or results.
        is_down: Nothing else can be done now either.
    """

    def __init__(self, message: str, *, is_down: bool = False) -> None:
        super().__init__(message)
        self.is_down = is_down


@dataclass(frozen=True, slots=True)
class Saved:
    """What is kept of a stream.

    Attributes:
        owner: Name of the API key it was begun with; "" without keys.
        terms: What it was begun with: rate, format, channels, texts.
        size: Bytes of audio that came.
        result: The assessment as JSON, once it is scored.
    """

    owner: str
    terms: str
    size: int
    result: str | None = None


@dataclass(frozen=True, slots=True)
class KeptResult:
    """What is kept of a stream that was scored.

    Attributes:
        stream: Its id.
        saved: What is kept.
        finished: When, by the clock of the server that scored it: ISO 8601, UTC.
    """

    stream: str
    saved: Saved
    finished: str


class Store(ABC):
    """Streams by id. Used by one thread; what it raises is a `StoreError`.

    Several servers may share what is behind it. A stream is its holder's: the connection, wherever
    it is, that took it last.
    """

    @abstractmethod
    def transaction(self) -> contextlib.AbstractContextManager[None]:
        """Make what is done in the block durable when it ends, or undo it."""

    @abstractmethod
    def find(self, stream: str) -> Saved | None:
        """Return what is kept of a stream."""

    @abstractmethod
    def take(self, stream: str, owner: str, terms: str, holder: int) -> Saved:
        """Begin a stream, or take it from whoever holds it, if owner and terms are its own.

        Args:
            stream: Its id.
            owner: Name of an API key.
            terms: As in `Saved`.
            holder: A random number below 2^63, new for each connection.

        Returns:
            What is kept. Where owner or terms are others the stream was not taken.
        """

    @abstractmethod
    def append(self, stream: str, holder: int, offset: int, audio: bytes) -> int | None:
        """Keep audio that begins at a byte, if that is where the kept audio ends.

        Returns:
            How many bytes are kept now; `None` if the stream is not, or no longer, the holder's.
        """

    @abstractmethod
    def audio(self, stream: str, offset: int) -> bytes:
        """Return the piece of audio that begins at a byte, as it was appended; empty at the end."""

    @abstractmethod
    def finish(self, stream: str, holder: int, result: str) -> bool:
        """Keep the assessment, and the audio no longer; tell whether the stream is the holder's."""

    @abstractmethod
    def delete(self, stream: str) -> None:
        """Keep nothing of a stream."""

    @abstractmethod
    def tick(self, passed_s: float, keep_s: float, unfinished_s: float) -> None:
        """Let time pass, and delete what is too old.

        Ages are counted, not read off a clock, which may jump. Servers that share a store push its
        count to where their own is; so it goes on as fast as time does, however many they are.

        Args:
            passed_s: Since this store's last tick.
            keep_s: How long results are kept.
            unfinished_s: How long the audio of a stream that was not heard of is.
        """

    @abstractmethod
    def results(self) -> Iterator[KeptResult]:
        """Yield what is kept of scored streams, in the order they were scored; outside of
        transactions."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the database."""
