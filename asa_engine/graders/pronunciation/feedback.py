"""From what was judged to what a learner reads: scores, words, sounds, pauses and pace."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from asa_engine.assessment import Grade, Phone, Score, Word
from asa_engine.features.phone_alignment import align
from asa_engine.graders.pronunciation.config import NEVER, PronunciationConfig
from asa_engine.graders.pronunciation.describe import Described, describe_gaps, describe_words
from asa_engine.graders.pronunciation.judge import Judged, Tensors, log_odds
from asa_engine.graders.pronunciation.measures import FRAMES_PER_S, PAUSE_FRAMES, Array, Indices
from asa_engine.graders.pronunciation.plan import Plan
from asa_engine.graders.pronunciation.reading import Heard, TextReading
from asa_engine.text.phones import PHONES, ipa

__all__ = ["MISMATCH", "WORD_MAX", "Feedback"]

MISMATCH: Final = "text_mismatch"
WORD_MAX: Final = 10.0
PHONE_MAX: Final = 2.0
UNKNOWN: Final = "?"
"""The text of an inserted word that the decoder has no name for."""
REPEATED_FIT: Final = -2.0
_LEAST_INSERTED_FRAMES: Final = 5


class Feedback:
    """Words for people, from numbers.

    Args:
        config: The grader's configuration.
    """

    def __init__(self, config: PronunciationConfig) -> None:
        self._config = config

    def free(self, described: Described, judged: Judged) -> Grade:
        """Return the grade of speech of which no text is known."""
        seconds = _speech_s(described.segments.spans)
        scores = self._scores(judged, seconds, "free_")
        return Grade(scores, features=pace(described.segments.spans, None))

    def text(
        self, tensors: Tensors, heard: Heard, plan: Plan, reading: TextReading, judged: Judged
    ) -> Grade:
        """Return the grade of a text's reading."""
        limits = self._config.thresholds
        described = reading.described
        assert described.words is not None
        spans = described.segments.word_spans
        features = pace(described.segments.spans, spans)
        mismatch = float(log_odds(tensors, "mismatch", described.reading[None])[0])
        reasons = (MISMATCH,) if mismatch > limits.mismatch else ()
        asked = describe_words(heard.phones, described, reading.forced, reading.leaps)
        omitted = log_odds(tensors, "omission", asked)
        gaps = describe_gaps(heard.phones, heard.levels, described, reading.forced)
        inserted = log_odds(tensors, "insertion", gaps)
        words = list(self._words(plan, reading, heard, judged, omitted))
        left_out = sum(word.error == "omission" for word in words)
        seconds = _speech_s(described.segments.spans)
        scores = self._scores(judged, seconds, "")
        if limits.omission < NEVER:
            scores["completeness"] = Score(WORD_MAX * (1 - left_out / len(words)), 0.0, WORD_MAX)
        return Grade(
            scores,
            words=tuple(self._with_insertions(words, inserted, heard, reading)),
            features=features,
            reasons=reasons,
        )

    def _scores(self, judged: Judged, seconds: float, prefix: str) -> dict[str, Score]:
        config = self._config
        aspects = config.free_aspects() if prefix else config.aspects
        return {
            aspect.name: dataclasses.replace(
                aspect.score(float(value)),
                sd=config.sd_of(f"{prefix}{aspect.name}", aspect, float(value), seconds),
            )
            for aspect, value in zip(aspects, judged.scores, strict=True)
        }

    def _words(
        self, plan: Plan, reading: TextReading, heard: Heard, judged: Judged, omitted: Array
    ) -> Iterator[Word]:
        limits = self._config.thresholds
        described, sounds = reading.described, reading.sounds
        starts = [*described.segments.starts.tolist(), len(sounds.owners)]
        for index, word in enumerate(plan.words):
            first, end = starts[index], starts[index + 1]
            value = min(max(float(judged.words[index]), 0.0), WORD_MAX)
            gone = _probability(omitted[index] - limits.omission)
            if omitted[index] > limits.omission:
                yield Word(
                    word.text,
                    score=Score(0.0, 0.0, WORD_MAX),
                    error="omission",
                    confidence=round(gone, 3),
                )
                continue
            sd = _at(self._config.word_sd, value)
            wrong = _below(value, limits.mispronounced, sd)
            error = "mispronunciation" if value < limits.mispronounced else "none"
            sure = (wrong if error != "none" else 1 - wrong) * (1 - gone)
            spans = described.segments.spans[first:end]
            yield Word(
                word.text,
                start_s=_seconds(spans[0, 0]),
                end_s=_seconds(spans[-1, 1]),
                score=Score(value, 0.0, WORD_MAX, sd=sd),
                error=error,
                confidence=round(sure, 3),
                phones=tuple(
                    self._phone(
                        sounds.symbols[at],
                        described.posteriors[at],
                        float(judged.phones[at]),
                        described.segments.spans[at],
                    )
                    for at in range(first, end)
                ),
            )

    def _phone(self, symbol: str, posterior: Array, value: float, span: Indices) -> Phone:
        value = min(max(value, 0.0), PHONE_MAX)
        bare = symbol.rstrip("012")
        heard = PHONES[int(posterior[1:].argmax())]
        poor = value < self._config.thresholds.poor_phone
        return Phone(
            symbol,
            score=Score(value, 0.0, PHONE_MAX),
            ipa=ipa((symbol,)),
            start_s=_seconds(span[0]),
            end_s=_seconds(span[1]),
            heard=heard if poor and heard != bare else None,
        )

    def _with_insertions(
        self,
        words: Sequence[Word],
        odds: Array,
        heard: Heard,
        reading: TextReading,
    ) -> Iterator[Word]:
        """Yield the words, and between them what was said and is not in the text."""
        limit = self._config.thresholds.insertion
        spans = reading.described.segments.word_spans
        spoken = 1 - np.exp(heard.phones[:, 0])
        edges = [0, *spans[:, 1].tolist()], [*spans[:, 0].tolist(), len(spoken)]
        for gap, (start, end) in enumerate(zip(*edges, strict=True)):
            if odds[gap] > limit:
                inside = np.flatnonzero(spoken[start:end] > 0.5)
                if len(inside) >= _LEAST_INSERTED_FRAMES:
                    start, end = start + int(inside[0]), start + int(inside[-1]) + 1
                text, error = UNKNOWN, "insertion"
                if gap and self._is_repeated(heard, reading, gap - 1, start, end):
                    text, error = words[gap - 1].text, "repetition"
                yield Word(
                    text,
                    start_s=_seconds(start),
                    end_s=_seconds(max(end, start)),
                    error=error,
                    confidence=round(_probability(odds[gap] - limit), 3),
                )
            if gap < len(words):
                yield words[gap]

    def _is_repeated(
        self, heard: Heard, reading: TextReading, word: int, start: int, end: int
    ) -> bool:
        """Whether what lies in a gap sounds like the word before it."""
        own = reading.sounds.owners == word
        classes = reading.sounds.classes[own].tolist()
        found = align(heard.phones[start:end], classes, [0] * len(classes))
        return found is not None and found.fit > REPEATED_FIT


def pace(spans: Indices, words: Indices | None) -> Mapping[str, float]:
    """Return pace and pauses in units that a teacher can read."""
    seconds = _speech_s(spans)
    voiced = float((spans[:, 1] - spans[:, 0]).sum()) / FRAMES_PER_S
    gaps = spans[1:, 0] - spans[:-1, 1]
    pauses = gaps[gaps >= PAUSE_FRAMES] / FRAMES_PER_S
    found = {
        "speech_s": round(seconds, 2),
        "sounds_per_s": round(len(spans) / voiced, 2),
        "pauses": float(len(pauses)),
        "pauses_s": round(float(pauses.sum()), 2),
        "longest_pause_s": round(float(pauses.max()) if len(pauses) else 0.0, 2),
    }
    if words is not None:
        found["words_per_minute"] = round(60 * len(words) / seconds, 1)
    return found


def _speech_s(spans: Indices) -> float:
    return float(spans[-1, 1] - spans[0, 0]) / FRAMES_PER_S


def _seconds(frame: float) -> float:
    return round(float(frame) / FRAMES_PER_S, 3)


def _probability(log_odds: float) -> float:
    return 1 / (1 + math.exp(-min(max(float(log_odds), -30.0), 30.0)))


def _below(value: float, limit: float, sd: float | None) -> float:
    """Return how likely the experts' score lies below a limit."""
    return 0.5 * (1 + math.erf((limit - value) / (math.sqrt(2) * (sd or 1.0))))


def _at(table: Sequence[tuple[float, float]], value: float) -> float | None:
    """Return a table's entry at a value: linear between entries, flat outside."""
    if not table:
        return None
    return round(float(np.interp(value, [x for x, _ in table], [y for _, y in table])), 3)
