"""Characters of a text as plain ones, each with its place in the original."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Final

from asa_engine.errors import UsageError

__all__ = ["KEPT", "Plain", "plain", "unreadable"]

_SAME: Final = {
    **dict.fromkeys("\u2018\u2019\u201b\u02bc\u02b9\u00b4\u2032\uff07\u02bb", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033`", '"'),
    **dict.fromkeys("\u2010\u2011\u2043\ufe63\uff0d", "-"),
    **dict.fromkeys("\u2012\u2013\u2014\u2015\u2e3a\u2e3b", "\u2013"),
    "\u2212": "-",
    "\u2044": "/",
    "\u2215": "/",
    "\u2026": "...",
    "\u2116": "No. ",
    "\u2103": "\u00b0C",
    "\u2109": "\u00b0F",
    "\u00ba": "\u00b0",
    "\u00b5": "\u03bc",
}
"""Characters that are read as others; what Unicode itself says of them comes after these."""
_LETTERS: Final = {
    "ß": "ss", "ẞ": "SS", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O",
    "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ð": "th", "Ð": "Th", "þ": "th", "Þ": "Th",
    "ı": "i", "ħ": "h", "Ħ": "H", "ŋ": "ng", "Ŋ": "NG", "ə": "e",
}  # fmt: skip
"""Latin letters that Unicode does not take apart, as English writes them."""
_SILENT: Final = frozenset("\u2122\u00ae\u00a9\u2117\u2120")
KEPT: Final = frozenset(
    "$\u00a3\u20ac\u00a5\u20b9\u00a2\u20a9\u20bd\u00b0+=<>\u00b1\u00d7\u00f7~\u00b2\u00b3\u03bc\u00a7\u2030"
)
"""Symbols that stand for words, or for none; `asa_engine.text.readings` says which, and when."""


@dataclass(frozen=True, slots=True)
class Plain:
    """A text in plain characters.

    Attributes:
        text: ASCII letters, digits and punctuation, and the symbols that can be read.
        starts: Where in the original each character begins, [len(text) + 1], its end included.
        ends: Where in the original each character ends, [len(text)].
    """

    text: str
    starts: tuple[int, ...]
    ends: tuple[int, ...]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return the span of the original that a span of `text` stands for."""
        return self.starts[start], self.ends[end - 1]


def plain(text: str) -> Plain:
    """Return a text in plain characters.

    Accents are dropped, ligatures and full-width forms taken apart, quotes, hyphens and dashes made
    one of a kind, invisible characters left out.

    Raises:
        UsageError: A character cannot be read aloud in English; the message names it.
    """
    written: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for place, character in enumerate(text):
        for found in _plain_forms(text, place, character):
            written.append(found)
            starts.append(place)
            ends.append(place + 1)
    return Plain("".join(written), (*starts, len(text)), tuple(ends))


def unreadable(character: str, why: str = "") -> UsageError:
    """Return the error that names a character which cannot be read aloud."""
    point = f"U+{ord(character):04X}"
    name = unicodedata.name(character, "")
    shown = repr(character) if character.isprintable() else ""
    said = " ".join(part for part in (shown, point, name) if part)
    return UsageError(
        f"the text holds {said}, {why or 'which cannot be read aloud'}",
        hint="leave it out, or write the words that are read for it",
    )


def _plain_forms(text: str, place: int, character: str) -> str:
    """Return what stands for one character; more than one, or none, for some."""
    if (found := _SAME.get(character)) is not None:
        return found
    if character.isascii():
        if character.isprintable():
            return character
        if character in "\t\n\v\f\r":
            return " "
        raise unreadable(character, "a control character")
    if character in KEPT:
        return character
    if character in _SILENT:
        return ""
    return _taken_apart(text, place, character)


def _taken_apart(text: str, place: int, character: str) -> str:
    kind = unicodedata.category(character)
    if kind == "Cf" or character in "\ufe0e\ufe0f":
        return ""
    if kind.startswith("Z") or character == "\x85":
        return " "
    if kind == "Mn" and (place == 0 or text[place - 1].isalpha() or _is_mark(text[place - 1])):
        return ""  # on a letter, which was judged by itself
    if kind.startswith("P"):
        return " "
    if kind.startswith(("L", "N")) or kind == "Sk":
        found = _latin(character)
        if found is not None:
            # A fraction stands apart from the number before it: 2\u00bd is two and a half.
            before = text[place - 1] if place else ""
            return " " + found if "/" in found and before.isdigit() else found
        raise unreadable(character, _script(character))
    if kind in ("Cc", "Cs", "Co", "Cn"):
        why = {"Cc": "a control character", "Cs": "half a character", "Co": "a private character"}
        raise unreadable(character, why.get(kind, "which is no character"))
    raise unreadable(character)


def _latin(character: str) -> str | None:
    """Return a character in ASCII, if it is one of the Latin script or a digit."""
    found = []
    for part in unicodedata.normalize("NFKD", character):
        if unicodedata.category(part) == "Mn":
            continue
        if (known := _LETTERS.get(part) or _SAME.get(part)) is not None:
            found.append(known)
        elif part.isascii() and part.isprintable():
            found.append(part)
        else:
            return None
    return "".join(found) or None


def _is_mark(character: str) -> bool:
    return unicodedata.category(character) == "Mn"


def _script(character: str) -> str:
    """Return what to say of a letter or digit of another script."""
    name = unicodedata.name(character, "").split(" ")
    script = "Chinese" if name[0] == "CJK" else name[0].partition("-")[0].capitalize()
    if not script:
        return "which cannot be read aloud"
    return f"of the {script} script, and only English is read"
