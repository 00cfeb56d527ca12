"""A whole session, incrementally: begin a response, feed it, end it; then finish."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from asa_engine.assessment import Assessment, PartResult, Score, Timing
from asa_engine.audio import SAMPLE_RATE_HZ, AudioChunk
from asa_engine.audio.intake import Intake
from asa_engine.audio.validity import Validity
from asa_engine.errors import AudioError, UsageError
from asa_engine.graders import SessionRun
from asa_engine.profiling import StageClock
from asa_engine.runtimes.gate import Gate
from asa_engine.stream import ChunkStream, since_ms

__all__ = ["INCOMPLETE", "SessionStream"]

INCOMPLETE = "incomplete_session"
_OVERALL = "overall"


class SessionStream(ChunkStream):
    """Scores a session while it is spoken. Made by `Engine.session`.

    Responses come in the order of the grader's parts. One that is unscorable is left out: neither
    the scores nor the prior hear it, the part counts it, and the session says "incomplete_session"
    in `validity.reasons`, as it does for a part of which nothing was heard.
    """

    def __init__(
        self,
        run: SessionRun,
        clock: StageClock,
        grader: str,
        receipt: Mapping[str, Any],
        parts: Sequence[str],
        front: int,
        gate: Gate,
    ) -> None:
        self._run = run
        self._gate = gate
        self._clock = clock
        self._grader = grader
        self._receipt = {**receipt, "prior_reading": run.mode}
        self._counts = {part: 0 for part in parts}
        self._scored = {part: 0 for part in parts}
        self._responses: list[Assessment] = []
        self._part = ""
        self._front = front
        self._intake: Intake | None = None
        self._before = self._clock.totals_ms()
        self._result: Assessment | None = None

    def begin(self, part: str, sample_rate_hz: int = SAMPLE_RATE_HZ) -> None:
        """Begin the next response.

        Args:
            part: Which part it belongs to.
            sample_rate_hz: Rate of the chunks that will be fed.

        Raises:
            AudioError: There are more responses than the grader takes.
            UsageError: The response before has not ended, the grader knows no such part, a later
                one was begun before, or the stream is finished or closed.
        """
        self._check_open()
        intake = Intake(sample_rate_hz, self._front, self._clock)
        with self._gate:
            self._run.begin(part)
        self._counts[part] += 1
        self._part = part
        self._intake = intake
        self._before = self._clock.totals_ms()

    def feed(self, chunk: AudioChunk) -> None:
        """Take the next chunk of the response; hear what it completes.

        Args:
            chunk: Samples [n] or [n, channels], int16 or float32 in [-1, 1]; may be empty.

        Raises:
            AudioError: Wrong dtype or shape, NaN or infinity, or the session is too long.
            UsageError: No response was begun, or the stream is finished or closed.
        """
        start = time.perf_counter()
        self._take(chunk)
        self._tail_ms = since_ms(start)

    def end(self) -> Validity:
        """End the response; return whether it could be judged.

        Raises:
            UsageError: No response was begun, or the stream is finished or closed.
        """
        start = time.perf_counter()
        intake = self._opened()
        try:
            rest = intake.close()
        except AudioError:
            rest = None
        validity = Validity(False, ("too_short",))
        if rest is not None:
            validity = intake.validity()
            with self._gate:
                self._run.push(rest)
        with self._gate:
            kept = self._run.end(keep=validity.scorable)
        if validity.scorable and not kept:
            validity = replace(validity, scorable=False, reasons=("too_short",))
        self._scored[self._part] += kept
        self._intake = None
        self._tail_ms += since_ms(start)
        if rest is not None:
            self._responses.append(self._response(intake, validity))
        return validity

    def drop(self) -> None:
        """Forget the response, as one whose audio cannot be read; its part still counts it.

        Raises:
            UsageError: No response was begun, or the stream is finished or closed.
        """
        self._opened()
        with self._gate:
            self._run.end(keep=False)
        self._intake = None

    @property
    def responses(self) -> tuple[Assessment, ...]:
        """What is known of the responses that ended: validity, timing, receipt; no scores."""
        return tuple(self._responses)

    @property
    def provisional(self) -> dict[str, Score] | None:
        """Scores, were this all, by part and `overall`; `None` before anything was heard."""
        if self._result is not None:
            return dict(self._result.scores)
        with self._gate:
            grade = self._run.provisional()
        return None if grade is None else dict(grade.scores)

    def finish(self) -> Assessment:
        """End the session and return its assessment; a second call returns the same one.

        Raises:
            AudioError: No response was fed any audio.
            UsageError: A response has not ended, or the stream was closed before.
        """
        if self._result is not None:
            return self._result
        self._check_open()
        if not self._responses:
            raise AudioError("the session holds no audio", hint="feed its responses first")
        start = time.perf_counter()
        with self._gate:
            grade = self._run.finish()
        tail_ms = self._tail_ms + since_ms(start)
        scores = {} if grade is None else grade.scores
        parts = tuple(
            PartResult(
                part,
                {_OVERALL: scores[part]} if part in scores else {},
                count,
                self._scored[part],
            )
            for part, count in self._counts.items()
        )
        whole = all(0 < part.responses == part.scored for part in parts)
        hashes = [response.receipt["audio_sha256"] for response in self._responses]
        audio_s = sum(response.timing.audio_s for response in self._responses)
        self._result = Assessment(
            grader=self._grader,
            scores=scores,
            prior=None if grade is None else grade.prior,
            validity=Validity(bool(scores), () if whole else (INCOMPLETE,)),
            timing=_timing(self._clock.totals_ms(), {}, audio_s, tail_ms),
            receipt={**self._receipt, "audio_sha256": hashes},
            parts=parts,
            responses=tuple(self._responses),
        )
        return self._result

    def _take(self, chunk: AudioChunk) -> None:
        samples = self._opened().push(chunk)
        with self._gate:
            self._run.push(samples)

    def _opened(self) -> Intake:
        self._check_open()
        if self._intake is None:
            raise UsageError("no response was begun", hint="begin one first")
        return self._intake

    def _check_open(self) -> None:
        if self._result is not None:
            raise UsageError("the session is finished", hint="start another with engine.session()")
        if self._closed:
            raise UsageError("the session is closed", hint="start another with engine.session()")

    def _response(self, intake: Intake, validity: Validity) -> Assessment:
        audio_s = intake.converter.samples_out / SAMPLE_RATE_HZ
        return Assessment(
            grader=self._grader,
            scores={},
            validity=validity,
            timing=_timing(self._clock.totals_ms(), self._before, audio_s, self._tail_ms),
            receipt={**self._receipt, "audio_sha256": intake.converter.sha256()},
            channels=intake.converter.channels,
        )


def _timing(
    now: Mapping[str, float], before: Mapping[str, float], audio_s: float, tail_ms: float
) -> Timing:
    """Return where the time went between two moments."""
    spent = {stage: total - before.get(stage, 0.0) for stage, total in now.items()}
    return Timing.of(spent, audio_s, tail_ms)
