"""Phones laid over frames: the best of all ways, and how well they fit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from asa_engine.features.phone_alignment import SILENCE, align


def random_posteriors(rng: np.random.Generator, frames: int, classes: int) -> NDArray[np.float32]:
    logits = rng.normal(0, 2, (frames, classes))
    return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)


def best_by_trying_all(
    said: NDArray[np.float32], phones: list[int], words: list[int]
) -> tuple[float, list[tuple[int, int]]]:
    """Try every way to cut the frames; an independent truth for few frames."""
    best: tuple[float, list[tuple[int, int]]] = (-np.inf, [])
    gaps = [True] + [a != b for a, b in itertools.pairwise(words)] + [True]
    lengths = [range(len(said) + 1) if gap else (0,) for gap in gaps]
    for silences in itertools.product(*lengths):
        left = len(said) - sum(silences)
        if left < len(phones):
            continue
        for cuts in itertools.combinations(range(1, left), len(phones) - 1):
            sizes = np.diff([0, *cuts, left])
            at = silences[0]
            score = float(said[:at, SILENCE].sum())
            spans = []
            for phone, size, silence in zip(phones, sizes, silences[1:], strict=True):
                spans.append((at, at + int(size)))
                score += float(said[at : at + size, phone].sum())
                at += int(size)
                score += float(said[at : at + silence, SILENCE].sum())
                at += silence
            if score > best[0]:
                best = score, spans
    return best


@pytest.mark.parametrize("seed", range(12))
def test_alignment_is_the_best_of_all_ways(seed: int) -> None:
    rng = np.random.default_rng(seed)
    said = random_posteriors(rng, 7, 4)
    phones, words = [1, 2, 3], [0, 0, 1]
    found = align(said, phones, words)
    assert found is not None
    _, spans = best_by_trying_all(said, phones, words)
    assert [tuple(span) for span in found.spans.tolist()] == spans


def test_fit_is_zero_where_the_text_is_what_is_heard_and_lower_elsewhere() -> None:
    said = np.full((6, 4), -5.0, np.float32)
    for frame, heard in enumerate((0, 1, 1, 2, 0, 3)):
        said[frame, heard] = -0.1
    right, wrong = align(said, [1, 2, 3], [0, 0, 1]), align(said, [3, 1, 2], [0, 0, 1])
    assert right is not None
    assert wrong is not None
    assert right.fit == 0.0
    assert right.spans.tolist() == [[1, 3], [3, 4], [5, 6]]
    assert wrong.fit < -1


def test_more_phones_than_frames_cannot_be_laid() -> None:
    assert align(np.zeros((2, 4), np.float32), [1, 2, 3], [0, 1, 2]) is None
