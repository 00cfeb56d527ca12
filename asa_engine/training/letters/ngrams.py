"""An n-gram model over units (a letter and its phones), smoothed and pruned.

Interpolated modified Kneser-Ney smoothing: S. Chen and J. Goodman, "An empirical study of smoothing
techniques for language modeling" (1998), section 4.1. Pruning by weighted difference: K. Seymore
and R. Rosenfeld, "Scalable backoff language models", ICSLP 1996.

An n-gram is a uint64: one byte a unit, the last one lowest. Unit 0 stands before a word and after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Level", "count", "kneser_ney", "prune"]

Keys = NDArray[np.uint64]
Floats = NDArray[np.float64]
MOST_ORDER = 8
_BYTE = np.uint64(8)


@dataclass(slots=True)
class Level:
    """The n-grams of one order, sorted.

    Attributes:
        keys: The n-grams, [K].
        counts: How often each was seen, [K].
        p: Probability of the last unit after the others, [K].
        backoff: What a probability of the next lower order is multiplied by, after this n-gram as
            a context, [K]; 1 where it is none.
    """

    keys: Keys
    counts: Floats
    p: Floats
    backoff: Floats


def count(words: Sequence[Sequence[int]], order: int) -> list[tuple[Keys, Floats]]:
    """Return the n-grams of orders 1 to `order` that end in a unit or behind the word."""
    stream = np.array([unit for word in words for unit in (0, *word, 0)], np.uint64)
    lengths = np.array([len(word) + 2 for word in words])
    place = np.arange(len(stream)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    levels = []
    key = np.zeros(len(stream), np.uint64)
    for k in range(order):
        shifted = np.zeros_like(stream)
        shifted[k:] = stream[: len(stream) - k]
        key |= shifted << np.uint64(8 * k)
        whole = (place >= k) & (place >= 1)
        keys, counts = np.unique(key[whole], return_counts=True)
        levels.append((keys, counts.astype(np.float64)))
    return levels


def kneser_ney(counted: Sequence[tuple[Keys, Floats]], vocabulary: int) -> list[Level]:
    """Return the smoothed model of these counts.

    Args:
        counted: As `count` returns it.
        vocabulary: Number of units, unit 0 included.
    """
    levels: list[Level] = []
    for k, (keys, counts) in enumerate(counted):
        adjusted = counts
        if k + 1 < len(counted):
            adjusted = _continuations(keys, counts, counted[k + 1][0], k + 1)
        contexts, first, owner = np.unique(keys >> _BYTE, return_index=True, return_inverse=True)
        discount = _discounts(adjusted)[np.minimum(adjusted, 3).astype(int)]
        total = np.add.reduceat(adjusted, first)
        left = np.add.reduceat(discount, first) / total
        lower = levels[-1].p[_find(levels[-1].keys, keys & _mask(k))] if levels else 1 / vocabulary
        p = (adjusted - discount) / total[owner] + left[owner] * lower
        if levels:
            where = _find(levels[-1].keys, contexts)
            levels[-1].backoff[where] = left
        levels.append(Level(keys, counts, p, np.ones(len(keys))))
    return levels


def prune(levels: Sequence[Level], threshold: float) -> list[Level]:
    """Return a model without the n-grams that hardly change what it says.

    Args:
        levels: A model.
        threshold: Least gain of a kept n-gram, in nats: its count, times the logarithm of its
            probability over the one that the next lower order gives.
    """
    kept = [np.ones(len(level.keys), bool) for level in levels]
    for k in range(len(levels) - 1, 0, -1):
        level, lower = levels[k], levels[k - 1]
        below = lower.p[_find(lower.keys, level.keys & _mask(k))]
        context = _find(lower.keys, level.keys >> _BYTE)
        gain = level.counts * np.log(level.p / (lower.backoff[context] * below))
        kept[k] = gain > threshold
        if k + 1 < len(levels):  # a context stays with what stands behind it
            kept[k][_find(level.keys, levels[k + 1].keys[kept[k + 1]] >> _BYTE)] = True
    found = [
        Level(level.keys[k], level.counts[k], level.p[k], np.ones(int(k.sum())))
        for level, k in zip(levels, kept, strict=True)
        if k.any()
    ]
    for k in range(1, len(found)):
        level, lower = found[k], found[k - 1]
        below = _probability(found[:k], level.keys & _mask(k), k)
        contexts, first = np.unique(level.keys >> _BYTE, return_index=True)
        spare = 1 - np.add.reduceat(level.p, first)
        spare /= np.maximum(1 - np.add.reduceat(below, first), 1e-9)
        lower.backoff[_find(lower.keys, contexts)] = np.clip(spare, 1e-6, 1)
    return found


def _probability(levels: Sequence[Level], keys: Keys, order: int) -> Floats:
    """Return the probability that a model of the given order gives to n-grams of that order."""
    level = levels[order - 1]
    at = np.minimum(np.searchsorted(level.keys, keys), len(level.keys) - 1)
    p = level.p[at].copy()
    missing = level.keys[at] != keys
    if missing.any():
        rest = keys[missing]
        found = _probability(levels, rest & _mask(order - 1), order - 1)
        lower = levels[order - 2]
        context = np.minimum(np.searchsorted(lower.keys, rest >> _BYTE), len(lower.keys) - 1)
        known = lower.keys[context] == rest >> _BYTE
        p[missing] = found * np.where(known, lower.backoff[context], 1.0)
    return p


def _continuations(keys: Keys, counts: Floats, longer: Keys, order: int) -> Floats:
    """Return how many units stand before each n-gram; a word's beginning has its count."""
    ends, different = np.unique(longer & _mask(order), return_counts=True)
    continued = counts.copy()
    continued[_find(keys, ends)] = different
    return continued


def _discounts(counts: Floats) -> Floats:
    """Return what is taken from counts of 0, 1, 2 and from 3 on (Chen and Goodman, equation 26)."""
    n1, n2, n3, n4 = (max(float((counts == n).sum()), 1.0) for n in range(1, 5))
    y = n1 / (n1 + 2 * n2)
    discounts = [0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
    limited: Floats = np.clip(np.array(discounts), 0.0, np.array([0, 0.99, 1.9, 2.9]))
    return limited


def _mask(units: int) -> np.uint64:
    return np.uint64((1 << (8 * units)) - 1)


def _find(keys: Keys, wanted: Keys) -> NDArray[np.int64]:
    return np.searchsorted(keys, wanted)
