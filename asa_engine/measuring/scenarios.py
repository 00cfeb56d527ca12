"""Scenarios, named as in MLPerf LoadGen: what one timed pass of a task is.

SingleStream    one recording, from the file on disk to its scores
TimeToScore     one live stream, from its last audio sample to its scores; the reference does not
                stream, so for it the whole file is timed
Offline         a list of recordings, all there at once
LogMel          the log-mel of a clip whose samples are in memory
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asa_engine.measuring.speech import samples_in_memory
from asa_engine.measuring.subjects import Extractor, Grader

__all__ = ["SCENARIOS", "Task"]


@dataclass(frozen=True, slots=True)
class Task:
    """One row's worth of work.

    Attributes:
        scenario: Key of `SCENARIOS`.
        label: What is done, for people.
        files: The recordings.
        audio_s: Their total length.
        chunk_ms: Length of the chunks of a stream.
        paced_chunks: Chunks before the last that come at the speed of speech.
        rounds: Turns a candidate has.
        untimed: Passes a turn begins with, for the caches were others' until then.
        passes: Timed passes a turn.
    """

    scenario: str
    label: str
    files: tuple[Path, ...]
    audio_s: float
    chunk_ms: int = 100
    paced_chunks: int = 0
    rounds: int = 1
    untimed: int = 1
    passes: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Return the task as JSON values."""
        return {**asdict(self), "files": [str(file) for file in self.files]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Task:
        """Build a task from `to_dict`'s values."""
        return cls(**{**values, "files": tuple(Path(file) for file in values["files"])})


def _assess(subject: Grader, task: Task) -> float:
    start = time.perf_counter()
    subject.assess(task.files)
    return _since_ms(start)


def _stream(subject: Grader, task: Task) -> float:
    (file,) = task.files
    return subject.time_to_score_ms(file, chunk_ms=task.chunk_ms, paced_chunks=task.paced_chunks)


def _extract(subject: Extractor, task: Task) -> float:
    (file,) = task.files
    samples = samples_in_memory(file)
    start = time.perf_counter()
    subject.log_mel(samples)
    return _since_ms(start)


def _since_ms(start: float) -> float:
    return 1e3 * (time.perf_counter() - start)


SCENARIOS: dict[str, Callable[[Any, Task], float]] = {
    "SingleStream": _assess,
    "TimeToScore": _stream,
    "Offline": _assess,
    "LogMel": _extract,
}
"""Scenario -> one timed pass of a task on a subject, in milliseconds."""
