"""A whole session, incrementally: begin a response, feed it, end it; then finish."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from asa_engine.assessment import Assessment, PartResult, Score, Timing
from asa_engine.audio import SAMPLE_RATE_HZ, AudioChunk, ChunkConverter
from asa_engine.errors import AudioError, UsageError
from asa_engine.graders import SessionRun
from asa_engine.profiling import StageClock
from asa_engine.validity import Validity, ValidityMonitor

__all__ = ["INCOMPLETE", "SessionStream"]

INCOMPLETE = "incomplete_session"
_OVERALL = "overall"


class SessionStream:
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
    ) -> None:
        self._run = run
        self._clock = clock
        self._grader = grader
        self._receipt = {**receipt, "prior_reading": run.mode}
        self._counts = {part: 0 for part in parts}
        self._scored = {part: 0 for part in parts}
        self._responses: list[Assessment] = []
        self._part = ""
        self._converter: ChunkConverter | None = None
        self._validity = ValidityMonitor()
        self._before = self._spent()
        self._tail_ms = 0.0
        self._result: Assessment | None = None
        self._closed = False

    def __enter__(self) -> Self:
        """Return the stream itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the stream; an unfinished one is dropped."""
        self._closed = True

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
        converter = ChunkConverter(sample_rate_hz)
        self._run.begin(part)
        self._counts[part] += 1
        self._part = part
        self._converter = converter
        self._validity = ValidityMonitor()
        self._before = self._spent()

    def feed(self, chunk: AudioChunk) -> None:
        """Take the next chunk of the response; hear what it completes.

        Args:
            chunk: Samples [n] or [n, channels], int16 or float32 in [-1, 1]; may be empty.

        Raises:
            AudioError: Wrong dtype or shape, NaN or infinity, or the session is too long.
            UsageError: No response was begun, or the stream is finished or closed.
        """
        start = time.perf_counter()
        converter = self._opened()
        with self._clock.scope("decode"):
            samples = converter.push(chunk)
        with self._clock.scope("validity"):
            self._validity.push(samples)
        self._run.push(samples)
        self._tail_ms = _since_ms(start)

    def feed_all(self, chunks: Iterable[AudioChunk]) -> None:
        """Take chunks that are all there already, as in a file."""
        start = time.perf_counter()
        source = iter(chunks)
        while True:
            with self._clock.scope("decode"):
                chunk = next(source, None)
            if chunk is None:
                break
            self.feed(chunk)
        self._tail_ms = _since_ms(start)

    def end(self) -> Validity:
        """End the response; return whether it could be judged.

        Raises:
            UsageError: No response was begun, or the stream is finished or closed.
        """
        start = time.perf_counter()
        converter = self._opened()
        with self._clock.scope("decode"):
            try:
                rest = converter.close()
            except AudioError:
                rest = None
        validity = Validity(False, ("too_short",))
        if rest is not None:
            with self._clock.scope("validity"):
                self._validity.push(rest)
                validity = self._validity.finish(converter)
            self._run.push(rest)
        kept = self._run.end(keep=validity.scorable)
        if validity.scorable and not kept:
            validity = replace(validity, scorable=False, reasons=("too_short",))
        self._scored[self._part] += kept
        self._converter = None
        self._tail_ms += _since_ms(start)
        if rest is not None:
            self._responses.append(self._response(converter, validity))
        return validity

    def drop(self) -> None:
        """Forget the response, as one whose audio cannot be read; its part still counts it.

        Raises:
            UsageError: No response was begun, or the stream is finished or closed.
        """
        self._opened()
        self._run.end(keep=False)
        self._converter = None

    @property
    def responses(self) -> tuple[Assessment, ...]:
        """What is known of the responses that ended: validity, timing, receipt; no scores."""
        return tuple(self._responses)

    @property
    def provisional(self) -> dict[str, Score] | None:
        """Scores, were this all, by part and `overall`; `None` before anything was heard."""
        if self._result is not None:
            return dict(self._result.scores)
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
            raise AudioError("the session holds no audio", mend="feed its responses first")
        start = time.perf_counter()
        grade = self._run.finish()
        tail_ms = self._tail_ms + _since_ms(start)
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
            timing=_timing(self._spent(), {}, audio_s, tail_ms),
            receipt={**self._receipt, "audio_sha256": hashes},
            parts=parts,
            responses=tuple(self._responses),
        )
        return self._result

    def _opened(self) -> ChunkConverter:
        self._check_open()
        if self._converter is None:
            raise UsageError("no response was begun", mend="begin one first")
        return self._converter

    def _check_open(self) -> None:
        if self._result is not None:
            raise UsageError("the session is finished", mend="start another with engine.session()")
        if self._closed:
            raise UsageError("the session is closed", mend="start another with engine.session()")

    def _response(self, converter: ChunkConverter, validity: Validity) -> Assessment:
        audio_s = converter.samples_out / SAMPLE_RATE_HZ
        return Assessment(
            grader=self._grader,
            scores={},
            validity=validity,
            timing=_timing(self._spent(), self._before, audio_s, self._tail_ms),
            receipt={**self._receipt, "audio_sha256": converter.sha256()},
        )

    def _spent(self) -> dict[str, float]:
        stages = ("decode", "validity", "features", "encoder", "prior", "backbone", "head")
        return {stage: self._clock.total_ms(stage) for stage in stages}


def _timing(
    now: Mapping[str, float], before: Mapping[str, float], audio_s: float, tail_ms: float
) -> Timing:
    """Return where the time went between two moments."""
    spent = {stage: total - before.get(stage, 0.0) for stage, total in now.items()}
    return Timing(
        audio_s=audio_s,
        decode_ms=spent["decode"] + spent["validity"],
        features_ms=spent["features"],
        encoder_ms=spent["encoder"],
        prior_ms=spent["prior"],
        backbone_ms=spent["backbone"],
        head_ms=spent["head"],
        time_to_score_ms=tail_ms,
        real_time_factor=sum(spent.values()) / (1e3 * max(audio_s, 1e-9)),
    )


def _since_ms(start: float) -> float:
    return 1e3 * (time.perf_counter() - start)
