"""One process a peer: it holds its peer and sleeps until told to work.

    python -m benchmarks.encoders.worker

Requests and replies are JSON objects, one a line, on standard input and a private copy of
standard output; arrays travel through .npy files. An answer is given only when the process's own
thread pools have gone to sleep, so that the next one's turn is its own. Like peers.py, this needs
NumPy and nothing of asa_engine.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.encoders.peers import PEERS, Encode, Files, NotHere, Peer

__all__ = ["PeerFailed", "PeerProcess"]

REPLY_TIMEOUT_S = 600.0
# A pass this long has filled its caches before much of it is over.
LONG_PASS_MS = 250.0
_SLEEP_LIMIT_S = 2.0
_CHECKOUT = Path(__file__).parents[2]


class PeerFailed(Exception):
    """A peer could not be made, or failed at work; the message says how."""


class PeerProcess:
    """The parent's side. The constructor returns at once; `wait` blocks until the peer is made.

    Args:
        python: Interpreter to run it with.
        name: Key of `PEERS`.
        files: The model.
        threads: Threads the peer may use.
        scratch: Folder for what travels.
    """

    def __init__(self, python: Path, name: str, files: Files, threads: int, scratch: Path) -> None:
        self.name = name
        self.about: dict[str, Any] = {}
        self._states = scratch / f"{name.replace('/', '.')}.npy"
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "TORCHINDUCTOR_CACHE_DIR": str(files.onnx.resolve() / "torch.compile"),
            "PYTHONWARNINGS": "ignore",
        }
        self._process = subprocess.Popen(
            [str(python), "-m", "benchmarks.encoders.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=_CHECKOUT,
        )
        self._buffer = b""
        paths = {key: str(getattr(files, key).resolve()) for key in Files.__slots__}
        with contextlib.suppress(PeerFailed):  # `wait` will tell
            self._send({"do": "make", "peer": name, "files": paths, "threads": threads})

    def wait(self) -> None:
        """Wait until the peer is made.

        Raises:
            PeerFailed: It cannot run here.
        """
        self.about = self._receive()

    def prepare(self, mel: Path) -> tuple[np.ndarray[Any, np.dtype[np.float32]], dict[str, Any]]:
        """Take windows to encode from now on.

        Args:
            mel: Log-mel [B, n_mels, T] in a .npy file.

        Returns:
            Hidden states [B, ceil(T / 2), D], and what was tried: `way`, `tried_ms`.
        """
        reply = self._call({"do": "prepare", "mel": str(mel), "states": str(self._states)})
        return np.load(self._states, allow_pickle=False), reply

    def measure(self) -> dict[str, float]:
        """Encode the windows once; return `ms` and the `cpu_ms` spent in all threads."""
        return self._call({"do": "measure"})

    def stop(self) -> dict[str, float]:
        """End the process; return `idle_cpu_share`."""
        try:
            return self._call({"do": "stop"})
        finally:
            self.kill()

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _call(self, request: dict[str, Any]) -> dict[str, Any]:
        self._send(request)
        return self._receive()

    def _send(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + REPLY_TIMEOUT_S
        while b"\n" not in self._buffer:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([descriptor], [], [], left)[0]:
                raise PeerFailed(f"no answer in {REPLY_TIMEOUT_S:.0f} s")
            if not (data := os.read(descriptor, 65536)):
                raise self._died()
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise PeerFailed(reply["error"])
        return reply

    def _died(self) -> PeerFailed:
        return PeerFailed(f"the process ended with exit code {self._process.wait()}")


class _Worker:
    """The child's side."""

    def __init__(self) -> None:
        self._peer: Peer | None = None
        self._encode: Encode | None = None
        self._mel = np.zeros((0, 0, 0), dtype=np.float32)
        self._last_ms = 0.0
        self._idle = [0.0, 0.0]
        self._asleep_since = (time.process_time(), time.monotonic())

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what was asked; errors become part of the answer."""
        self._idle[0] += time.process_time() - self._asleep_since[0]
        self._idle[1] += time.monotonic() - self._asleep_since[1]
        try:
            reply: dict[str, Any] = getattr(self, f"_{request.pop('do')}")(**request)
        except NotHere as reason:
            reply = {"error": str(reason)}
        except Exception as failure:
            traceback.print_exc(file=sys.stderr)
            reply = {"error": f"{type(failure).__name__}: {failure}"}
        _fall_asleep()
        self._asleep_since = (time.process_time(), time.monotonic())
        return reply

    def _make(self, peer: str, files: dict[str, str], threads: int) -> dict[str, Any]:
        before = _memory_mb("VmRSS")
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
        grown = _memory_mb("VmHWM") - self._base_mb
        return {"ms": self._last_ms, "cpu_ms": cpu_ms, "memory_mb": grown}

    def _stop(self) -> dict[str, float]:
        return {"idle_cpu_share": self._idle[0] / max(self._idle[1], 1e-9)}

    def _pass(self, encode: Encode) -> tuple[float, float]:
        cpu, wall = time.process_time(), time.perf_counter()
        encode(self._mel)
        return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)


def _fall_asleep() -> None:
    """Return when no thread of this process runs any more, or after two seconds."""
    end = time.monotonic() + _SLEEP_LIMIT_S
    while time.monotonic() < end:
        before = time.process_time()
        time.sleep(0.01)
        if time.process_time() - before < 1e-3:
            return


def _memory_mb(field: str) -> float:
    """A field of /proc/self/status in MB; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    found = next((line for line in lines if line.startswith(f"{field}:")), f"{field}: 0 kB")
    return int(found.split()[1]) * 1024 / 1e6


def main() -> None:
    """Answer requests until the parent closes the pipe."""
    # Libraries print to standard output; the parent must read answers only.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    worker = _Worker()
    for line in sys.stdin.buffer:
        replies.write(json.dumps(worker.answer(json.loads(line))).encode() + b"\n")
        replies.flush()


if __name__ == "__main__":
    main()
