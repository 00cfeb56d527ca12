"""Training of the letter-to-sound model, and how well it does on words that it has not seen."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asa_engine.evaluation.metrics import edit_distance
from asa_engine.text.dictionary import SYMBOLS, Pronunciation
from asa_engine.text.letters import MAGIC, STEP, LetterModel
from asa_engine.text.phones import bare
from asa_engine.training.letters.alignment import Unit, align, units_of
from asa_engine.training.letters.ngrams import MOST_ORDER, Level, count, kneser_ney, prune

__all__ = ["Figures", "measure", "train_letters"]


@dataclass(frozen=True, slots=True)
class Figures:
    """How the first guess compares with the nearest of a word's pronunciations.

    Attributes:
        words: How many words were guessed.
        phone_error: Edit distance over the number of phones, without stress digits.
        word_error: Share of words with an error, without stress digits.
        phone_error_stress: `phone_error` with stress digits.
        word_error_stress: `word_error` with stress digits.
        word_error_any: Share of words none of whose guesses is right, without stress digits.
        confidence: Mean probability of the first guess, to be `1 - word_error_stress`.
    """

    words: int
    phone_error: float
    word_error: float
    phone_error_stress: float
    word_error_stress: float
    word_error_any: float
    confidence: float


LEAST_COUNT = 20
"""Of a unit: rarer ones are mistakes, or of words that are spelled letter by letter."""
LEAST_GAIN = 1.0
"""Of an n-gram, in nats: PER on held-out words rises by less than 0.1 points over no pruning."""


def train_letters(entries: Mapping[str, Sequence[Pronunciation]]) -> bytes:
    """Return a packed model of these words.

    Args:
        entries: Words of small letters and apostrophes, and their pronunciations.
    """
    aligned = align([(word, said) for word, all_said in entries.items() for said in all_said])
    units = sorted(unit for unit, seen in units_of(aligned).items() if seen >= LEAST_COUNT)
    codes = {unit: 1 + index for index, unit in enumerate(units)}
    words = [[codes[u] for u in word] for word in aligned if word and all(u in codes for u in word)]
    levels = kneser_ney(count(words, MOST_ORDER), len(units) + 1)
    return _pack(units, prune(levels, LEAST_GAIN))


def measure(model: LetterModel, entries: Mapping[str, Sequence[Pronunciation]]) -> Figures:
    """Compare a model's guesses with a dictionary."""
    rows, confidences = [], []
    for word, said in entries.items():
        guesses = model.guess(word)
        first = guesses[0].phones
        errors, phones = _nearest(first, said)
        plain = [_plain(phones) for phones in said]
        bare_errors, _ = _nearest(_plain(first), plain)
        any_right = any(_plain(guess.phones) in plain for guess in guesses)
        rows.append((errors, bare_errors, phones, errors > 0, bare_errors > 0, any_right))
        confidences.append(guesses[0].probability)
    table = np.array(rows, np.float64)
    sums = table.sum(axis=0)
    means = table.mean(axis=0)
    return Figures(
        words=len(rows),
        phone_error=float(sums[1] / sums[2]),
        word_error=float(means[4]),
        phone_error_stress=float(sums[0] / sums[2]),
        word_error_stress=float(means[3]),
        word_error_any=float(1 - means[5]),
        confidence=float(np.mean(confidences)),
    )


def _pack(units: Sequence[Unit], levels: Sequence[Level]) -> bytes:
    codes = {symbol: index for index, symbol in enumerate(SYMBOLS)}
    data = bytearray([len(units)])
    for letter, phones in units:
        data += bytes([ord(letter), len(phones), *(codes[phone] for phone in phones)])
    data.append(len(levels))
    for order, level in enumerate(levels, 1):
        data += struct.pack("<I", len(level.keys))
        data += (level.keys & np.uint64(255)).astype(np.uint8).tobytes()
        data += _quantised(level.p) + _quantised(level.backoff)
        if order < len(levels):
            contexts = levels[order].keys >> np.uint64(8)
            first = np.searchsorted(contexts, level.keys, "left")
            last = np.searchsorted(contexts, level.keys, "right")
            data += (last - first).astype(np.uint8).tobytes()
    return MAGIC + zlib.compress(bytes(data), 9)


def _quantised(p: NDArray[np.float64]) -> bytes:
    return np.clip(np.round(-np.log(p) / STEP), 0, 255).astype(np.uint8).tobytes()


def _plain(phones: Iterable[str]) -> Pronunciation:
    return tuple(map(bare, phones))


def _nearest(said: Pronunciation, right: Iterable[Pronunciation]) -> tuple[int, int]:
    """Return the least edit distance, and the length of the pronunciation that has it."""
    return min((edit_distance(said, other), len(other)) for other in right)
