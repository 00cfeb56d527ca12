"""A file of results that grows row by row, and is gone on with after whatever stopped it."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

from asa_engine.batch.recordings import Recording
from asa_engine.batch.rows import MAX_ROW_BYTES, Row, parse_row
from asa_engine.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows: two runs on one file are not kept apart there
    fcntl = None  # type: ignore[assignment]

__all__ = ["Journal"]

_SYNC_EVERY_S: Final = 1.0
_BEGIN: Final = b'{"audio": "'  # of every row
# What has to be the same in all rows of a file; threads and instruction sets may differ.
_SAME: Final = ("engine_version", "bundle", "artifacts_sha256", "backend", "precision")


class Journal:
    """Rows of recordings, in the recordings' order, one line of JSON each.

    A row is there whole or not at all: a line without its end is what a process that died was
    writing, and is cut off. What is synced to the disk is at most a second old.

    Args:
        path: The file; its folder is made.
        recordings: Everything that its rows are to be of.
        receipt: `Engine.receipt`; rows that are there must come from the same bundle.
        resume: Whether to go on with what is there; else there must be nothing.

    Attributes:
        done: How many recordings have their row.
        codes: Exit code -> rows that ask for it.

    Raises:
        UsageError: The file is there and `resume` is false, holds other rows, is being written by
            another process, or cannot be written.
    """

    def __init__(
        self,
        path: Path,
        recordings: Sequence[Recording],
        receipt: Mapping[str, Any],
        *,
        resume: bool,
    ) -> None:
        self.done = 0
        self.codes: Counter[int] = Counter()
        self._path = path
        self._recordings = recordings
        self._receipt = receipt
        self._synced = time.monotonic()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = open(path, "a+b", buffering=0)
        except OSError as failure:
            raise self._unwritable(failure) from None
        try:
            self._lock()
            self._go_on(resume)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def append(self, row: Row) -> None:
        """Write the next recording's row.

        Raises:
            UsageError: The disk takes no more; rows before are safe.
        """
        line = memoryview(row.to_line().encode())
        try:
            while line:
                line = line[self._file.write(line) :]
            if time.monotonic() - self._synced > _SYNC_EVERY_S:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as failure:
            raise self._unwritable(failure) from None
        self.done += 1
        self.codes[row.exit_code] += 1

    def close(self) -> None:
        """Sync and close the file."""
        if not self._file.closed:
            with contextlib.suppress(OSError), self._file:
                os.fsync(self._file.fileno())

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{self._path} is being written by another process", hint="wait until it is done"
            ) from None
        except OSError:
            return  # a file system without locks

    def _go_on(self, resume: bool) -> None:
        """Read the rows that are there, and cut off what is none."""
        whole = 0
        with open(self._path, "rb") as file:
            while line := file.readline(MAX_ROW_BYTES):
                if not resume:
                    raise UsageError(
                        f"{self._path} exists already",
                        hint="--resume goes on with it; or choose another --output",
                    )
                try:
                    row = parse_row(line)
                    if not line.endswith(b"\n"):
                        break  # all of it but its end
                except ValueError as failure:
                    if _is_torn(line) and not file.read(1):
                        break
                    raise UsageError(
                        f"{self._path}, line {self.done + 1}: {failure}",
                        hint="it holds something else: choose another --output",
                    ) from None
                self._check(row)
                whole += len(line)
                self.done += 1
                self.codes[row.exit_code] += 1
        try:
            self._file.truncate(whole)
        except OSError as failure:
            raise self._unwritable(failure) from None

    def _check(self, row: Row) -> None:
        where = f"{self._path}, line {self.done + 1}"
        if self.done == len(self._recordings):
            raise UsageError(
                f"{where}: there are only {self.done} recordings",
                hint="name the same inputs as before, or choose another --output",
            )
        wanted = self._recordings[self.done]
        if row.recording.to_dict() != wanted.to_dict():
            raise UsageError(
                f"{where} is of {row.recording.name}, not of {wanted.name} as given now",
                hint="name the same inputs as before, or choose another --output",
            )
        if (result := row.result) is None:
            return
        for name in _SAME:
            if result.receipt.get(name) != self._receipt.get(name):
                raise UsageError(
                    f"{where} was scored with another {name.replace('_', ' ')}",
                    hint="choose the same bundle, backend and precision, or another --output",
                )

    def _unwritable(self, failure: OSError) -> UsageError:
        return UsageError(
            f"{self._path} cannot be written: {failure.strerror or failure}",
            hint="rows that are there stay; free some space and go on with --resume"
            if self.done
            else "choose another --output",
        )


def _is_torn(line: bytes) -> bool:
    """Return whether a last line can be what a process, or a power failure, left of a row.

    A file system may have made room for what never came: then there are zeros.
    """
    begun = line.rstrip(b"\n").rstrip(b"\0")
    return begun[: len(_BEGIN)] == _BEGIN[: len(begun)]
