"""Standard input, output and error as a shell hands them over: closed, full, or not UTF-8."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING, BinaryIO

from asa_engine.errors import AudioError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

__all__ = ["ready_streams", "say", "standard_input", "stdout_fails"]


class _Output(io.FileIO):
    """Standard output that remembers whether it failed."""

    failed = False

    def write(self, data: Buffer) -> int:
        try:
            return super().write(data)
        except OSError:
            self.failed = True
            raise


class _Notes(io.FileIO):
    """Standard error: what it cannot take is nobody's business."""

    def write(self, data: Buffer) -> int:
        with contextlib.suppress(OSError):
            return super().write(data)
        return memoryview(data).nbytes


_output: _Output | None = None


def ready_streams() -> bool:
    """Make the standard streams safe to use; return whether there is an output.

    A closed descriptor is given to the null device, or the next file that is opened would take its
    place. Characters that the terminal lacks are written as escapes.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")
    elif sys.stderr is sys.__stderr__ and isinstance(sys.stderr, io.TextIOWrapper):
        notes = io.BufferedWriter(_Notes(sys.stderr.fileno(), "wb", closefd=False))
        sys.stderr = io.TextIOWrapper(
            notes, sys.stderr.encoding, "backslashreplace", line_buffering=True
        )
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")
        return False
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout is sys.__stdout__:
        global _output
        _output = _Output(sys.stdout.fileno(), "wb", closefd=False)
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(_output),
            encoding=sys.stdout.encoding,
            errors="backslashreplace",
            line_buffering=sys.stdout.line_buffering or sys.stdout.write_through,
        )
    return True


def say(text: str) -> None:
    """Print a line to standard error, if anybody can take it."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def stdout_fails() -> bool:
    """Tell whether standard output takes no more."""
    return _output is not None and _output.failed


def standard_input() -> BinaryIO:
    """Return standard input, to be read as a recording.

    Raises:
        AudioError: It is closed, or a terminal.
    """
    if sys.stdin is None or sys.stdin.closed:
        raise AudioError("standard input is closed", hint="pipe a recording in, or name a file")
    if sys.stdin.isatty():
        raise AudioError("standard input is a terminal", hint="pipe a recording in, or name a file")
    return sys.stdin.buffer
