"""ARPAbet phones, their IPA for General American, and syllables.

A vowel may carry a stress digit (0 none, 1 primary, 2 secondary), as in the CMU Pronouncing
Dictionary; every function here takes phones with or without.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

__all__ = ["PHONES", "VOWELS", "bare", "ipa", "phone_ipa", "syllables"]

PHONES: Final = tuple(
    "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W "
    "Y Z ZH".split()
)
"""ARPAbet without stress."""
VOWELS: Final = frozenset("AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split())

_IPA: Final = {
    "AA": "ɑ", "AE": "æ", "AH": "ʌ", "AO": "ɔ", "AW": "aʊ", "AY": "aɪ", "B": "b", "CH": "tʃ",
    "D": "d", "DH": "ð", "EH": "ɛ", "ER": "ɝ", "EY": "eɪ", "F": "f", "G": "ɡ", "HH": "h",
    "IH": "ɪ", "IY": "i", "JH": "dʒ", "K": "k", "L": "l", "M": "m", "N": "n", "NG": "ŋ",
    "OW": "oʊ", "OY": "ɔɪ", "P": "p", "R": "ɹ", "S": "s", "SH": "ʃ", "T": "t", "TH": "θ",
    "UH": "ʊ", "UW": "u", "V": "v", "W": "w", "Y": "j", "Z": "z", "ZH": "ʒ",
    "AH0": "ə", "ER0": "ɚ",
}  # fmt: skip
"""After the Handbook of the IPA (1999), "American English"; unstressed AH and ER are reduced."""
_STRESS_MARKS: Final = {
    "1": "\N{MODIFIER LETTER VERTICAL LINE}",
    "2": "\N{MODIFIER LETTER LOW VERTICAL LINE}",
}

_STOPS_AND_FRICATIVES = (
    "P L,P R,B L,B R,T R,D R,K L,K R,G L,G R,F L,F R,TH R,SH R,S L,S W,S P,S T,S K,S M,S N,S F,"
    "T W,D W,K W,G W,TH W,HH W,V Y,P Y,B Y,K Y,G Y,F Y,M Y,HH Y,S P L,S P R,S T R,S K R,S K W,"
    "S K L,S P Y,S K Y"
)
_ONSETS: Final = frozenset(tuple(onset.split()) for onset in _STOPS_AND_FRICATIVES.split(","))
"""Clusters that begin English words, besides every single consonant but NG and ZH."""


def bare(phone: str) -> str:
    """Return a phone without its stress digit."""
    return phone.rstrip("012")


def syllables(phones: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Split a word's phones into syllables: as many consonants before a vowel as may begin a word.

    Args:
        phones: ARPAbet, with or without stress digits.

    Returns:
        One tuple a syllable, whose concatenation is `phones`; a word without a vowel is one.
    """
    nuclei = [index for index, phone in enumerate(phones) if bare(phone) in VOWELS]
    if not nuclei:
        return (tuple(phones),) if phones else ()
    starts = [0]
    for before, nucleus in itertools.pairwise(nuclei):
        start = nucleus
        while start - 1 > before and _may_begin([bare(p) for p in phones[start - 1 : nucleus]]):
            start -= 1
        starts.append(start)
    return tuple(
        tuple(phones[start:end])
        for start, end in zip(starts, [*starts[1:], len(phones)], strict=True)
    )


def _may_begin(consonants: list[str]) -> bool:
    if len(consonants) == 1:
        return consonants[0] != "NG"
    return tuple(consonants) in _ONSETS


def ipa(phones: Sequence[str]) -> str:
    """Return phones in IPA, with stress marks before the syllables of a word that has several."""
    parts = syllables(phones)
    written = []
    for part in parts:
        stress = next((phone[-1] for phone in part if phone[-1] in _STRESS_MARKS), "")
        if stress and len(parts) > 1:
            written.append(_STRESS_MARKS[stress])
        written += [_IPA.get(phone) or _IPA[bare(phone)] for phone in part]
    return "".join(written)


def phone_ipa(symbol: str) -> str:
    """Return one phone in IPA; a symbol that is not ARPAbet as it is."""
    return ipa((symbol,)) if bare(symbol) in PHONES else symbol
