"""The bytes of a recording, and views of them for decoders that want a file."""

from __future__ import annotations

import bisect
import io
import os
from dataclasses import dataclass
from typing import Final

from asa_engine.errors import AudioError

__all__ = ["Part", "Piece", "Source", "View"]

Piece = bytes | tuple[int, int]
"""Bytes as they are, or [start, end) of the source."""

_WINDOW_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a recording that a decoder takes from its beginning to its end.

    Attributes:
        pieces: What the decoder is given.
        declared: Sample frames that the header vouches for, 0 where it does not say; the decoder
            goes on behind them.
        at_least_s: Seconds that must come out if all of it was decoded, where that is known.
    """

    pieces: tuple[Piece, ...]
    declared: int = 0
    at_least_s: float = 0.0


class Source:
    """Random access to the bytes of one recording; its size is fixed when it is opened.

    Args:
        data: The bytes, or the descriptor of a regular file, which stays the caller's to close.
        name: What to call the recording in a message.
    """

    def __init__(self, data: bytes | int, name: str) -> None:
        self.name = name
        self._data = memoryview(data) if isinstance(data, bytes) else None
        self._descriptor = -1 if isinstance(data, bytes) else data
        self.size = len(data) if isinstance(data, bytes) else os.fstat(data).st_size
        self._window = b""
        self._window_at = 0

    def read(self, at: int, n: int) -> bytes:
        """Return the n bytes from `at` on, fewer at the end.

        Raises:
            OSError: The file cannot be read, or has become shorter.
        """
        n = max(0, min(n, self.size - at))
        if self._data is not None:
            return bytes(self._data[at : at + n])
        skip = at - self._window_at
        if not 0 <= skip <= len(self._window) - n:
            self._window = self._read_file(at, max(n, _WINDOW_BYTES))
            self._window_at, skip = at, 0
            if len(self._window) < n:
                raise OSError(0, "it became shorter while it was read")
        return self._window[skip : skip + n]

    def _read_file(self, at: int, n: int) -> bytes:
        parts = []
        while n:
            if hasattr(os, "pread"):
                part = os.pread(self._descriptor, n, at)
            else:
                os.lseek(self._descriptor, at, os.SEEK_SET)
                part = os.read(self._descriptor, n)
            if not part:
                break
            parts.append(part)
            at, n = at + len(part), n - len(part)
        return b"".join(parts)


class View(io.RawIOBase):
    """A file made of pieces of a source, for libraries that read through callbacks.

    An error must not rise through a library's C code: it is kept in `error`, and the file then
    ends.

    Attributes:
        error: What went wrong while reading.
        furthest: Bytes that were asked for at least once, counted from the beginning.
    """

    def __init__(self, source: Source, pieces: tuple[Piece, ...]) -> None:
        self.error: OSError | KeyboardInterrupt | None = None
        self.furthest = 0
        self._source = source
        self._pieces = pieces
        self._starts = [0]
        for piece in pieces:
            n = len(piece) if isinstance(piece, bytes) else piece[1] - piece[0]
            self._starts.append(self._starts[-1] + n)
        self._at = 0

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self._starts[-1]

    def check(self) -> None:
        """Raise what went wrong while reading.

        Raises:
            AudioError: The source cannot be read.
            KeyboardInterrupt: It came while a library was reading.
        """
        if isinstance(self.error, KeyboardInterrupt):
            raise self.error
        if self.error is not None:
            reason = self.error.strerror or self.error
            raise AudioError(f"{self._source.name}: reading failed: {reason}", hint="copy it again")

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can be read from anywhere."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move, to the end at most."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = min(max(base + offset, 0), self.size)
        return self._at

    def read(self, n: int = -1) -> bytes:
        """Return the next n bytes, all for -1, fewer at the end."""
        left = self.size - self._at
        n = left if n is None or n < 0 else min(n, left)
        parts = []
        while n:
            index = bisect.bisect_right(self._starts, self._at) - 1
            skip = self._at - self._starts[index]
            take = min(n, self._starts[index + 1] - self._at)
            piece = self._pieces[index]
            try:
                if isinstance(piece, bytes):
                    part = piece[skip : skip + take]
                else:
                    part = self._source.read(piece[0] + skip, take)
            except (OSError, KeyboardInterrupt) as error:
                self.error = error
                self._at = self.size
                break
            parts.append(part)
            self._at, n = self._at + take, n - take
        self.furthest = max(self.furthest, self._at)
        return b"".join(parts)

    def readinto(self, buffer: object) -> int:
        """Fill a buffer with the next bytes; return how many."""
        target = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self.read(len(target))
        target[: len(data)] = data
        return len(data)
