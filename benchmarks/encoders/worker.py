"""One process a peer: it holds its peer and sleeps until told to work.

    python -m benchmarks.encoders.worker

Requests and replies are JSON objects, one a line, on standard input and a private copy of
standard output; arrays travel through .npy files. An answer is given only when the process's own
thread pools have gone to sleep, so that the next one's turn is its own. Like peers.py, this needs
NumPy and nothing of asa_engine.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from asa_engine.errors import BackendError
from asa_engine.measuring.worker import Worker, memory_mb
from asa_engine.workers import ChildProcess, answer_requests
from benchmarks.encoders.peers import PEERS, Encode, Files, NotHere, Peer

__all__ = ["PeerProcess"]

REPLY_TIMEOUT_S = 600.0
# A pass this long has filled its caches before much of it is over.
LONG_PASS_MS = 250.0
_SLEEP_LIMIT_S = 2.0
_CHECKOUT = Path(__file__).parents[2]


class PeerProcess(ChildProcess):
    """The parent's side. The constructor returns at once; `wait` blocks until the peer is made.

    `close` returns `idle_cpu_share`.

    Args:
        python: Interpreter to run it with.
        name: Key of `PEERS`.
        files: The model.
        threads: Threads the peer may use.
        scratch: Folder for what travels.
    """

    def __init__(self, python: Path, name: str, files: Files, threads: int, scratch: Path) -> None:
        self.about: dict[str, Any] = {}
        self._states = scratch / f"{name.replace('/', '.')}.npy"
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "TORCHINDUCTOR_CACHE_DIR": str(files.onnx.resolve() / "torch.compile"),
            "PYTHONWARNINGS": "ignore",
        }
        super().__init__(
            name,
            "benchmarks.encoders.worker",
            python=python,
            folder=_CHECKOUT,
            environment=environment,
            reply_timeout_s=REPLY_TIMEOUT_S,
        )
        paths = {key: str(getattr(files, key).resolve()) for key in Files.__slots__}
        with contextlib.suppress(BackendError):  # `wait` will tell
            self.send({"do": "make", "peer": name, "files": paths, "threads": threads})

    def wait(self) -> None:
        """Wait until the peer is made.

        Raises:
            BackendError: It cannot run here.
        """
        self.about = self.receive()

    def prepare(self, mel: Path) -> tuple[np.ndarray[Any, np.dtype[np.float32]], dict[str, Any]]:
        """Take windows to encode from now on.

        Args:
            mel: Log-mel [B, n_mels, T] in a .npy file.

        Returns:
            Hidden states [B, ceil(T / 2), D], and what was tried: `way`, `tried_ms`.
        """
        reply = self.call({"do": "prepare", "mel": str(mel), "states": str(self._states)})
        return np.load(self._states, allow_pickle=False), reply

    def measure(self) -> dict[str, float]:
        """Encode the windows once; return `ms` and the `cpu_ms` spent in all threads."""
        return self.call({"do": "measure"})


class _Worker(Worker):
    """Holds a peer."""

    def __init__(self) -> None:
        super().__init__()
        self._peer: Peer | None = None
        self._encode: Encode | None = None
        self._mel = np.zeros((0, 0, 0), dtype=np.float32)
        self._last_ms = 0.0

    def do(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do one of the requests that `PeerProcess` sends."""
        try:
            reply: dict[str, Any] = getattr(self, f"_{request.pop('do')}")(**request)
        except NotHere as reason:
            raise BackendError(str(reason)) from None
        return reply

    def rest(self) -> None:
        """Return when no thread of this process runs any more, or after two seconds."""
        end = time.monotonic() + _SLEEP_LIMIT_S
        while time.monotonic() < end:
            before = time.process_time()
            time.sleep(0.01)
            if time.process_time() - before < 1e-3:
                return

    def _make(self, peer: str, files: dict[str, str], threads: int) -> dict[str, Any]:
        before = memory_mb("VmRSS")
        paths = {key: Path(path) for key, path in files.items()}
        self._peer = PEERS[peer](Files(**paths), threads)
        self._base_mb = before
        return {"version": self._peer.version()}

    def _prepare(self, mel: str, states: str) -> dict[str, Any]:
        assert self._peer is not None
        self._mel = np.load(mel, allow_pickle=False)
        self._peer.prepare(self._mel.shape)
        tried: dict[str, float] = {}
        ways = self._peer.ways(self._mel.shape)
        for name, encode in ways.items():
            encode(self._mel)
            tried[name] = min(self._pass(encode)[0] for _ in range(1 if len(self._mel) > 1 else 2))
        way = min(tried, key=lambda name: tried[name])
        self._encode, self._last_ms = ways[way], tried[way]
        np.save(states, self._encode(self._mel), allow_pickle=False)
        return {"way": way, "tried_ms": tried}

    def _measure(self) -> dict[str, float]:
        assert self._encode is not None
        if self._last_ms < LONG_PASS_MS:
            self._pass(self._encode)  # the caches were others' until now
        self._last_ms, cpu_ms = self._pass(self._encode)
        grown = memory_mb("VmHWM") - self._base_mb
        return {"ms": self._last_ms, "cpu_ms": cpu_ms, "memory_mb": grown}

    def _stop(self) -> dict[str, float]:
        return {"idle_cpu_share": self.idle_cpu_s / max(self.idle_s, 1e-9)}

    def _pass(self, encode: Encode) -> tuple[float, float]:
        cpu, wall = time.process_time(), time.perf_counter()
        encode(self._mel)
        return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)


if __name__ == "__main__":
    answer_requests(_Worker().answer)
