"""What a text is when it is read aloud."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from asa_engine.text.dictionary import Pronunciation

__all__ = ["Reading", "SpokenText", "SpokenWord"]


@dataclass(frozen=True, slots=True)
class Reading:
    """Something written that is read in words of its own.

    Attributes:
        written: As it stands in the text, e.g. "$5".
        spoken: The words that are read for it, e.g. "five dollars".
        kind: What it was taken for, e.g. "currency".
        span: Where it stands in the original.
    """

    written: str
    spoken: str
    kind: str
    span: tuple[int, int]


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word that is read aloud.

    Attributes:
        text: As written; the words of a reading all have what was written for it.
        spoken: Small letters and apostrophes.
        pronunciations: ARPAbet with stress digits; the likeliest first, at least one.
        source: "dictionary", or "letters" where no dictionary has it.
        confidence: Probability that the first pronunciation is right; 1 from the dictionary.
        span: Where `text` stands in the original.
        variants: Further forms that are as good: British ones without R, syllabic L and N.
    """

    text: str
    spoken: str
    pronunciations: tuple[Pronunciation, ...]
    source: Literal["dictionary", "letters"]
    confidence: float
    span: tuple[int, int]
    variants: tuple[Pronunciation, ...] = ()


@dataclass(frozen=True, slots=True)
class SpokenText:
    """A text and how it is read aloud.

    Attributes:
        words: In order, at least one.
        original: The text as it was given.
        readings: How numbers, abbreviations, symbols and the like were read, in order.
    """

    words: tuple[SpokenWord, ...]
    original: str
    readings: tuple[Reading, ...] = ()
