"""Candidates take turns: a drift gate first, then rounds in random order.

All candidates of a run are open at the same time, one process each. In every round each of them
has one turn, in a new random order; so a slow minute of the machine, a hot core or a busy
neighbour falls on all of them alike, and ratios are taken within rounds.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from asa_engine.errors import DriftError
from asa_engine.evaluation.drift import Drift, Scores, score_drift
from asa_engine.measuring.scenarios import Task
from asa_engine.measuring.statistics import paired_ratio, summarise

__all__ = ["Candidate", "GradingWorker", "Refused", "TimingWorker", "gate", "rows_of", "take_turns"]

# Pools of the candidate before go to sleep within a few milliseconds; a turn starts after that.
SETTLE_S = 0.01


class TimingWorker(Protocol):
    """What a turn needs of a worker."""

    def measure(self, task: dict[str, Any], *, untimed: int, timed: int) -> list[float]:
        """Return the milliseconds of each timed pass."""


class GradingWorker(Protocol):
    """What the gate needs of a worker."""

    def scores(self, files: Sequence[Path]) -> list[dict[str, float] | None]:
        """Return the scores of each recording."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One thing to time; equal only to itself.

    Attributes:
        name: What rows call it, e.g. "onnxruntime/int8".
        kind: Key of `make_subject`.
        options: Arguments of the subject, JSON values.
        threads: Threads it may use.
        backend: Library it runs on.
        precision: Arithmetic.
        is_reference: Whether ratios may be taken against it.
    """

    name: str
    kind: str
    options: Mapping[str, Any]
    threads: int
    backend: str
    precision: str
    is_reference: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """A candidate that is not timed, and why."""

    candidate: str
    threads: int
    reason: str
    drift: Drift | None = None


def gate(
    candidate: Candidate,
    worker: GradingWorker,
    reference: Sequence[Scores | None],
    files: Sequence[Path],
    *,
    scale_width: float,
) -> Drift | Refused:
    """Compare a candidate's scores with the reference's; refuse it over its budget.

    Args:
        candidate: Its precision decides the budget.
        worker: Where it runs.
        reference: The reference's scores of `files`.
        files: Real recordings.
        scale_width: Highest minus lowest score of the scale.
    """
    try:
        drift = score_drift(
            reference,
            worker.scores(files),
            precision=candidate.precision,
            scale_width=scale_width,
        )
    except DriftError as error:
        return Refused(candidate.name, candidate.threads, error.message)
    if drift.within_budget:
        return drift
    return Refused(
        candidate.name,
        candidate.threads,
        f"scores differ from the reference by RMS {drift.rms:.4g}, max {drift.max:.4g} points; "
        f"{candidate.precision} may differ by {drift.budget_rms:.4g}, {drift.budget_max:.4g}",
        drift,
    )


def take_turns(
    workers: Mapping[Candidate, TimingWorker],
    task: Task,
    *,
    seed: int = 0,
) -> dict[Candidate, list[list[float]]]:
    """Time a task on every candidate, round by round.

    One pass of each candidate is run and dropped before the first round.

    Returns:
        Candidate -> [task.rounds][task.passes] in milliseconds.
    """
    order = list(workers)
    shuffle = random.Random(seed).shuffle
    samples: dict[Candidate, list[list[float]]] = {candidate: [] for candidate in order}
    values = task.to_dict()
    for candidate in order:
        workers[candidate].measure(values, untimed=0, timed=1)
    for _ in range(task.rounds):
        shuffle(order)
        for candidate in order:
            time.sleep(SETTLE_S)
            turn = workers[candidate].measure(values, untimed=task.untimed, timed=task.passes)
            samples[candidate].append(turn)
    return samples


def rows_of(
    task: Task,
    samples: Mapping[Candidate, Sequence[Sequence[float]]],
    drifts: Mapping[Candidate, Drift],
) -> list[dict[str, Any]]:
    """Turn the samples of one task into rows of the result.

    The reference is the faster one of those marked as such, by median.

    Args:
        task: What was timed.
        samples: As `take_turns` returns them; at least one candidate is a reference.
        drifts: Each candidate's drift; the reference the scores were compared with has none.
    """
    latencies = {candidate: summarise(rounds) for candidate, rounds in samples.items()}
    references = [candidate for candidate in samples if candidate.is_reference]
    reference = min(references, key=lambda candidate: latencies[candidate].p50_ms)
    rows = []
    for candidate, rounds in samples.items():
        latency, drift = latencies[candidate], drifts.get(candidate)
        speedup = paired_ratio(samples[reference], rounds)
        rows.append(
            {
                "scenario": task.scenario,
                "task": task.label,
                "audio_s": task.audio_s,
                "candidate": candidate.name,
                "backend": candidate.backend,
                "precision": candidate.precision,
                "threads": candidate.threads,
                "is_reference": candidate is reference,
                "reference": reference.name,
                **asdict(latency),
                "audio_hours_per_hour": 1e3 * task.audio_s / latency.p50_ms,
                "speedup": asdict(speedup),
                "drift": None if drift is None else drift_values(drift),
                "samples_ms": [[round(sample, 4) for sample in passes] for passes in rounds],
            }
        )
    return rows


def drift_values(drift: Drift) -> dict[str, Any]:
    """Return a drift as JSON values."""
    return {
        "rms": drift.rms,
        "max": drift.max,
        "budget_rms": drift.budget_rms,
        "budget_max": drift.budget_max,
        "recordings": drift.recordings,
        "unit": drift.unit,
    }
