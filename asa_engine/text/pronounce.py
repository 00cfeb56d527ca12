"""How a word is pronounced: the dictionary, what English does to its words, then the letters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, Self

from asa_engine.text.accents import variants
from asa_engine.text.dictionary import Pronunciation, dictionary
from asa_engine.text.letters import letter_model

__all__ = ["Pronounced", "pronounce"]

_LEAST_PROBABILITY = 0.05
"""Of a further guess that is kept."""
_SIBILANTS: Final = frozenset("S Z SH ZH CH JH".split())
_VOICELESS: Final = frozenset("P T K F TH".split())
_BRITISH: Final = (
    (re.compile(r"our(?=$|ed$|ing$|s$|ite|able|ful|less|ly$|er)"), "or"),
    (re.compile(r"is(?=e$|es$|ed$|ing$|er$|ers$|ation|able$)"), "iz"),
    (re.compile(r"ys(?=e$|es$|ed$|ing$|er$)"), "yz"),
    (re.compile(r"re(?=s?$)"), "er"),
    (re.compile(r"ll(?=ed$|ing$|er$|ers$|or$|ous$)"), "l"),
    (re.compile(r"l(?=ment|ful$|fil$)"), "ll"),
    (re.compile(r"ogue(?=s?$)"), "og"),
    (re.compile(r"ence(?=s?$)"), "ense"),
    (re.compile(r"ae|oe"), "e"),
    (re.compile(r"mme(?=s?$)"), "m"),
)
"""British spellings and the American ones that the dictionary may have instead."""


@dataclass(frozen=True, slots=True)
class Pronounced:
    """The pronunciations of a word; attributes as those of `SpokenWord`."""

    pronunciations: tuple[Pronunciation, ...]
    source: Literal["dictionary", "letters"]
    confidence: float
    variants: tuple[Pronunciation, ...]

    @classmethod
    def of(cls, known: tuple[Pronunciation, ...]) -> Self:
        """Return pronunciations that are known."""
        return cls(known, "dictionary", 1.0, variants(known))


@lru_cache(maxsize=4096)
def pronounce(word: str) -> Pronounced:
    """Return how a word is pronounced.

    Args:
        word: Small letters and apostrophes, at least one letter.
    """
    if found := _known(word):
        return Pronounced.of(found)
    stem = word.strip("'").removesuffix("'s")
    if stem != word and (found := _known(stem)):
        return Pronounced.of(tuple(map(_add_s, found)))
    guesses = letter_model().guess(word.strip("'"))
    kept = [g for g in guesses if g.probability >= _LEAST_PROBABILITY] or guesses[:1]
    likely = tuple(guess.phones for guess in kept)
    return Pronounced(likely, "letters", kept[0].probability, variants(likely))


def _known(word: str) -> tuple[Pronunciation, ...]:
    words = dictionary()
    if found := words.get(word) or words.get(word.strip("'")):
        return found
    return next((found for other in _american(word) if (found := words.get(other))), ())


def _american(word: str) -> Iterator[str]:
    """Yield spellings of a British word, one change each."""
    for pattern, american in _BRITISH:
        if pattern.search(word):
            yield pattern.sub(american, word)


def _add_s(said: Pronunciation) -> Pronunciation:
    """Return a word with the sound of an added s: horses, cats, dogs."""
    if said[-1] in _SIBILANTS:
        return (*said, "AH0", "Z")
    return (*said, "S" if said[-1] in _VOICELESS else "Z")
