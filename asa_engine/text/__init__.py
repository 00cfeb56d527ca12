"""English text as it is read aloud: its words, and how they sound.

`speak` reads any normal text: numbers, dates, money, units, addresses and abbreviations in words,
and every word with its pronunciations, from a dictionary or from its letters. Only NumPy, and
num2words where a text has numbers.
"""

from __future__ import annotations

from asa_engine.text.lexicon import Lexicon
from asa_engine.text.phones import PHONES, ipa, syllables
from asa_engine.text.pronounce import Pronounced, pronounce
from asa_engine.text.speak import MAX_LETTERS, MAX_WORDS, speak
from asa_engine.text.spoken import Reading, SpokenText, SpokenWord

__all__ = [
    "MAX_LETTERS",
    "MAX_WORDS",
    "PHONES",
    "Lexicon",
    "Pronounced",
    "Reading",
    "SpokenText",
    "SpokenWord",
    "ipa",
    "pronounce",
    "speak",
    "syllables",
]
