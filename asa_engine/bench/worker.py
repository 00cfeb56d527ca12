"""One process a candidate: it holds its subject and sleeps until told to work.

Requests and replies are JSON objects, one a line, on standard input and a private copy of
standard output. While other candidates run, a worker waits in a read; the CPU time it burns
meanwhile is measured, so that a spinning thread pool shows in the result.

    python -m asa_engine.bench.worker
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asa_engine.errors import AsaError, BackendError

__all__ = ["WorkerProcess"]

REPLY_TIMEOUT_S = 900.0
_POOL_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class WorkerProcess:
    """The parent's side of a worker.

    The constructor returns at once; `wait` blocks until the subject is made, so that several
    workers can start together.

    Args:
        name: What to call it in an error.
        kind: Key of `make_subject`.
        options: Arguments of the subject, JSON values.
    """

    def __init__(self, name: str, kind: str, options: dict[str, Any]) -> None:
        self.name = name
        environment = {k: v for k, v in os.environ.items() if k not in _POOL_VARIABLES}
        # -P: a checkout in the current folder must not stand in for the installed package.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "asa_engine.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self._buffer = b""
        self._send({"do": "make", "kind": kind, "options": options})

    def wait(self) -> None:
        """Wait until the subject is made.

        Raises:
            BackendError: It cannot be made, or the process died.
        """
        self._receive()

    def scores(self, files: Sequence[Path]) -> list[dict[str, float] | None]:
        """Return the scores of each recording; `None` where it is not scorable."""
        reply = self._call({"do": "scores", "files": [str(file) for file in files]})
        scores: list[dict[str, float] | None] = reply["scores"]
        return scores

    def log_mel(self, file: Path, target: Path) -> NDArray[np.float32]:
        """Return the log-mel [n_mels, T] of a clip; it travels through the file `target`."""
        self._call({"do": "log_mel", "file": str(file), "target": str(target)})
        mel: NDArray[np.float32] = np.load(target, allow_pickle=False)
        return mel

    def measure(self, task: dict[str, Any], *, untimed: int, timed: int) -> list[float]:
        """Run a task; return the milliseconds of each timed pass.

        Args:
            task: `Task.to_dict()`.
            untimed: Passes that come first: the caches were others' until now.
            timed: Passes that count.
        """
        reply = self._call({"do": "measure", "task": task, "untimed": untimed, "timed": timed})
        samples: list[float] = reply["ms"]
        return samples

    def close(self) -> dict[str, Any]:
        """End the process; return its peak memory, what it burnt while idle, and its stages."""
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
                pipe.close()

    def _call(self, request: dict[str, Any]) -> dict[str, Any]:
        self._send(request)
        return self._receive()

    def _send(self, request: dict[str, Any]) -> None:
        if self._process.stdin is None:
            raise BackendError(f"{self.name} has no input")
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None

    def _receive(self) -> dict[str, Any]:
        if self._process.stdout is None:
            raise BackendError(f"{self.name} has no output")
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + REPLY_TIMEOUT_S
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([descriptor], [], [], deadline - time.monotonic())
            if not ready:
                raise BackendError(f"{self.name} gave no answer in {REPLY_TIMEOUT_S:.0f} s")
            if not (data := os.read(descriptor, 65536)):
                raise self._died()
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise BackendError(f"{self.name}: {reply['error']}", mend=reply["mend"])
        return reply

    def _died(self) -> BackendError:
        return BackendError(f"{self.name} ended with exit code {self._process.wait()}")


class _Worker:
    """The child's side."""

    def __init__(self) -> None:
        self._subject: Any = None
        self._idle_cpu_s = 0.0
        self._idle_s = 0.0
        self._asleep_since = (time.process_time(), time.monotonic())

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what was asked; errors become part of the answer."""
        cpu, wall = self._asleep_since
        self._idle_cpu_s += time.process_time() - cpu
        self._idle_s += time.monotonic() - wall
        try:
            reply = self._do(request)
        except AsaError as error:
            reply = {"error": error.message, "mend": error.mend}
        except Exception as failure:
            traceback.print_exc(file=sys.stderr)
            reply = {"error": f"{type(failure).__name__}: {failure}", "mend": ""}
        self._asleep_since = (time.process_time(), time.monotonic())
        return reply

    def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        from asa_engine.bench.scenarios import SCENARIOS, Task
        from asa_engine.bench.speech import samples_in_memory
        from asa_engine.bench.subjects import make_subject

        match request["do"]:
            case "make":
                self._subject = make_subject(request["kind"], request["options"])
                return {}
            case "scores":
                return {"scores": self._subject.scores([Path(file) for file in request["files"]])}
            case "log_mel":
                mel = self._subject.log_mel(samples_in_memory(Path(request["file"])))
                np.save(request["target"], mel)
                return {}
            case "measure":
                task = Task.from_dict(request["task"])
                run_pass = SCENARIOS[task.scenario]
                for _ in range(request["untimed"]):
                    run_pass(self._subject, task)
                return {"ms": [run_pass(self._subject, task) for _ in range(request["timed"])]}
            case "stop":
                return {
                    "peak_rss_mb": _peak_rss_mb(),
                    "idle_cpu_s": self._idle_cpu_s,
                    "idle_s": self._idle_s,
                    "stages_ms": self._subject.stages_ms(),
                }
            case other:
                raise BackendError(f"a worker cannot {other!r}")


def _peak_rss_mb() -> float:
    """Largest resident size of this process, from /proc; 0 where there is none."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0
    peak = next((line for line in status.splitlines() if line.startswith("VmHWM:")), "VmHWM: 0 kB")
    return int(peak.split()[1]) * 1024 / 1e6


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
