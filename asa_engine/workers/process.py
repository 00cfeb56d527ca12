"""Both sides of a process that answers JSON requests."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from asa_engine.errors import BackendError

__all__ = ["ChildProcess", "DiedError", "answer_requests"]

_POSIX = os.name == "posix"


class DiedError(BackendError):
    """The process ended without an answer."""


class ChildProcess:
    """The parent's side; one request at a time.

    Args:
        name: What to call it in an error.
        module: What it runs; it ends in `answer_requests`.
        python: Another interpreter than the parent's.
        folder: Where it runs, and what it may import from; the installed packages by default.
        environment: Its environment; the parent's by default.
        reply_timeout_s: How long an answer may take; without a limit by default.
        hears_interrupts: Whether Ctrl-C on the terminal reaches it too.
    """

    def __init__(
        self,
        name: str,
        module: str,
        *,
        python: Path | None = None,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        reply_timeout_s: float | None = None,
        hears_interrupts: bool = True,
    ) -> None:
        self.name = name
        self._timeout_s = reply_timeout_s
        # -P: a checkout in the current folder must not stand in for the installed package.
        alone = ["-P"] if folder is None else []
        self._process = subprocess.Popen(
            [str(python or sys.executable), *alone, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=folder,
            process_group=0 if _POSIX and not hears_interrupts else None,
        )
        self._buffer = b""

    def call(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            DiedError: The process ended.
            BackendError: The answer is an error, or did not come in time.
        """
        self.send(request)
        return self.receive()

    def send(self, request: Mapping[str, Any]) -> None:
        """Send a request; `receive` waits for its answer."""
        if self._process.stdin is None:
            raise BackendError(f"{self.name} has no input")
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None

    def receive(self) -> dict[str, Any]:
        """Wait for an answer; raises as `call`."""
        if self._process.stdout is None:
            raise BackendError(f"{self.name} has no output")
        descriptor = self._process.stdout.fileno()
        start, parts = time.monotonic(), [self._buffer]
        while b"\n" not in parts[-1]:
            if self._timeout_s is not None:
                left_s = max(0.0, start + self._timeout_s - time.monotonic())
                if not select.select([descriptor], [], [], left_s)[0]:
                    raise BackendError(f"{self.name} gave no answer in {self._timeout_s:.0f} s")
            if not (data := os.read(descriptor, 65536)):
                raise self._died()
            parts.append(data)
        line, _, self._buffer = b"".join(parts).partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise BackendError(f"{self.name}: {reply['error']}", hint=reply["hint"])
        return reply

    def close(self) -> dict[str, Any]:
        """Ask it to stop, and end it; return its last answer. Raises as `call` does."""
        try:
            return self.call({"do": "stop"})
        finally:
            self.kill()

    def end(self) -> None:
        """End the process, whatever it is doing; a thread that waits for its answer is told."""
        self._process.kill()

    def kill(self) -> None:
        """End the process and let go of it; no other thread may be waiting for it."""
        self.end()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what it did not take any more
                    pipe.close()

    def _died(self) -> DiedError:
        return DiedError(f"{self.name} ended with exit code {self._process.wait()}")


def answer_requests(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer requests, a JSON line each, until the parent closes the pipe."""
    # Libraries print to standard output; the parent must read answers only.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        try:
            replies.write(json.dumps(answer(json.loads(line))).encode() + b"\n")
            replies.flush()
        except BrokenPipeError:  # the parent is gone, and with it the question
            return
