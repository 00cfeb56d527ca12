"""Summaries of raw samples: percentiles, and ratios paired by round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Latency", "Ratio", "Rounds", "paired_ratio", "summarise"]

Rounds = Sequence[Sequence[float]]
"""Samples in milliseconds: one inner sequence a round, one value a timed pass."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of a set of passes, linearly interpolated between order statistics.

    Attributes:
        n: Number of samples.
    """

    n: int
    min_ms: float
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times faster than the reference: median and quartiles over rounds."""

    median: float
    q25: float
    q75: float


def summarise(rounds: Rounds) -> Latency:
    """Summarise all samples of all rounds.

    Raises:
        ValueError: There is no sample, or one is not a finite positive number.
    """
    samples = _flat(rounds)
    p50, p90, p99 = np.percentile(samples, (50, 90, 99)).tolist()
    return Latency(
        n=samples.size,
        min_ms=float(samples.min()),
        mean_ms=float(samples.mean()),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
    )


def paired_ratio(reference: Rounds, candidate: Rounds) -> Ratio:
    """Return reference time / candidate time.

    The medians of one round are divided by each other, then the median over rounds is taken: a
    slow moment of the machine falls on both sides of the fraction.

    Raises:
        ValueError: The two have different numbers of rounds, or a sample is unusable.
    """
    if len(reference) != len(candidate):
        raise ValueError(f"{len(reference)} rounds cannot be paired with {len(candidate)}")
    ratios = [
        float(np.median(_flat([ours])) / np.median(_flat([theirs])))
        for ours, theirs in zip(reference, candidate, strict=True)
    ]
    q25, median, q75 = np.percentile(ratios, (25, 50, 75)).tolist()
    return Ratio(median=median, q25=q25, q75=q75)


def _flat(rounds: Rounds) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    samples = np.array([sample for passes in rounds for sample in passes], dtype=np.float64)
    if not samples.size or not np.isfinite(samples).all() or (samples <= 0).any():
        raise ValueError("samples must be finite, positive and at least one")
    return samples
