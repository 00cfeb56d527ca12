"""Results counted up: by learner, by session, by word and by sound."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from asa_engine.assessment import Assessment, Phone, Score, Word
from asa_engine.batch.recordings import Recording
from asa_engine.batch.rows import Row
from asa_engine.formats.shares import MAIN_SCORES, share, word_score
from asa_engine.text.phones import phone_ipa

__all__ = ["Attempt", "Estimate", "Group", "Learner", "Tally", "gather"]

MISSED_BELOW: Final = 0.5
"""Share of its scale below which a word or sound counts as missed, where no error is named; below
it `assess` prints it red."""
_MISSED: Final = ("mispronunciation", "omission")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean of scores, and how far an expert's may be from it.

    Attributes:
        value: In points of the scale.
        sd: Root mean square of the scores' own expected errors; `None` where there is none. It
            does not shrink with their number: a grader's errors on one voice are alike.
        low: Lowest score of the scale.
        high: Highest score of the scale.
        n: Recordings in it.
    """

    value: float
    sd: float | None
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, scores: Sequence[Score]) -> Estimate:
        """Return the mean of at least one score."""
        sds = [score.sd for score in scores if score.sd is not None]
        sd = math.sqrt(math.fsum(sd * sd for sd in sds) / len(sds)) if sds else None
        value = math.fsum(score.value for score in scores) / len(scores)
        return cls(value, sd, scores[0].scale_min, scores[0].scale_max, len(scores))


@dataclass(frozen=True, slots=True)
class Attempt:
    """One recording that was scored, in a session; "" if that is unknown."""

    session: str
    scores: Mapping[str, Score]


@dataclass(slots=True)
class Tally:
    """How often a word, or a sound, was to be said, and how often it was missed.

    Attributes:
        said: Times it was to be said.
        missed: Times it was not said well.
        kinds: Error, or the sound that was heard -> times.
        learners: Learners who missed it.
        words: Of a sound: words in which it was missed -> times.
    """

    said: int = 0
    missed: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    learners: set[str] = field(default_factory=set)
    words: Counter[str] = field(default_factory=Counter)

    @property
    def share(self) -> float:
        """Share of the times that it was missed."""
        return self.missed / self.said


@dataclass(slots=True)
class Learner:
    """One learner, or a whole class.

    Attributes:
        name: "" where nobody is named.
        attempts: Recordings that were scored, in their order.
        words: Word of the text -> tally.
        sounds: IPA -> tally.
        inserted: Words that were no part of the text -> times.
        repeated: Words that were said again -> times.
        refused: Recordings without a score, and why.
        doubted: Recordings with a score and a reason for caution.
    """

    name: str
    attempts: list[Attempt] = field(default_factory=list)
    words: dict[str, Tally] = field(default_factory=dict)
    sounds: dict[str, Tally] = field(default_factory=dict)
    inserted: Counter[str] = field(default_factory=Counter)
    repeated: Counter[str] = field(default_factory=Counter)
    refused: list[tuple[Recording, str]] = field(default_factory=list)
    doubted: list[tuple[Recording, str]] = field(default_factory=list)

    def estimate(self, score: str, session: str | None = None) -> Estimate | None:
        """Return the mean of a score, over one session or all; `None` without any."""
        found = [
            attempt.scores[score]
            for attempt in self.attempts
            if score in attempt.scores and session in (None, attempt.session)
        ]
        return Estimate.of(found) if found else None


@dataclass(slots=True)
class Group:
    """A class.

    Attributes:
        whole: All of it.
        learners: By name; one of "" where nobody is named.
        scores: Names of scores; the main one first.
        sessions: In order of time, or of their names where there are no dates.
        graders: Name of the grader, of its bundle, and its version.
        recordings: How many there are.
    """

    whole: Learner = field(default_factory=lambda: Learner(""))
    learners: dict[str, Learner] = field(default_factory=dict)
    scores: list[str] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)
    graders: list[str] = field(default_factory=list)
    recordings: int = 0

    @property
    def named(self) -> list[Learner]:
        """Learners with a name."""
        return [learner for learner in self.learners.values() if learner.name]


def gather(rows: Iterable[Row]) -> Group:
    """Count up results; rows are taken one at a time and not kept."""
    group = Group()
    dates: dict[str, str] = {}
    for row in rows:
        group.recordings += 1
        recording = row.recording
        learner = group.learners.setdefault(recording.learner, Learner(recording.learner))
        for each in (group.whole, learner):
            _add(each, row, recording.learner)
        if session := _session(recording):
            known = (recording.date, dates.get(session, ""))
            dates[session] = min(filter(None, known), default="")
        if (result := row.result) is not None:
            for name in result.scores:
                if name not in group.scores:
                    group.scores.append(name)
            if (grader := _grader(result)) not in group.graders:
                group.graders.append(grader)
    group.scores.sort(key=lambda name: name not in MAIN_SCORES)
    group.learners = dict(sorted(group.learners.items(), key=lambda item: _natural(item[0])))
    if all(dates.values()):
        group.sessions = sorted(dates, key=lambda name: (dates[name], _natural(name)))
    else:
        group.sessions = sorted(dates, key=_natural)
    return group


def _add(learner: Learner, row: Row, speaker: str) -> None:
    recording, result = row.recording, row.result
    if result is None:
        learner.refused.append((recording, row.error.message if row.error else ""))
        return
    reasons = ", ".join(result.validity.reasons).replace("_", " ")
    if not result.validity.scorable or not result.scores:
        learner.refused.append((recording, reasons or "no score"))
        return
    if reasons:
        learner.doubted.append((recording, reasons))
    learner.attempts.append(Attempt(_session(recording), result.scores))
    for word in result.words:
        _add_word(learner, word, speaker)


def _add_word(learner: Learner, word: Word, speaker: str) -> None:
    text = (word.spoken or word.text).lower()
    if word.error in ("insertion", "repetition"):
        (learner.inserted if word.error == "insertion" else learner.repeated)[text] += 1
        return
    low = _is_low(word_score(word))
    if word.error is not None or low is not None:
        tally = learner.words.setdefault(text, Tally())
        tally.said += 1
        if word.error in _MISSED or (word.error is None and low):
            tally.missed += 1
            tally.kinds[word.error or "low score"] += 1
            tally.learners.add(speaker)
    for phone in word.phones:
        _add_phone(learner, phone, text, speaker)


def _add_phone(learner: Learner, phone: Phone, word: str, speaker: str) -> None:
    low = _is_low(phone.score)
    if low is None:
        return
    symbol = phone.ipa or phone_ipa(phone.phone)
    tally = learner.sounds.setdefault(symbol, Tally())
    tally.said += 1
    if low:
        tally.missed += 1
        tally.learners.add(speaker)
        tally.words[word] += 1
        if phone.heard is not None and (heard := phone_ipa(phone.heard)) != symbol:
            tally.kinds[heard] += 1


def _is_low(score: Score | None) -> bool | None:
    value = share(score)
    return None if value is None else value < MISSED_BELOW


def _grader(result: Assessment) -> str:
    bundle = result.receipt.get("bundle")
    named = f", bundle {bundle['name']} {bundle['version']}" if isinstance(bundle, dict) else ""
    return f"{result.grader}{named}"


def _session(recording: Recording) -> str:
    """Return the session, or the day, that a recording belongs to."""
    return recording.session or recording.date[:10]


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sort numbers in names by their value."""
    parts = re.split(r"([0-9]{1,18})", text.casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]
