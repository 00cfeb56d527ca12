"""Which letter of a word stands for which of its phones, found by expectation maximisation.

Each letter stands for no phone, one or two (x: K S). The joint-sequence model of M. Bisani and
H. Ney, "Joint-sequence models for grapheme-to-phoneme conversion", Speech Communication 50 (2008),
with single letters, so that a word has as many units as letters.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from asa_engine.text.dictionary import SYMBOLS, Pronunciation

__all__ = ["LETTERS", "Unit", "align"]

Unit = tuple[str, Pronunciation]
"""A letter and the phones, none to two, that it stands for."""

LETTERS: Final = "abcdefghijklmnopqrstuvwxyz'"
_PHONES = len(SYMBOLS)
_CHUNKS = 1 + _PHONES + _PHONES**2  # no phone, one, two
_START: Final = (0.1, 0.85, 0.05)
"""Share of letters with no phone, one and two, before anything is known."""

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Bucket:
    """Words with as many letters [N, L] and as many phones [N, P] as each other."""

    rows: Codes
    letters: Codes
    phones: Codes

    def codes(self, i: int, j: int, taken: int) -> Codes:
        """Return [N] codes of letter i standing for `taken` phones from j on."""
        chunk: Codes | int = 0
        if taken == 1:
            chunk = 1 + self.phones[:, j]
        elif taken == 2:
            chunk = 1 + _PHONES + self.phones[:, j] * _PHONES + self.phones[:, j + 1]
        return self.letters[:, i] * _CHUNKS + chunk

    def moves(self) -> Iterator[tuple[int, int, int]]:
        """Yield every (letter, phone, phones taken) on a way from the first to the last."""
        count, most = self.letters.shape[1], self.phones.shape[1]
        for i in range(count):
            for j in range(min(2 * i, most) + 1):
                for taken in range(3):
                    if j + taken <= most <= j + taken + 2 * (count - i - 1):
                        yield i, j, taken


def align(pairs: Sequence[tuple[str, Pronunciation]], iterations: int = 8) -> list[list[Unit]]:
    """Return the units of each word; of words with more phones than twice their letters, none.

    Args:
        pairs: Words, in `LETTERS`, and their phones.
        iterations: Of expectation maximisation.
    """
    buckets = _buckets(pairs)
    table = np.empty((len(LETTERS), _CHUNKS))
    table[:, 0] = _START[0]
    table[:, 1 : 1 + _PHONES] = _START[1] / _PHONES
    table[:, 1 + _PHONES :] = _START[2] / _PHONES**2
    for _ in range(iterations):
        counts = np.zeros(table.size)
        for bucket in buckets:
            counts += _expected(bucket, table.ravel())
        table = counts.reshape(table.shape)
        table /= np.maximum(table.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    aligned: list[list[Unit]] = [[] for _ in pairs]
    for bucket in buckets:
        for row, taken in zip(bucket.rows, _best(bucket, table.ravel()), strict=True):
            word, phones = pairs[row]
            at = 0
            for letter, count in zip(word, taken.tolist(), strict=True):
                aligned[row].append((letter, phones[at : at + count]))
                at += count
    return aligned


def _buckets(pairs: Sequence[tuple[str, Pronunciation]]) -> list[_Bucket]:
    phone_code = {phone: code for code, phone in enumerate(SYMBOLS)}
    rows = collections.defaultdict(list)
    for row, (word, phones) in enumerate(pairs):
        if len(phones) <= 2 * len(word):
            rows[len(word), len(phones)].append(row)
    return [
        _Bucket(
            np.array(chosen),
            np.array([[LETTERS.index(letter) for letter in pairs[row][0]] for row in chosen]),
            np.array([[phone_code[phone] for phone in pairs[row][1]] for row in chosen]),
        )
        for chosen in rows.values()
    ]


def _expected(bucket: _Bucket, table: Floats) -> Floats:
    """Return how often each code is expected to stand in the bucket's words."""
    count, most = bucket.letters.shape[1], bucket.phones.shape[1]
    moves = [(i, j, t, bucket.codes(i, j, t)) for i, j, t in bucket.moves()]
    forward = np.zeros((count + 1, most + 1, len(bucket.rows)))
    forward[0, 0] = 1
    backward = np.zeros_like(forward)
    backward[count, most] = 1
    for i, j, taken, codes in moves:
        forward[i + 1, j + taken] += forward[i, j] * table[codes]
    for i, j, taken, codes in reversed(moves):
        backward[i, j] += backward[i + 1, j + taken] * table[codes]
    whole = np.maximum(forward[count, most], np.finfo(float).tiny)
    shares = [
        forward[i, j] * table[codes] * backward[i + 1, j + taken] / whole
        for i, j, taken, codes in moves
    ]
    codes = np.concatenate([codes for *_, codes in moves])
    return np.bincount(codes, np.concatenate(shares), table.size).astype(np.float64)


def _best(bucket: _Bucket, table: Floats) -> Codes:
    """Return [N, L]: how many phones each letter stands for, in the likeliest way."""
    count, most = bucket.letters.shape[1], bucket.phones.shape[1]
    words = np.arange(len(bucket.rows))
    score = np.zeros((count + 1, most + 1, len(words)))
    score[0, 0] = 1
    taken_by = np.zeros(score.shape, np.int64)
    for i, j, taken in bucket.moves():
        way = score[i, j] * table[bucket.codes(i, j, taken)]
        better = way > score[i + 1, j + taken]
        score[i + 1, j + taken][better] = way[better]
        taken_by[i + 1, j + taken][better] = taken
    lengths = np.zeros((len(words), count), np.int64)
    at = np.full(len(words), most)
    for i in range(count, 0, -1):
        lengths[:, i - 1] = taken_by[i, at, words]
        at -= lengths[:, i - 1]
    return lengths


def units_of(aligned: Iterable[Sequence[Unit]]) -> collections.Counter[Unit]:
    """Return how often each unit stands in aligned words."""
    return collections.Counter(unit for word in aligned for unit in word)
