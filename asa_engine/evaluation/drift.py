"""The gate before the stopwatch: scores must stay within a budget of the PyTorch reference."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asa_engine.errors import DriftError

__all__ = [
    "BUDGETS",
    "LOG_MEL_BUDGET",
    "SCALE_WIDTH",
    "Budget",
    "Drift",
    "Scores",
    "log_mel_drift",
    "score_drift",
]

Scores = Mapping[str, float]
"""Score name -> value of one recording."""


SCALE_WIDTH = 6.0
"""Width of the scale that budgets are stated for; a grader's own are in proportion."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a precision may do to scores, which are on a scale of width 6 unless scaled.

    Attributes:
        rms: Largest root mean square change of a score.
        max: Largest change of a score.
        pcc: Largest change of the correlation with the experts.
        split: Largest share of recordings that one of the two may score and the other not.
    """

    rms: float
    max: float
    pcc: float
    split: float

    def scaled(self, scale_width: float) -> Budget:
        """Return the budget for a scale of another width."""
        by = scale_width / SCALE_WIDTH
        return dataclasses.replace(self, rms=self.rms * by, max=self.max * by)

    def with_rms(self, rms: float | None) -> Budget:
        """Return it with another RMS, and a maximum to match; as it is where `None`."""
        if rms is None:
            return self
        return dataclasses.replace(self, rms=rms, max=self.max * rms / self.rms)


# fp32 reorders sums and nothing else. Lower precisions are gated on the RMS, the bound on the
# change of RMSE; their maximum only catches a recording that broke.
BUDGETS = {
    "fp32": Budget(rms=1e-4, max=1e-4, pcc=1e-4, split=0.0),
    "fp16": Budget(rms=0.01, max=0.05, pcc=0.002, split=0.005),
    "bf16": Budget(rms=0.01, max=0.05, pcc=0.002, split=0.005),
    "int8": Budget(rms=0.02, max=0.10, pcc=0.002, split=0.01),
    "int4": Budget(rms=0.05, max=0.25, pcc=0.005, split=0.02),
    # Of int8, which no layer goes below.
    "mixed": Budget(rms=0.02, max=0.10, pcc=0.002, split=0.01),
}

LOG_MEL_BUDGET = 1e-4


@dataclass(frozen=True, slots=True)
class Drift:
    """How far a candidate is from its reference.

    Attributes:
        rms: Root mean square difference over all values compared.
        max: Largest absolute difference.
        budget_rms: Largest RMS allowed.
        budget_max: Largest difference allowed.
        recordings: Recordings compared.
        unit: What the differences are in.
    """

    rms: float
    max: float
    budget_rms: float
    budget_max: float
    recordings: int
    unit: str

    @property
    def within_budget(self) -> bool:
        """Whether the candidate may be timed; NaN never is within."""
        return self.rms <= self.budget_rms and self.max <= self.budget_max


def score_drift(
    reference: Sequence[Scores | None],
    candidate: Sequence[Scores | None],
    *,
    precision: str,
    scale_width: float,
) -> Drift:
    """Compare scores recording by recording.

    Args:
        reference: Scores of the reference, one entry a recording.
        candidate: Scores of the candidate; `None` where it found the recording not scorable.
        precision: Key of `BUDGETS`.
        scale_width: Highest minus lowest score of the scale.

    Raises:
        DriftError: No recording was scored by both, or they score different aspects.
    """
    differences: list[float] = []
    compared = 0
    for theirs, ours in zip(reference, candidate, strict=True):
        if theirs is None or ours is None:
            continue
        if theirs.keys() != ours.keys():
            raise DriftError(f"scores {sorted(ours)} cannot be compared with {sorted(theirs)}")
        differences += [ours[name] - theirs[name] for name in theirs]
        compared += 1
    if not differences:
        raise DriftError("no recording was scored by both the candidate and the reference")
    budget = BUDGETS[precision].scaled(scale_width)
    return Drift(
        rms=_rms(np.array(differences)),
        max=float(np.abs(differences).max()),
        budget_rms=budget.rms,
        budget_max=budget.max,
        recordings=compared,
        unit="score points",
    )


def log_mel_drift(
    reference: Sequence[NDArray[np.float32]], candidate: Sequence[NDArray[np.float32]]
) -> Drift:
    """Compare log-mels [n_mels, T] clip by clip, each value against the same budget.

    Raises:
        DriftError: The shapes differ.
    """
    for theirs, ours in zip(reference, candidate, strict=True):
        if theirs.shape != ours.shape:
            raise DriftError(f"log-mel {ours.shape} cannot be compared with {theirs.shape}")
    differences = np.concatenate(
        [
            (ours.astype(np.float64) - theirs).ravel()
            for theirs, ours in zip(reference, candidate, strict=True)
        ]
    )
    return Drift(
        rms=_rms(differences),
        max=float(np.abs(differences).max()),
        budget_rms=LOG_MEL_BUDGET,
        budget_max=LOG_MEL_BUDGET,
        recordings=len(reference),
        unit="log-mel",
    )


def _rms(differences: NDArray[np.float64]) -> float:
    return math.sqrt(float(np.mean(differences**2)))
