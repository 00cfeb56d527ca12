"""Pronunciations of one's own, which come before the dictionary's: names, terms, a corpus's words.

A lexicon is a text file in the CMU Pronouncing Dictionary's form: `word P1 P2 ...`, ARPAbet with or
without stress digits, `word(2)` for further pronunciations, `#` before a comment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from asa_engine.errors import CheckpointError
from asa_engine.text.dictionary import Pronunciation
from asa_engine.text.phones import PHONES, VOWELS

__all__ = ["Lexicon"]

MAX_BYTES = 32 * 2**20
_FURTHER = re.compile(r"\(\d+\)$")
_KNOWN = {
    phone + stress: phone + stress
    for phone in PHONES
    for stress in (("", "0", "1", "2") if phone in VOWELS else ("",))
}
"""Each phone by its name: a lexicon names one object of each often."""


class Lexicon:
    """Pronunciations by word.

    Args:
        entries: Word in small letters -> its pronunciations, the first one first.
    """

    def __init__(self, entries: Mapping[str, Sequence[Pronunciation]]) -> None:
        self._entries = {word: tuple(said) for word, said in entries.items()}

    def __len__(self) -> int:
        return len(self._entries)

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Self:
        """Read lexicons.

        Args:
            paths: The first file that has a word decides.

        Raises:
            CheckpointError: One is missing, too large, or holds an unknown phone.
        """
        entries: dict[str, list[Pronunciation]] = {}
        for path in paths:
            try:
                if path.stat().st_size > MAX_BYTES:
                    raise CheckpointError(f"{path} is larger than {MAX_BYTES} bytes")
                lines = path.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise CheckpointError(
                    f"the lexicon {path} cannot be read: {error}", hint="fetch or export it again"
                ) from None
            earlier = set(entries)
            for word, phones in _entries(lines, path):
                if word not in earlier:
                    entries.setdefault(word, []).append(phones)
        return cls(entries)

    def get(self, word: str) -> tuple[Pronunciation, ...]:
        """Return the pronunciations of a word in small letters; none if unknown."""
        return self._entries.get(word) or self._entries.get(word.strip("'"), ())


def _entries(lines: Iterable[str], path: Path) -> Iterator[tuple[str, Pronunciation]]:
    for number, line in enumerate(lines, 1):
        word, *phones = line.partition("#")[0].split() or [""]
        if not word:
            continue
        said = tuple(_KNOWN.get(phone, "") for phone in phones)
        if not said or not all(said):
            raise CheckpointError(
                f"{path}, line {number}: {' '.join(phones)[:40]!r} are no phones",
                hint="phones are those of ARPAbet",
            )
        yield _FURTHER.sub("", word).lower(), said
