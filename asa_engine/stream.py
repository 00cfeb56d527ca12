"""An incremental assessment: feed, provisional, finish."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from asa_engine.assessment import Assessment, Grade, Timing
from asa_engine.audio import SAMPLE_RATE_HZ, AudioChunk, ChunkConverter
from asa_engine.errors import UsageError
from asa_engine.graders import Explains, Run
from asa_engine.profiling import StageClock
from asa_engine.validity import ValidityMonitor

__all__ = ["Stream"]


class Stream:
    """Scores speech while it is spoken. Made by `Engine.stream`.

    Chunks may have any size, one sample included, and any sample rate from 4 to 384 kHz; the
    scores depend on the audio alone, never on how it was cut.
    """

    def __init__(
        self,
        run: Run,
        clock: StageClock,
        grader: str,
        receipt: Mapping[str, Any],
        *,
        sample_rate_hz: int,
    ) -> None:
        self._run = run
        self._clock = clock
        self._grader = grader
        self._receipt = receipt
        self._converter = ChunkConverter(sample_rate_hz)
        self._validity = ValidityMonitor()
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

    def feed(self, chunk: AudioChunk) -> None:
        """Take the next chunk; encode what it completes.

        Args:
            chunk: Samples [n] or [n, channels], int16 or float32 in [-1, 1]; may be empty.

        Raises:
            AudioError: Wrong dtype or shape, NaN or infinity.
            UsageError: The stream is finished or closed.
        """
        start = time.perf_counter()
        self._take(chunk)
        self._tail_ms = _since_ms(start)

    def feed_all(self, chunks: Iterable[AudioChunk]) -> None:
        """Take chunks that are all there already, as in a file: the speech has ended."""
        start = time.perf_counter()
        source = iter(chunks)
        while True:
            with self._clock.scope("decode"):
                chunk = next(source, None)
            if chunk is None:
                break
            self._take(chunk)
        self._tail_ms = _since_ms(start)

    @property
    def provisional(self) -> dict[str, Any] | None:
        """Scores of the windows closed so far, by name, or `None` before the first one closes.

        Each `Score` states its expected error in `sd` for the speech heard so far.
        """
        if self._result is not None:
            return dict(self._result.scores)
        grade = self._run.provisional()
        return None if grade is None else dict(grade.scores)

    def finish(self, on_text: Callable[[str], None] | None = None) -> Assessment:
        """End the speech and return the final assessment; a second call returns the same one.

        Args:
            on_text: Called with every piece of the rationale as it is written, by graders that
                explain themselves. They write before the recording's validity is known: what it
                got is of no worth where the result turns out not to be scorable.

        Raises:
            AudioError: No audio was fed at all.
            UsageError: The stream was closed before.
        """
        if self._result is not None:
            return self._result
        self._check_open()
        start = time.perf_counter()
        with self._clock.scope("decode"):
            rest = self._converter.close()
        with self._clock.scope("validity"):
            self._validity.push(rest)
        self._run.push(rest)
        if on_text is not None and isinstance(self._run, Explains):
            self._run.on_text = on_text
        grade = self._run.finish()
        with self._clock.scope("validity"):
            validity = self._validity.finish(self._converter)
        heard = grade or Grade({})
        if heard.reasons or not heard.scorable:
            validity = replace(
                validity,
                scorable=validity.scorable and heard.scorable,
                reasons=tuple(dict.fromkeys((*validity.reasons, *heard.reasons))),
            )
        judged = heard if validity.scorable else Grade({})
        self._result = Assessment(
            grader=self._grader,
            scores=judged.scores,
            prior=judged.prior,
            words=heard.words,
            transcript=heard.transcript,
            features=heard.features,
            rationale=judged.rationale,
            validity=validity,
            timing=self._timing(self._tail_ms + _since_ms(start)),
            receipt={**self._receipt, "audio_sha256": self._converter.sha256()},
        )
        return self._result

    def _take(self, chunk: AudioChunk) -> None:
        self._check_open()
        if self._result is not None:
            raise UsageError("the stream is finished", mend="start another with engine.stream()")
        with self._clock.scope("decode"):
            samples = self._converter.push(chunk)
        with self._clock.scope("validity"):
            self._validity.push(samples)
        self._run.push(samples)

    def _check_open(self) -> None:
        if self._closed and self._result is None:
            raise UsageError("the stream is closed", mend="start another with engine.stream()")

    def _timing(self, tail_ms: float) -> Timing:
        audio_s = self._converter.samples_out / SAMPLE_RATE_HZ
        return Timing(
            audio_s=audio_s,
            decode_ms=self._clock.total_ms("decode") + self._clock.total_ms("validity"),
            features_ms=self._clock.total_ms("features"),
            encoder_ms=self._clock.total_ms("encoder"),
            prior_ms=self._optional_ms("prior"),
            backbone_ms=self._optional_ms("backbone"),
            head_ms=self._clock.total_ms("head"),
            time_to_score_ms=tail_ms,
            real_time_factor=self._clock.sum_ms() / (1e3 * max(audio_s, 1e-9)),
            recogniser_ms=self._optional_ms("recogniser"),
        )

    def _optional_ms(self, stage: str) -> float | None:
        return self._clock.total_ms(stage) or None


def _since_ms(start: float) -> float:
    return 1e3 * (time.perf_counter() - start)
