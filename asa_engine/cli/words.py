"""Words and sounds for people: a table, and a line that colours words as they are passed.

Colour is never the only sign: poor sounds stand in brackets, and errors are named.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TextIO

from asa_engine.assessment import Phone, Word
from asa_engine.formats.shares import share, word_score

__all__ = ["Paint", "live_line", "pace_line", "passed_line", "word_lines"]

GOOD: Final = 0.75
"""Share of the scale from which a score is green."""
POOR: Final = 0.5
"""Share of the scale below which a score is red, and a sound in brackets."""
_GREEN, _YELLOW, _RED, _DIM = "32", "33", "31", "2"
_MARKS: Final = {"omission": "-", "insertion": "+", "repetition": "+", "mispronunciation": "!"}
"""In front of words in running text."""


@dataclass(frozen=True, slots=True)
class Paint:
    """What a stream can show.

    Attributes:
        colour: Whether it shows colours.
        ipa: Whether it can write IPA.
        width: Columns of a line.
    """

    colour: bool = False
    ipa: bool = True
    width: int = 80

    @classmethod
    def of(cls, stream: TextIO) -> Paint:
        """Return what a stream shows: colours on a terminal, unless NO_COLOR or TERM says no."""
        colour = (
            stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        )
        try:
            "ʒʃŋθˈ".encode(stream.encoding or "ascii")
        except (UnicodeEncodeError, LookupError):
            return cls(colour, False, shutil.get_terminal_size().columns)
        return cls(colour, True, shutil.get_terminal_size().columns)

    def paint(self, text: str, code: str) -> str:
        """Return a text in a colour, where there are any."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and code and text else text


def word_lines(words: Sequence[Word], paint: Paint) -> list[str]:
    """Return a table of words that were judged: the text, then a line for each word.

    Returns:
        No lines where no word was judged.
    """
    if not any(_is_judged(word) for word in words):
        return []
    wide = max(4, *(len(_name(word)) for word in words))
    lines = [*_text(words, paint), "", f"  {'word':<{wide}}  {'time':>13}  score  sounds"]
    return lines + [_line(word, wide, paint) for word in words]


def pace_line(features: Mapping[str, float]) -> str:
    """Return pace and pauses in words; nothing from graders that do not measure them."""
    said = []
    if "words_per_minute" in features:
        said.append(f"{features['words_per_minute']:.0f} words a minute")
    if "pauses" in features and "longest_pause_s" in features:
        pauses = round(features["pauses"])
        longest = f", the longest {features['longest_pause_s']:.1f} s" if pauses else ""
        said.append(f"{pauses or 'no'} pause{'' if pauses == 1 else 's'}{longest}")
    return "  " + "; ".join(said) if said else ""


def live_line(passed: Sequence[Word], ahead: Sequence[str], paint: Paint) -> str:
    """Return one line for a terminal: the words that were passed, in colour, and those to come.

    Only its end fits where it is longer than the terminal is wide; some words to come always do.
    """
    said = [(_marked(word), _colour(word)) for word in passed]
    said += [(text, _DIM) for text in ahead]
    room = paint.width - 1
    first, used = len(passed), 0
    for text in ahead[:4]:
        used += len(text) + 1
    while first > 0 and used + len(said[first - 1][0]) + 1 <= room:
        first -= 1
        used += len(said[first][0]) + 1
    shown, used = [], 0
    for text, code in said[first:]:
        if used + len(text) > room:
            break
        shown.append(paint.paint(text, code))
        used += len(text) + 1
    return " ".join(shown)


def passed_line(word: Word, at_s: float) -> str:
    """Return a line for who watches without a terminal: when a word was passed, and how it was."""
    return f"{at_s:6.1f} s  {_marked(word)}  {_number(word).strip()}  {_remark(word)}".rstrip()


def _text(words: Sequence[Word], paint: Paint) -> list[str]:
    """Return the words as running text, folded at the terminal's width."""
    lines, used = [""], 0
    for word in words:
        text = _marked(word)
        if used and used + len(text) + 1 > min(paint.width, 100) - 2:
            lines.append("")
            used = 0
        lines[-1] += (" " if used else "  ") + paint.paint(text, _colour(word))
        used += len(text) + 1
    return lines


def _line(word: Word, wide: int, paint: Paint) -> str:
    """Return a word's place, score, sounds and error."""
    colour = _colour(word)
    time = "" if word.start_s is None or word.end_s is None else _span(word.start_s, word.end_s)
    text = paint.paint(f"{_name(word):<{wide}}", colour)
    number = paint.paint(_number(word), colour)
    sounds = " ".join(_sound(phone, paint) for phone in word.phones)
    return f"  {text}  {time:>13}  {number}  {sounds}  {_remark(word)}".rstrip()


def _sound(phone: Phone, paint: Paint) -> str:
    """Return a sound; a poor one in brackets, with what was heard for it."""
    from asa_engine.text.phones import bare, phone_ipa  # late: most results have no sounds

    symbol = phone.ipa if paint.ipa and phone.ipa is not None else bare(phone.phone)
    value = share(phone.score)
    heard = "" if phone.heard is None else bare(phone.heard)
    heard = phone_ipa(heard) if paint.ipa else heard
    other = phone.heard is not None and bare(phone.heard) != bare(phone.phone)
    if value is not None and value < POOR:
        symbol = f"[{symbol}>{heard}]" if other else f"[{symbol}]"
    return paint.paint(symbol, "" if value is None else _share_colour(value))


def _remark(word: Word) -> str:
    """Return what is wrong with a word, and whether nobody knows how it is pronounced."""
    remarks = []
    if word.error is not None and word.error != "none":
        sure = f" ({word.confidence:.0%} sure)" if word.confidence is not None else ""
        remarks.append(word.error + sure)
    elif word.label:
        remarks.append(word.label)
    if word.pronunciation_confidence is not None:
        remarks.append(f"pronunciation guessed ({word.pronunciation_confidence:.0%} sure)")
    return ", ".join(remarks)


def _number(word: Word) -> str:
    score = word_score(word)
    return f"{score.value:5.1f}" if score is not None and word.start_s is not None else "     "


def _span(start_s: float, end_s: float) -> str:
    return f"{start_s:.2f}-{end_s:.2f}"


def _marked(word: Word) -> str:
    return _MARKS.get(word.error or "", "") + _name(word)


def _name(word: Word) -> str:
    return _shown(word.spoken or word.text)


def _shown(text: str) -> str:
    """Return a text without what would steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _colour(word: Word) -> str:
    if word.error in _MARKS:
        return _RED
    value = share(word_score(word))
    return "" if value is None else _share_colour(value)


def _share_colour(value: float) -> str:
    return _GREEN if value >= GOOD else _RED if value < POOR else _YELLOW


def _is_judged(word: Word) -> bool:
    return bool(word.phones or word.error or word.label or word_score(word))
