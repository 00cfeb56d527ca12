"""How words are pronounced: dictionaries first, a letter-to-sound guess for the rest.

A dictionary is a text file in the CMU pronouncing dictionary's form: `word P1 P2 ...`, ARPAbet
phones with or without stress digits, `word(2)` for further pronunciations, `#` before a comment.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from asa_engine.errors import CheckpointError, UsageError

__all__ = ["PHONES", "Lexicon", "Spoken", "words_of"]

PHONES = tuple(
    "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W "
    "Y Z ZH".split()
)
"""ARPAbet without stress."""
MAX_BYTES = 32 * 2**20
MAX_LETTERS = 40
_APOSTROPHES = "\N{RIGHT SINGLE QUOTATION MARK}\N{MODIFIER LETTER APOSTROPHE}\N{ACUTE ACCENT}"
_QUOTES = str.maketrans({**dict.fromkeys(_APOSTROPHES, "'"), "`": " "})
_READ_ALOUD = frozenset("&@#%*/\\\N{SECTION SIGN}")
"""Punctuation, by Unicode, that is read as a word, or may be."""
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)*'?|'[a-z]+(?:'[a-z]+)*")
# Longest first. English spelling has no rules that hold: these are right about as often as a
# reader who has never seen the word.
_SOUNDS: tuple[tuple[str, str], ...] = (
    ("tion", "SH AH N"), ("sion", "ZH AH N"), ("ture", "CH ER"), ("ough", "AO"), ("augh", "AO"),
    ("eigh", "EY"), ("igh", "AY"), ("sch", "SH"), ("tch", "CH"), ("dge", "JH"), ("ch", "CH"),
    ("sh", "SH"), ("th", "TH"), ("ph", "F"), ("wh", "W"), ("ck", "K"), ("ng", "NG"), ("qu", "K W"),
    ("kn", "N"), ("wr", "R"), ("ee", "IY"), ("ea", "IY"), ("ie", "IY"), ("oo", "UW"), ("ou", "AW"),
    ("ow", "OW"), ("oa", "OW"), ("oi", "OY"), ("oy", "OY"), ("ai", "EY"), ("ay", "EY"),
    ("ei", "EY"), ("ey", "IY"), ("au", "AO"), ("aw", "AO"), ("ew", "UW"), ("ar", "AA R"),
    ("er", "ER"), ("ir", "ER"), ("or", "AO R"), ("ur", "ER"), ("a", "AE"), ("b", "B"), ("c", "K"),
    ("d", "D"), ("e", "EH"), ("f", "F"), ("g", "G"), ("h", "HH"), ("i", "IH"), ("j", "JH"),
    ("k", "K"), ("l", "L"), ("m", "M"), ("n", "N"), ("o", "AA"), ("p", "P"), ("q", "K"), ("r", "R"),
    ("s", "S"), ("t", "T"), ("u", "AH"), ("v", "V"), ("w", "W"), ("x", "K S"), ("y", "IY"),
    ("z", "Z"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Spoken:
    """A word and its sounds.

    Attributes:
        text: Small letters and apostrophes.
        phones: ARPAbet without stress, at least one.
        guessed: Whether no dictionary had it.
    """

    text: str
    phones: tuple[str, ...]
    guessed: bool = False


def words_of(text: str) -> tuple[str, ...]:
    """Return the words of a text in small letters, without punctuation.

    Raises:
        UsageError: It holds digits, symbols or letters that are not English, which nobody can say
            how to read, or no word at all.
    """
    # NFKC: ligatures apart, accents on their letters; what is invisible (Cf) is no break in a word.
    whole = unicodedata.normalize("NFKC", text.translate(_QUOTES)).lower()
    lowered = "".join(c for c in whole if unicodedata.category(c) != "Cf")
    odd = next((c for c in lowered if not _is_plain(c)), None)
    if odd is not None:
        raise UsageError(
            f"the text holds {odd!r}, and how it was read is not known",
            mend="write it as it was read, in English letters: 'twenty', not '20'; or leave it out",
        )
    words = tuple(_WORD.findall(lowered))
    if not words:
        raise UsageError("the text holds no word", mend="give the text that was read")
    longest = max(words, key=len)
    if len(longest) > MAX_LETTERS:
        raise UsageError(
            f"{longest[:MAX_LETTERS]!r}... is longer than any word",
            mend="put spaces between the words",
        )
    return words


def _is_plain(character: str) -> bool:
    """Whether it is an English letter, a space or a mark that nobody reads aloud."""
    if "a" <= character <= "z":
        return True
    kind = unicodedata.category(character)
    silent = kind[0] in "PZ" or character.isspace()
    return silent and character not in _READ_ALOUD


class Lexicon:
    """Pronunciations, one for each word.

    Args:
        entries: Word -> phones without stress.
    """

    def __init__(self, entries: Mapping[str, tuple[str, ...]]) -> None:
        self._entries = dict(entries)

    def __len__(self) -> int:
        return len(self._entries)

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Self:
        """Read dictionaries; of a word's pronunciations the first is taken.

        Args:
            paths: The first file that has a word decides.

        Raises:
            CheckpointError: One is missing, too large, or holds an unknown phone.
        """
        entries: dict[str, tuple[str, ...]] = {}
        for path in paths:
            try:
                if path.stat().st_size > MAX_BYTES:
                    raise CheckpointError(f"{path} is larger than {MAX_BYTES} bytes")
                lines = path.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise CheckpointError(
                    f"the dictionary {path} cannot be read: {error}",
                    mend="fetch or export it again",
                ) from None
            for word, phones in _entries(lines, path):
                entries.setdefault(word, phones)
        return cls(entries)

    def spoken(self, word: str) -> Spoken:
        """Return how a word, as `words_of` gives it, is pronounced."""
        phones = self._entries.get(word) or self._entries.get(word.strip("'"))
        if phones is not None:
            return Spoken(word, phones)
        stem = word.removesuffix("'s").removesuffix("s'")
        if stem != word and (phones := self._entries.get(stem)) is not None:
            return Spoken(word, (*phones, "Z"), guessed=True)
        return Spoken(word, _guess(word), guessed=True)


def _entries(lines: Iterable[str], path: Path) -> Iterable[tuple[str, tuple[str, ...]]]:
    known = {phone: phone for phone in PHONES}  # one object each: a dictionary names them often
    for number, line in enumerate(lines, 1):
        word, *phones = line.partition("#")[0].split() or [""]
        if not word or word.endswith(")"):
            continue
        bare = tuple(known.get(phone.rstrip("012"), "") for phone in phones)
        if not all(bare) or not bare:
            raise CheckpointError(
                f"{path}, line {number}: {' '.join(phones)[:40]!r} are no phones",
                mend="phones are those of ARPAbet",
            )
        yield word.lower(), bare


def _guess(word: str) -> tuple[str, ...]:
    """Return sounds for the letters of a word, from left to right."""
    letters = word.replace("'", "")
    if len(letters) > 2 and letters.endswith("e") and letters[-2] not in "aeiou":
        letters = letters[:-1]  # a last e is silent
    found: list[str] = []
    while letters:
        spelling, sounds = next(pair for pair in _SOUNDS if letters.startswith(pair[0]))
        if not (found and found[-1] == sounds):  # double letters are one sound
            found += sounds.split()
        letters = letters[len(spelling) :]
    return tuple(found)
