"""A text that was read more than once, given once: which reading is judged, and where the other is.

Readings are told by their likelihood: laid over the frames twice, a text that was read twice gains
much on its being laid once, and sounds like itself in both halves. A single reading loses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final, NamedTuple, TypeVar

from asa_engine.assessment import Grade, Phone, Word
from asa_engine.features.phone_alignment import Alignment, align
from asa_engine.graders.pronunciation.describe import Sounds
from asa_engine.graders.pronunciation.measures import FRAMES_PER_S, Array, Indices
from asa_engine.graders.pronunciation.plan import lay
from asa_engine.text import SpokenWord

__all__ = ["AGAIN", "Reading", "only_reading", "with_others"]

AGAIN: Final = "text_read_again"
LEAST_GAIN: Final = 4.0
"""Nats a phone. Sixty training recordings read once lost 1.3 or more, joined to themselves 59 of
them gained 6.8 or more."""
LEAST_FIT: Final = -1.4
"""Of the worst reading. 59 of the sixty were above both, none that another recording followed."""
MOST_READINGS: Final = 4
Timed = TypeVar("Timed", Word, Phone)


class Reading(NamedTuple):
    """The reading that is judged.

    Attributes:
        begin: Its first frame.
        end: The frame after its last.
        others: Words of the other readings, with their times in the recording.
    """

    begin: int
    end: int
    others: tuple[Word, ...] = ()


def only_reading(heard: Array, words: Sequence[SpokenWord]) -> Reading:
    """Return where a text's best reading lies: the whole recording, unless it was read again.

    Args:
        heard: Log-probabilities of silence and the phones, [T, C].
        words: The text's.
    """
    whole = Reading(0, len(heard))
    once = lay(heard, words)
    if once is None:
        return whole
    sounds, best = once
    edges = [0, len(heard)]
    for times in range(2, MOST_READINGS + 1):
        more = _laid(heard, sounds, times)
        if more is None or more.score - best.score < LEAST_GAIN * len(sounds.classes):
            break
        best, edges = more, _edges(more, times, len(heard))
    parts = [_laid(heard[a:b], sounds, 1) for a, b in pairwise(edges)]
    readings = [part for part in parts if part is not None and part.fit >= LEAST_FIT]
    if len(parts) == 1 or len(readings) < len(parts):
        return whole
    kept = max(range(len(readings)), key=lambda index: readings[index].fit)
    others = [
        word
        for index, (reading, begin) in enumerate(zip(readings, edges, strict=False))
        if index != kept
        for word in _words(begin + reading.spans, sounds, words)
    ]
    return Reading(edges[kept], edges[kept + 1], tuple(others))


def _laid(heard: Array, sounds: Sounds, times: int) -> Alignment | None:
    """Lay the sounds of a text over frames so many times, one after the other."""
    count = int(sounds.owners[-1]) + 1
    owners = [int(owner) + time * count for time in range(times) for owner in sounds.owners]
    return align(heard, sounds.classes.tolist() * times, owners)


def _edges(laid: Alignment, times: int, length: int) -> list[int]:
    """Return the frames between readings, with the first and the one after the last."""
    firsts = [time * (len(laid.spans) // times) for time in range(1, times)]
    cuts = [(int(laid.spans[at - 1, 1]) + int(laid.spans[at, 0])) // 2 for at in firsts]
    return [0, *cuts, length]


def _words(spans: Indices, sounds: Sounds, words: Sequence[SpokenWord]) -> Iterator[Word]:
    for index, word in enumerate(words):
        own = spans[sounds.owners == index]
        start, end = (round(float(at) / FRAMES_PER_S, 3) for at in (own[0, 0], own[-1, 1]))
        yield Word(word.text, start_s=start, end_s=end, error="repetition")


def with_others(grade: Grade, reading: Reading) -> Grade:
    """Return a reading's grade with its times in the recording, and the other readings' words."""
    if not reading.others:
        return grade
    moved = [_later(word, reading.begin / FRAMES_PER_S) for word in grade.words]
    spoken = sorted(reading.others, key=lambda word: word.start_s or 0.0)
    before = [word for word in spoken if (word.end_s or 0.0) * FRAMES_PER_S <= reading.begin]
    words = (*before, *moved, *spoken[len(before) :])
    return replace(grade, words=words, reasons=(*grade.reasons, AGAIN))


def _later(item: Timed, seconds: float) -> Timed:
    """Return a word or a phone so many seconds later, a word with its phones."""
    if item.start_s is None or item.end_s is None:
        return item
    start, end = round(item.start_s + seconds, 3), round(item.end_s + seconds, 3)
    if isinstance(item, Word):
        phones = tuple(_later(phone, seconds) for phone in item.phones)
        return replace(item, start_s=start, end_s=end, phones=phones)
    return replace(item, start_s=start, end_s=end)
