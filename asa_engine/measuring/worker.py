"""One process a candidate: it holds its subject and sleeps until told to work.

While other candidates run, a worker waits in a read; the CPU time it burns meanwhile is measured,
so that a spinning thread pool shows in the result.

    python -m asa_engine.measuring.worker
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asa_engine.errors import AsaError, BackendError
from asa_engine.workers import ChildProcess, answer_requests

__all__ = ["Worker", "WorkerProcess", "memory_mb"]

REPLY_TIMEOUT_S = 900.0
_POOL_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class WorkerProcess(ChildProcess):
    """The parent's side of a worker.

    The constructor returns at once; `wait` blocks until the subject is made, so that several
    workers can start together. `close` returns its peak memory, what it burnt while idle, and its
    stages.

    Args:
        name: What to call it in an error.
        kind: Key of `make_subject`.
        options: Arguments of the subject, JSON values.
    """

    def __init__(self, name: str, kind: str, options: dict[str, Any]) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in _POOL_VARIABLES}
        module = "asa_engine.measuring.worker"
        super().__init__(name, module, environment=environment, reply_timeout_s=REPLY_TIMEOUT_S)
        self.send({"do": "make", "kind": kind, "options": options})

    def wait(self) -> None:
        """Wait until the subject is made.

        Raises:
            BackendError: It cannot be made, or the process died.
        """
        self.receive()

    def scores(self, files: Sequence[Path]) -> list[dict[str, float] | None]:
        """Return the scores of each recording; `None` where it is not scorable."""
        reply = self.call({"do": "scores", "files": [str(file) for file in files]})
        scores: list[dict[str, float] | None] = reply["scores"]
        return scores

    def log_mel(self, file: Path, target: Path) -> NDArray[np.float32]:
        """Return the log-mel [n_mels, T] of a clip; it travels through the file `target`."""
        self.call({"do": "log_mel", "file": str(file), "target": str(target)})
        mel: NDArray[np.float32] = np.load(target, allow_pickle=False)
        return mel

    def measure(self, task: dict[str, Any], *, untimed: int, timed: int) -> list[float]:
        """Run a task; return the milliseconds of each timed pass.

        Args:
            task: `Task.to_dict()`.
            untimed: Passes that come first: the caches were others' until now.
            timed: Passes that count.
        """
        reply = self.call({"do": "measure", "task": task, "untimed": untimed, "timed": timed})
        samples: list[float] = reply["ms"]
        return samples


class Worker(ABC):
    """The child's side, which knows what it burns while it waits.

    Attributes:
        idle_cpu_s: CPU time between an answer and the next request.
        idle_s: Time between them.
    """

    def __init__(self) -> None:
        self.idle_cpu_s = 0.0
        self.idle_s = 0.0
        self._asleep_since = (time.process_time(), time.monotonic())

    @abstractmethod
    def do(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what was asked; return the answer."""

    @abstractmethod
    def rest(self) -> None:
        """Wait until what was begun for the answer has ended."""

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what was asked; errors become part of the answer."""
        cpu, wall = self._asleep_since
        self.idle_cpu_s += time.process_time() - cpu
        self.idle_s += time.monotonic() - wall
        try:
            reply = self.do(request)
        except AsaError as error:
            reply = {"error": error.message, "hint": error.hint}
        except Exception as failure:
            traceback.print_exc(file=sys.stderr)
            reply = {"error": f"{type(failure).__name__}: {failure}", "hint": ""}
        self.rest()
        self._asleep_since = (time.process_time(), time.monotonic())
        return reply


class _SubjectWorker(Worker):
    """Makes a subject and times it."""

    def __init__(self) -> None:
        super().__init__()
        self._subject: Any = None

    def rest(self) -> None:
        """Return at once: subjects leave nothing running."""

    def do(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do one of the requests that `WorkerProcess` sends."""
        from asa_engine.measuring.scenarios import SCENARIOS, Task
        from asa_engine.measuring.speech import samples_in_memory
        from asa_engine.measuring.subjects import make_subject

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
                    "peak_rss_mb": memory_mb("VmHWM"),
                    "idle_cpu_s": self.idle_cpu_s,
                    "idle_s": self.idle_s,
                    "stages_ms": self._subject.stages_ms(),
                }
            case other:
                raise BackendError(f"a worker cannot {other!r}")


def memory_mb(field: str) -> float:
    """Return a field of /proc/self/status, such as VmHWM, in MB; 0 where there is none."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0
    stated = next((x for x in status.splitlines() if x.startswith(f"{field}:")), f"{field}: 0 kB")
    return int(stated.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    answer_requests(_SubjectWorker().answer)
