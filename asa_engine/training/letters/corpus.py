"""The CMU Pronouncing Dictionary as published, and which of its words are held out."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

from asa_engine.errors import CheckpointError
from asa_engine.text.dictionary import SYMBOLS, Pronunciation

__all__ = ["Entries", "is_held_out", "read_entries"]

Entries = dict[str, tuple[Pronunciation, ...]]

_WORD = re.compile(r"[a-z']+")
_FURTHER = re.compile(r"\(\d+\)$")
_HELD_OUT_ONE_IN = 20


def read_entries(path: Path) -> Entries:
    """Return every word of letters and apostrophes with its pronunciations, in the file's order.

    Words with hyphens and full stops are left out: texts are split there before they are looked up.

    Raises:
        CheckpointError: A line holds something else than a word and its phones.
    """
    known = {symbol: symbol for symbol in SYMBOLS}
    entries: dict[str, list[Pronunciation]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        name, *phones = line.partition("#")[0].split() or [""]
        word = _FURTHER.sub("", name)
        if not _WORD.fullmatch(word) or not word.strip("'"):
            continue
        said = tuple(known.get(phone, "") for phone in phones)
        if not said or not all(said):
            raise CheckpointError(f"{path}, line {number}: {' '.join(phones)!r} are no phones")
        spoken = entries.setdefault(word, [])
        if said not in spoken:
            spoken.append(said)
    return {word: tuple(spoken) for word, spoken in entries.items()}


def is_held_out(word: str) -> bool:
    """Whether a word is kept from training: one in twenty, by the CRC-32 of its letters."""
    return zlib.crc32(word.encode()) % _HELD_OUT_ONE_IN == 0
