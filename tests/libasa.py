"""libasa as Python sees it, through its C interface and nothing else."""

from __future__ import annotations

import ctypes
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
LIBRARY = Path(os.environ.get("ASA_LIBRARY", ROOT / "build" / "libasa" / "lib" / "libasa.so"))


class Error(ctypes.Structure):
    _fields_ = (("status", ctypes.c_int), ("message", ctypes.c_char * 248))


class Options(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("threads", ctypes.c_int),
        ("precision", ctypes.c_char_p),
    )


class LibasaError(Exception):
    pass


class Grader:
    """A grader file, opened by libasa."""

    def __init__(self, path: Path, *, precision: str | None = None, threads: int = 1) -> None:
        self._library = ctypes.CDLL(str(LIBRARY))
        self._library.asa_grader_describe.restype = ctypes.c_char_p
        self._library.asa_grader_describe.argtypes = (ctypes.c_void_p,)
        self._handle = ctypes.c_void_p()
        name = precision.encode() if precision else None
        options = Options(ctypes.sizeof(Options), threads, name)
        self._call(
            self._library.asa_grader_open,
            os.fsencode(path),
            ctypes.byref(options),
            ctypes.byref(self._handle),
        )

    def describe(self) -> dict[str, Any]:
        return json.loads(self._library.asa_grader_describe(self._handle))

    def assess(
        self, samples: np.ndarray, chunks: list[int], said: str | None = None
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Feed samples in chunks of these sizes, again and again; return result and provisionals.

        Provisionals are asked for after every chunk. `said` is the text that is read, if known.
        """
        feed = {
            np.dtype(np.float32): self._library.asa_stream_feed_f32,
            np.dtype(np.int16): self._library.asa_stream_feed_i16,
        }[samples.dtype]
        samples = np.ascontiguousarray(samples)
        stream, text = ctypes.c_void_p(), ctypes.c_char_p()
        start = [self._library.asa_stream_open, self._handle, 16_000, 1]
        if said is not None:
            start[0] = self._library.asa_stream_open_text
            start.append(said.encode("utf-8", "surrogatepass"))
        self._call(*start, ctypes.byref(stream))
        provisional = []
        try:
            at = turn = 0
            while at < len(samples):
                chunk = samples[at : at + chunks[turn % len(chunks)]]
                self._call(feed, stream, chunk.ctypes.data_as(ctypes.c_void_p), _size(chunk))
                self._call(self._library.asa_stream_provisional, stream, ctypes.byref(text))
                provisional.append(json.loads(text.value or b""))
                at += len(chunk)
                turn += 1
            self._call(self._library.asa_stream_finish, stream, ctypes.byref(text))
            return json.loads(text.value or b""), provisional
        finally:
            self._library.asa_stream_close(ctypes.byref(stream))

    def close(self) -> None:
        self._library.asa_grader_close(ctypes.byref(self._handle))

    def _call(self, function: Any, *arguments: Any) -> None:
        error = Error()
        if function(*arguments, ctypes.byref(error)):
            raise LibasaError(error.message.decode())


def _size(chunk: np.ndarray) -> ctypes.c_size_t:
    return ctypes.c_size_t(len(chunk))
