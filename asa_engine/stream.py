"""An incremental assessment: feed, provisional, finish."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Self, TypeVar

from asa_engine.assessment import Assessment, Grade, Phone, Score, Timing, Word
from asa_engine.audio import SAMPLE_RATE_HZ, AudioChunk
from asa_engine.audio.front import Kept
from asa_engine.audio.intake import Intake, source_time_s
from asa_engine.errors import UsageError
from asa_engine.graders import Explains, Foretells, Placed, Run
from asa_engine.profiling import StageClock
from asa_engine.runtimes.gate import Gate

__all__ = ["ChunkStream", "Stream", "since_ms"]


class ChunkStream(ABC):
    """What streams share: a context that closes them, and chunks that are all there already."""

    _clock: StageClock
    _tail_ms = 0.0
    _closed = False

    def __enter__(self) -> Self:
        """Return the stream itself."""
        return self

    def __exit__(self, *failure: object) -> None:
        """Close the stream; an unfinished one is dropped."""
        self._closed = True

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
        self._tail_ms = since_ms(start)

    @abstractmethod
    def _take(self, chunk: AudioChunk) -> None:
        """Take the next chunk."""


class Stream(ChunkStream):
    """Scores speech while it is spoken. Made by `Engine.stream`.

    Chunks may have any size, one sample included, and any sample rate from 4 to 384 kHz; the
    scores depend on the audio alone, never on how it was cut. Several streams of an engine may be
    fed from several threads, each by one thread at a time.
    """

    def __init__(
        self,
        run: Run,
        clock: StageClock,
        grader: str,
        receipt: Mapping[str, Any],
        intake: Intake,
        gate: Gate | None = None,
    ) -> None:
        self._run = run
        self._gate = gate or nullcontext()
        self._clock = clock
        self._grader = grader
        self._receipt = receipt
        self._intake = intake
        if isinstance(run, Placed):
            run.kept = intake.kept
        self._result: Assessment | None = None
        self._asked: tuple[Grade | None] | None = None

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
        self._tail_ms = since_ms(start)

    @property
    def missing_s(self) -> float:
        """Seconds of audio that must come, at least, before `provisional` changes; 0 if unknown.

        Who feeds many streams feeds each less often by it, and no score is told later.
        """
        if not isinstance(self._run, Foretells):
            return 0.0
        return self._intake.missing_s(self._run.missing)

    @property
    def provisional(self) -> dict[str, Score] | None:
        """Scores of the windows closed so far, by name, or `None` before the first one closes.

        Each `Score` states its expected error in `sd` for the speech heard so far.
        """
        if self._result is not None:
            return dict(self._result.scores)
        grade = self._so_far()
        return None if grade is None else dict(grade.scores)

    @property
    def provisional_words(self) -> tuple[Word, ...]:
        """The words passed so far, judged; none from graders that do not follow a text."""
        if self._result is not None:
            return self._result.words
        grade = self._so_far()
        return () if grade is None else _placed(grade.words, self._intake.kept)

    def _so_far(self) -> Grade | None:
        """Return the grade of what was heard, asked for once between two chunks."""
        if self._asked is None:
            with self._gate:
                self._asked = (self._run.provisional(),)
        return self._asked[0]

    def finish(self, on_text: Callable[[str], None] | None = None) -> Assessment:
        """End the speech and return the final assessment; a second call returns the same one.

        Args:
            on_text: Called with every piece of the rationale as it is written, by graders that
                explain themselves. They write before the recording's validity is known: discard
                what it got where the result turns out not to be scorable.

        Raises:
            AudioError: No audio was fed at all.
            UsageError: The stream was closed before.
        """
        if self._result is not None:
            return self._result
        self._check_open()
        start = time.perf_counter()
        rest = self._intake.close()
        if on_text is not None and isinstance(self._run, Explains):
            self._run.on_text = on_text
        with self._gate:
            self._run.push(rest)
            grade = self._run.finish()
        validity = self._intake.validity()
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
            words=_placed(heard.words, self._intake.kept),
            transcript=heard.transcript,
            features=heard.features,
            rationale=judged.rationale,
            validity=validity,
            timing=self._timing(self._tail_ms + since_ms(start)),
            receipt={**self._receipt, "audio_sha256": self._intake.converter.sha256()},
            channels=self._intake.converter.channels,
        )
        return self._result

    def _take(self, chunk: AudioChunk) -> None:
        self._check_open()
        if self._result is not None:
            raise UsageError("the stream is finished", hint="start another with engine.stream()")
        self._asked = None
        samples = self._intake.push(chunk)
        with self._gate:
            self._run.push(samples)

    def _check_open(self) -> None:
        if self._closed and self._result is None:
            raise UsageError("the stream is closed", hint="start another with engine.stream()")

    def _timing(self, tail_ms: float) -> Timing:
        audio_s = self._intake.converter.samples_out / SAMPLE_RATE_HZ
        return Timing.of(self._clock.totals_ms(), audio_s, tail_ms)


def _placed(words: tuple[Word, ...], kept: Sequence[Kept]) -> tuple[Word, ...]:
    """Return words and phones with the times of the recording, not of what the grader heard."""
    if not kept:
        return words

    def placed(item: _Timed) -> _Timed:
        start_s, end_s = item.start_s, item.end_s
        if start_s is None or end_s is None:
            return item
        return replace(
            item,
            start_s=source_time_s(kept, start_s),
            # The end of a stretch, not the beginning of the next one.
            end_s=max(source_time_s(kept, end_s - 1 / SAMPLE_RATE_HZ) + 1 / SAMPLE_RATE_HZ, 0.0),
        )

    return tuple(
        replace(placed(word), phones=tuple(placed(phone) for phone in word.phones))
        for word in words
    )


_Timed = TypeVar("_Timed", Word, Phone)


def since_ms(start: float) -> float:
    """Return the time since a reading of `time.perf_counter`, ms."""
    return 1e3 * (time.perf_counter() - start)
