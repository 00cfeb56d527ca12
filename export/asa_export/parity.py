"""How far scores move from the PyTorch reference, in score points, on whole recordings.

|change of RMSE| <= RMS(change of score), whatever the experts say; so the change of the score
itself is what is gated, and the correlation with the experts besides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asa_engine.audio import SAMPLE_RATE_HZ
from asa_engine.bundle import Bundle
from asa_engine.errors import AudioError, BundleError, DriftError
from asa_engine.evaluation.drift import BUDGETS, SCALE_WIDTH, Budget
from asa_engine.evaluation.metrics import pcc, rmse
from asa_engine.graders import grader_entry
from asa_engine.graders.acoustic.backends.base import Backend, Encoded, HeadOutput
from asa_engine.graders.aspects import AspectConfig
from asa_engine.profiling import StageClock
from asa_engine.request import Request
from asa_export.in_order import in_order
from asa_export.speech import Recording

__all__ = ["REFERENCE", "AspectParity", "Parity", "Scorer", "compare"]

REFERENCE = ("torch", "fp32")
"""Backend and precision that all others are compared with."""

_Row = tuple[Recording, list[NDArray[np.float64] | None]]


@dataclass(frozen=True, slots=True)
class AspectParity:
    """One aspect's changes, in its own score points.

    Attributes:
        rms: Root mean square change.
        max: Largest change.
        mean: Mean change: what does not average out.
        level_flips: Recordings whose level changed.
        pcc_reference: Correlation of the reference with the experts; `None` without experts.
        pcc_change: Candidate's correlation minus the reference's.
        rmse_change: Candidate's root mean square error minus the reference's.
        rms_budget: Largest `rms` allowed.
        max_budget: Largest `max` allowed.
    """

    rms: float
    max: float
    mean: float
    level_flips: int
    pcc_reference: float | None
    pcc_change: float | None
    rmse_change: float | None
    rms_budget: float
    max_budget: float


@dataclass(frozen=True, slots=True)
class Parity:
    """A candidate compared with the reference.

    Attributes:
        variant: "backend/precision" of the candidate.
        reference: "backend/precision" it was compared with.
        recordings: How many recordings were compared.
        split: How many more were scored by only one of the two.
        speech: Where they come from.
        aspects: Aspect name -> its changes.
        exceeded: What lies outside the budget, in words; empty if nothing does.
    """

    variant: str
    reference: str
    recordings: int
    split: int
    speech: str
    aspects: Mapping[str, AspectParity]
    exceeded: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        return {**asdict(self), "exceeded": list(self.exceeded)}

    def table(self) -> str:
        """Return the comparison as lines of text."""
        lines = [
            f"{self.variant} against {self.reference}, {self.speech}",
            f"  {'aspect':<14}{'rms':>9}{'budget':>9}{'max':>9}{'mean':>10}{'flips':>7}"
            f"{'PCC':>9}{'change':>10}{'RMSE chg':>10}",
        ]
        for name, a in self.aspects.items():
            judged = (
                f"{a.pcc_reference:>9.4f}{a.pcc_change:>+10.5f}{a.rmse_change:>+10.5f}"
                if a.pcc_reference is not None
                else f"{'-':>9}{'-':>10}{'-':>10}"
            )
            lines.append(
                f"  {name:<14}{a.rms:>9.5f}{a.rms_budget:>9.4f}{a.max:>9.5f}{a.mean:>+10.5f}"
                f"{a.level_flips:>7}{judged}"
            )
        lines.append("  over the budget: " + "; ".join(self.exceeded) if self.exceeded else "")
        return "\n".join(line for line in lines if line)

    def check(self) -> None:
        """Raise where a budget is exceeded.

        Raises:
            DriftError: Naming what is exceeded.
        """
        if self.exceeded:
            raise DriftError(
                f"{self.variant} moves scores too far: {'; '.join(self.exceeded)}",
                hint="calibrate on more recordings like the learners', or leave this precision out",
            )


class _Tap:
    """A backend that remembers what its head said last, before scores are held to their scale."""

    def __init__(self, backend: Backend) -> None:
        self._encode = backend.encode
        self._head = backend.head
        self.scores = np.empty(0)

    def encode(self, mel: NDArray[np.float32], *, frames: bool = False) -> Encoded:
        # Scores that a device computes with a window are of that window alone here.
        return replace(self._encode(mel, frames=frames), output=None)

    def head(self, stats: NDArray[np.float32]) -> HeadOutput:
        output = self._head(stats)
        self.scores = output.scores.astype(np.float64)
        return output


class Scorer:
    """One bundle on one backend, scoring whole recordings through the engine's own run.

    Any number of threads may score with it. Validity checks are left out: drift is measured on any
    sound.

    Args:
        bundle: A bundle or an opened checkpoint.
        backend: Key of `asa_engine.runtimes.RUNTIMES`.
        precision: Precision of the encoder.
        stages: What is scored with, by default the backend's own.

    Attributes:
        judged_elsewhere: Whether `stages` stand in for the backend's own.

    Raises:
        BackendError: It cannot run here.
    """

    def __init__(self, bundle: Bundle, backend: str, precision: str, *, stages: Any = None) -> None:
        self.variant = f"{backend}/{precision}"
        self.precision = precision
        self._entry = grader_entry(bundle.grader)
        self.config = self._entry.config(bundle.config)
        self.judged_elsewhere = stages is not None
        if self.judged_elsewhere:
            self.stages = stages
        elif (backend, precision) == REFERENCE:
            self.stages = self._entry.open_reference(bundle, 1)
        else:
            self.stages = self._entry.open(bundle, backend, precision, 1)

    def score(
        self,
        samples: NDArray[np.float32],
        texts: Mapping[str, str] = MappingProxyType({}),
        parts: Sequence[tuple[str, int]] = (),
    ) -> NDArray[np.float64] | None:
        """Return the scores of one recording, [A]; `None` where it says nothing to be scored.

        The acoustic grader's are not held to their scale, so that no drift hides behind its ends.

        Args:
            samples: float32 [n], 16 kHz.
            texts: Texts of the request; those that the grader does not use are left out.
            parts: For graders of sessions, the part and the samples of each response, of which
                the recording is made.

        Raises:
            AudioError: It is too short to hold one window.
        """
        if self._entry.session is not None:
            return self._score_session(samples, parts)
        request = Request(**{name: texts[name] for name in self._entry.uses if name in texts})
        start = self._entry.score or self._entry.run
        tap = _Tap(self.stages) if isinstance(self.stages, Backend) else None
        run = start(self.config, tap or self.stages, StageClock(), request)
        run.push(samples)
        grade = run.finish()
        if grade is None:
            raise AudioError("the recording is too short to be scored")
        if tap is not None:
            return tap.scores
        if not grade.scorable:
            return None
        return np.array([grade.scores[aspect.name].value for aspect in self.config.aspects])

    def _score_session(
        self, samples: NDArray[np.float32], parts: Sequence[tuple[str, int]]
    ) -> NDArray[np.float64]:
        """Return the scores of a session; those of parts of which nothing was heard are NaN."""
        assert self._entry.session is not None
        run = self._entry.session(self.config, self.stages, StageClock())
        start = 0
        for part, length in parts:
            run.begin(part)
            run.push(samples[start : start + length])
            run.end()
            start += length
        grade = run.finish()
        if grade is None:
            raise AudioError("the session is too short to be scored")
        scores = [grade.scores.get(aspect.name) for aspect in self.config.aspects]
        return np.array([math.nan if score is None else score.value for score in scores])


def compare(
    reference: Scorer,
    candidates: Sequence[Scorer],
    recordings: Iterable[Recording],
    speech: str,
    *,
    rms_budget: float | None = None,
    workers: int = 1,
) -> list[Parity]:
    """Score recordings with a reference and with candidates, each decoded once.

    Args:
        reference: What is taken for the truth.
        candidates: What is judged.
        recordings: What is scored; those too short for a window are left out.
        speech: Where the recordings come from.
        rms_budget: Instead of the precision's own, in points of a scale of width 6.
        workers: Recordings that are scored at a time; no score depends on it.

    Raises:
        AudioError: A recording cannot be read, or none is long enough.
        BundleError: Reference and candidate score different aspects.
    """
    scorers = [reference, *candidates]
    if any(scorer.config.aspects != reference.config.aspects for scorer in scorers):
        raise BundleError(
            "the bundle and its reference score different aspects or scales",
            hint="compare with the checkpoint that the bundle was exported from",
        )
    rows = [row for row in in_order(partial(_scored, scorers), recordings, workers) if row]
    return [
        _judge(
            reference,
            candidate,
            [(recording, scores[0], scores[index]) for recording, scores in rows],
            speech,
            rms_budget,
        )
        for index, candidate in enumerate(candidates, start=1)
    ]


MIN_RECORDING_S = 0.1


def _scored(scorers: Sequence[Scorer], recording: Recording) -> _Row | None:
    """Return what every scorer says of a recording; `None` if it is too short."""
    responses = recording.responses()
    samples = np.concatenate([response for _, response in responses])
    if samples.size < SAMPLE_RATE_HZ * MIN_RECORDING_S:
        return None
    parts = [(part, len(response)) for part, response in responses]
    return recording, [scorer.score(samples, recording.texts, parts) for scorer in scorers]


def _judge(
    reference: Scorer,
    candidate: Scorer,
    rows: Sequence[tuple[Recording, NDArray[np.float64] | None, NDArray[np.float64] | None]],
    speech: str,
    rms_budget: float | None,
) -> Parity:
    """Compare the scores of two; `None` where one finds nothing to score."""
    both = [(r, a, b) for r, a, b in rows if a is not None and b is not None]
    if not both:
        raise AudioError(
            f"no recording can be scored, or none is as long as {MIN_RECORDING_S} s",
            hint="pass recordings of speech with --data",
        )
    recordings = [recording for recording, _, _ in both]
    truth, scores = np.array([a for _, a, _ in both]), np.array([b for _, _, b in both])
    split = sum((a is None) != (b is None) for _, a, b in rows)
    budget = BUDGETS[candidate.precision].with_rms(rms_budget)
    aspects: dict[str, AspectParity] = {}
    exceeded: list[str] = []
    if split > budget.split * len(rows):
        exceeded.append(f"{split} recordings are scored by only one of the two")
    for index, aspect in enumerate(reference.config.aspects):
        experts = [r.scores.get(aspect.name, math.nan) for r in recordings]
        aspect_parity = _aspect(
            aspect, truth[:, index], scores[:, index], np.array(experts), budget
        )
        aspects[aspect.name] = aspect_parity
        for what, value, most in (
            ("RMS", aspect_parity.rms, aspect_parity.rms_budget),
            ("max", aspect_parity.max, aspect_parity.max_budget),
            ("PCC change", _judged_pcc(aspect_parity, len(recordings)), budget.pcc),
        ):
            if not value <= most:  # NaN is over every budget
                exceeded.append(f"{aspect.name} {what} {value:.5f} (at most {most:.5f})")
    return Parity(
        variant=candidate.variant,
        reference=reference.variant,
        recordings=len(recordings),
        split=split,
        speech=speech,
        aspects=aspects,
        exceeded=tuple(exceeded),
    )


MIN_JUDGED = 100
"""With fewer recordings a correlation's change is mostly chance: it is reported, not judged."""


def _judged_pcc(parity: AspectParity, recordings: int) -> float:
    if parity.pcc_change is None or recordings < MIN_JUDGED:
        return 0.0
    return abs(parity.pcc_change)


MIN_CORRELATED = 3


def _aspect(
    aspect: AspectConfig,
    truth: NDArray[np.float64],
    scores: NDArray[np.float64],
    experts: NDArray[np.float64],
    budget: Budget,
) -> AspectParity:
    change = scores - truth
    low, high = aspect.scale_min, aspect.scale_max
    held_truth, held_scores = truth.clip(low, high), scores.clip(low, high)
    flips = [
        aspect.level_of(before) != aspect.level_of(after)
        for before, after in zip(held_truth, held_scores, strict=True)
    ]
    scale = (high - low) / SCALE_WIDTH
    known = np.isfinite(experts)
    correlation = pcc_change = rmse_change = None
    if known.sum() >= MIN_CORRELATED and np.ptp(experts[known]) > 0:
        correlation = pcc(held_truth[known], experts[known])
        pcc_change = pcc(held_scores[known], experts[known]) - correlation
        rmse_change = rmse(held_scores[known], experts[known]) - rmse(
            held_truth[known], experts[known]
        )
    return AspectParity(
        rms=math.sqrt(float(np.mean(change**2))),
        max=float(np.abs(change).max()),
        mean=float(change.mean()),
        level_flips=sum(flips),
        pcc_reference=correlation,
        pcc_change=pcc_change,
        rmse_change=rmse_change,
        rms_budget=budget.rms * scale,
        max_budget=budget.max * scale,
    )
