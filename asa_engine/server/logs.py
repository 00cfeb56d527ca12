"""The server's log: a line of JSON for each event, with its time. No audio, texts or scores."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

__all__ = ["JsonLines", "logging_to_stderr", "patient_handler"]

NAMES: Final = ("asa_engine.server", "uvicorn.error", "asyncio", "opentelemetry")
REPEAT_S: Final = 10.0
LINES_WAITING: Final = 1000
LAST_WORDS_S: Final = 1.0  # for who reads the log to take its end

_log = logging.getLogger("asa_engine.server")


class JsonLines(logging.Formatter):
    """A record as one line: what a client made up cannot begin another."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told)


class Unhurried(logging.Handler):
    """Writes to standard error on a thread of its own: who does not read the log holds nobody up.

    What comes while so many lines wait is dropped, and how many were is told once they are taken.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self._lines: queue.Queue[str | None] = queue.Queue(LINES_WAITING)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="asa-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Let the record be written."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Wait for what was logged to be written, but not for long."""
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=LAST_WORDS_S)
            self._thread.join(LAST_WORDS_S)
        super().close()

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            _write_line(line)
            if self._dropped and self._lines.empty():
                dropped, self._dropped = self._dropped, 0
                _write_line(json.dumps({"level": "warning", "event": f"{dropped} lines dropped"}))


def _write_line(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        try:
            descriptor = sys.stderr.fileno()
        except OSError:  # somebody's stream in memory
            print(line, file=sys.stderr, flush=True)
            return
        # Past Python's buffer, whose lock would be held while nobody reads.
        rest = f"{line}\n".encode()
        while rest:
            rest = rest[os.write(descriptor, rest) :]


@contextlib.contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Write what the server logs to standard error, for the block."""
    handler = Unhurried()
    loggers = [logging.getLogger(name) for name in NAMES]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO if logger is _log else logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
        handler.close()


def patient_handler() -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """Return a handler for the loop's exceptions that tells of full descriptors now and then.

    While no file descriptor is left, asyncio tells of it for every connection that waits; for each
    it also listens again a second later, which fails where the server has stopped meanwhile.
    """
    told_s = -REPEAT_S

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal told_s
        message = str(context.get("message", ""))
        if "_start_serving" in message and isinstance(context.get("exception"), ValueError):
            return
        if "socket.accept()" not in message:
            return loop.default_exception_handler(context)
        if time.monotonic() - told_s >= REPEAT_S:
            told_s = time.monotonic()
            _log.error("no connection can be accepted: %s", context.get("exception"))

    return handle
