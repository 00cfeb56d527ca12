"""Rounds of an encoder benchmark: peers take turns, rows come of their times."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from asa_engine.measuring.statistics import paired_ratio, summarise
from benchmarks.encoders.peers import PEERS, REFERENCE

__all__ = [
    "ERROR_BOUNDS",
    "Findings",
    "Task",
    "relative_error",
    "rows_of",
    "take_turns",
]

# Largest relative error at which a peer is still timed. int8 is wide: the usual dynamic scheme
# of some peers is near a tenth, and the table should show what that buys.
ERROR_BOUNDS = {"fp32": 1e-3, "bf16": 0.03, "int8": 0.15}


class TimedPeer(Protocol):
    """What a turn needs of a peer's process."""

    def measure(self) -> Mapping[str, float]:
        """Run one timed pass."""


@dataclass(frozen=True, slots=True)
class Task:
    """Windows that arrive together.

    Attributes:
        model: Key of `MODELS`.
        seconds: Length of each window.
        streams: How many there are.
        threads: Threads each peer may use.
    """

    model: str
    seconds: float
    streams: int
    threads: int


@dataclass(slots=True)
class Findings:
    """What a run has found so far."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    not_timed: list[dict[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def leave_out(self, what: str, why: str) -> None:
        """Record once what is not timed and why."""
        if (entry := {"what": what, "why": why}) not in self.not_timed:
            self.not_timed.append(entry)


def relative_error(states: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Return the Frobenius norm of the difference over the reference's; NaN where one is NaN.

    Raises:
        ValueError: The shapes differ.
    """
    if states.shape != reference.shape:
        raise ValueError(f"states {states.shape} cannot be compared with {reference.shape}")
    truth = reference.astype(np.float64)
    return float(np.linalg.norm(states - truth) / np.linalg.norm(truth))


def take_turns(
    peers: Mapping[str, TimedPeer], rounds: int, seed: int = 0
) -> dict[str, list[Mapping[str, float]]]:
    """Give every peer one turn a round, each round in a new random order."""
    order = list(peers)
    shuffle = random.Random(seed).shuffle
    samples: dict[str, list[Mapping[str, float]]] = {name: [] for name in order}
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            samples[name].append(peers[name].measure())
    return samples


def rows_of(
    task: Task,
    samples: Mapping[str, Sequence[Mapping[str, float]]],
    errors: Mapping[str, float],
    about: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Turn the samples of one task into rows of the result; `drift_rms` comes later.

    Args:
        task: What was timed.
        samples: As `take_turns` returns them; the reference is among them.
        errors: Peer -> relative error.
        about: Peer -> `version`, `way` and `tried_ms`.
    """
    times = {name: [[turn["ms"]] for turn in turns] for name, turns in samples.items()}
    rows = []
    for name, turns in samples.items():
        latency, peer = summarise(times[name]), PEERS[name]
        ratio = paired_ratio(times[REFERENCE], times[name])
        rows.append(
            {
                "model": task.model,
                "seconds": task.seconds,
                "streams": task.streams,
                "threads": task.threads,
                "peer": name,
                "library": peer.label,
                "version": about[name]["version"],
                "precision": peer.precision,
                "way": about[name]["way"],
                "tried_ms": about[name]["tried_ms"],
                "n": latency.n,
                "min_ms": latency.min_ms,
                "p50_ms": latency.p50_ms,
                "p90_ms": latency.p90_ms,
                "windows_per_s": 1e3 * task.streams / latency.p50_ms,
                "speedup": asdict(ratio),
                "relative_error": errors[name],
                "error_bound": ERROR_BOUNDS[peer.precision],
                "drift_rms": None,
                "cores_used": sum(t["cpu_ms"] for t in turns) / sum(t["ms"] for t in turns),
                "p50_cpu_ms": float(np.median([turn["cpu_ms"] for turn in turns])),
                "memory_mb": turns[-1]["memory_mb"],
                "samples_ms": [round(turn["ms"], 3) for turn in turns],
            }
        )
    return rows
