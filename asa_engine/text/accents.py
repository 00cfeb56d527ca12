"""Forms of a pronunciation that are as good as the dictionary's General American one.

J. C. Wells, "Accents of English" (1982): non-rhoticity (section 3.2.2) with the centring diphthongs
of NEAR, CURE and SQUARE (2.2), and syllabic consonants (3.1.5). What British speakers do to single
words or vowels (BATH, LOT) is not derived: it depends on the word, or ARPAbet has no sign for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from asa_engine.text.dictionary import Pronunciation
from asa_engine.text.phones import VOWELS, bare

__all__ = ["non_rhotic", "syllabic", "variants"]

_CENTRING: Final = {
    "IH": "IH",
    "IY": "IH",
    "UH": "UH",
    "UW": "UH",
    "EH": "EH",
    "AY": "AY",
    "AW": "AW",
}
"""Vowels that a dropped R leaves a schwa behind, and what becomes of them."""


def variants(pronunciations: Iterable[Pronunciation]) -> tuple[Pronunciation, ...]:
    """Return the other forms of a word's pronunciations, in their order."""
    given = tuple(pronunciations)
    found = dict.fromkeys(
        form
        for said in given
        for form in (non_rhotic(said), syllabic(said), non_rhotic(syllabic(said)))
    )
    return tuple(form for form in found if form not in given)


def non_rhotic(phones: Pronunciation) -> Pronunciation:
    """Return a pronunciation without the R that no vowel follows: car, K AA1; here, HH IH1 AH0."""
    found: list[str] = []
    for place, phone in enumerate(phones):
        vowel_follows = place + 1 < len(phones) and bare(phones[place + 1]) in VOWELS
        if vowel_follows or bare(phone) not in ("R", "ER"):
            found.append(phone)
        elif bare(phone) == "ER":
            found.append("AH" + phone[2:])
        elif not found or (before := bare(found[-1])) not in VOWELS:
            found.append(phone)
        elif before in _CENTRING:
            found[-1] = _CENTRING[before] + found[-1][2:]
            found.append("AH0")
    return tuple(found)


def syllabic(phones: Pronunciation) -> Pronunciation:
    """Return a pronunciation with L and N as syllables of their own: little, L IH1 T L."""
    found: list[str] = []
    for phone in phones:
        schwa = len(found) > 1 and found[-1] == "AH0" and bare(found[-2]) not in VOWELS
        if schwa and phone in ("L", "N"):
            found[-1] = phone
        else:
            found.append(phone)
    return tuple(found)
