"""What is written in a text, word by word: plain words, and what is read in words of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

from asa_engine.text.abbreviations import (
    BEFORE_NUMBERS,
    DOTTED,
    MONTHS,
    SPELLED,
    TITLES,
    WEEKDAYS,
)
from asa_engine.text.dictionary import dictionary
from asa_engine.text.rules import RULES

__all__ = ["Token", "UnreadableAt", "tokens"]


@dataclass(frozen=True, slots=True)
class Token:
    """Something that is read.

    Attributes:
        start: Where it begins in the text.
        end: Where it ends.
        words: The words that are read, in small letters.
        kind: What it was taken for; "" for a plain word.
    """

    start: int
    end: int
    words: tuple[str, ...]
    kind: str = ""


class UnreadableAt(Exception):
    """The character at this place of the text cannot be read aloud."""

    def __init__(self, place: int) -> None:
        super().__init__(place)
        self.place = place


_WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)*")
_LEADING = re.compile(r"'[A-Za-z]+")
_OPENS: Final = frozenset("@/0123456789:+-_")
"""Characters behind a word that may make it more than a plain word."""
_NAMED: Final = frozenset((*MONTHS, *MONTHS.values(), *"v x l c".split()))
"""Words with a capital that a rule may be about: months, Roman numerals."""
_DOTTED: Final = frozenset((*DOTTED, *BEFORE_NUMBERS, *WEEKDAYS, *MONTHS, "st"))
_SAYABLE: Final = re.compile(r"(?:[^AEIOU]{0,2}[AEIOU]{1,2}){2,}[^AEIOU]?")
_SILENT: Final = frozenset(" .,;:!?\"'()[]{}-\u2013_*/")


def tokens(text: str) -> Iterator[Token]:
    """Yield what is read of a text in plain characters, in order.

    Raises:
        UnreadableAt: A character cannot be read where it stands.
    """
    shouted = not any(map(str.islower, text))
    place = 0
    while place < len(text):
        character = text[place]
        if character == " ":
            place += 1
            continue
        if (token := _token(text, place, shouted)) is not None:
            yield token
            place = token.end
        elif character in _SILENT:
            place += 1
        else:
            raise UnreadableAt(place)


def _token(text: str, place: int, shouted: bool) -> Token | None:
    word = _WORD.match(text, place) or _LEADING.match(text, place)
    if word is not None:
        written = word[0]
        if _is_plain(written, text[word.end() : word.end() + 2]):
            return Token(place, word.end(), _plain_word(written, shouted), "")
    for kind, pattern, rule in RULES:
        match = _compiled(pattern).match(text, place)
        if match is not None and (said := rule(match)):
            return Token(place, match.end(), _split(said), kind)
    if word is None:
        return None
    words = _plain_word(word[0], shouted)
    return Token(place, word.end(), words, "letters" if len(words) > 1 else "")


def _split(said: str) -> tuple[str, ...]:
    return tuple(said.lower().replace("-", " ").split())


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """Return a rule's pattern, compiled when a text first needs one: that takes longest."""
    return re.compile(pattern, re.ASCII)


def _is_plain(written: str, after: str) -> bool:
    """Whether no rule can apply to letters, by themselves and the two characters behind them."""
    lowered = written.lower()
    if after[:1] == ".":
        ends = after in (".", ". ", '."', ".)") and lowered not in _DOTTED
    else:
        ends = after[:1] not in _OPENS
    if not ends or lowered in TITLES:
        return False
    return written.islower() or (written.istitle() and lowered not in _NAMED and lowered != "i")


def _plain_word(written: str, shouted: bool) -> tuple[str, ...]:
    """Return a word, or the letters of an initialism."""
    lowered = written.lower()
    if lowered.startswith("'") and lowered not in dictionary():
        written, lowered = written[1:], lowered[1:]  # a quotation mark
    letters = lowered.replace("'", "")
    if len(letters) == 1 or letters == "":
        return (lowered,)
    stem = written.removesuffix("'s")
    if stem[-1:] == "s" and stem[:-1].isupper() and len(stem) > 2:
        stem = stem[:-1]
    if stem.isupper() and stem.isalpha() and not shouted and _is_spelled(stem):
        ending = "'s" if stem != written else ""
        return (*stem.lower()[:-1], stem[-1].lower() + ending)
    if not re.search("[aeiouy]", letters) and len(letters) <= 6 and not _known(lowered):
        return tuple(letters)
    return (lowered,)


def _is_spelled(initials: str) -> bool:
    """Whether capitals are read one by one: BBC, but not NATO."""
    if initials in SPELLED or len(initials) > 5 or initials.lower() in dictionary():
        return initials in SPELLED
    return len(initials) < 4 or not _SAYABLE.fullmatch(initials)


def _known(word: str) -> bool:
    return word in dictionary() or word.removesuffix("'s") in dictionary()
