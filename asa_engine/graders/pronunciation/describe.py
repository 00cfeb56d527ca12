"""From frames to the numbers that are judged: with a text, and without one.

Training and run time call the same two functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from asa_engine.features.phone_alignment import SILENCE, align
from asa_engine.graders.pronunciation.hypothesis import phone_run
from asa_engine.graders.pronunciation.measures import (
    PHONE_SCALARS,
    WORD_SCALARS,
    Array,
    Forced,
    Indices,
    Segments,
    phone_scalars,
    reading_numbers,
    span_means,
    word_scalars,
)
from asa_engine.text.phones import PHONES, VOWELS

__all__ = [
    "GAPS",
    "Described",
    "Sounds",
    "classes_of",
    "describe_free",
    "describe_gaps",
    "describe_text",
    "describe_words",
    "frame_levels",
]

SAMPLES_PER_FRAME = 320
LOOSE = 2.0
"""What a frame of any phone costs between words, nats, where speech beyond the text is sought."""
LEAST_PHONES = 2
GAPS = (
    "frames", "spoken_frames", "level", "sounds", "plain_frames", "is_first", "is_last",
    *(f"{side}_{name}" for side in ("before", "after")
      for name in ("distance", "length", "own", "gain", "edge_length", "att_inside")),
    "next_margin", "next_best",
)  # fmt: skip
_BESIDE = ("own_mean", "own_min", "distance_min", "length_mean", "gain_mean", "log_frames")
"""What is seen of a word's neighbours, where it is asked whether the word was said."""
_MOST_GAIN = 20.0
_VOWEL_CLASS = np.array([-1, *(0 if phone in VOWELS else -1 for phone in PHONES)])


class Sounds(NamedTuple):
    """A text's sounds: symbols with stress, classes, owners and stress digits of its phones."""

    symbols: tuple[str, ...]
    classes: Indices
    owners: Indices
    stress: Indices


class Described(NamedTuple):
    """A reading in numbers.

    Attributes:
        segments: Its phones and their frames.
        phones: `phone_scalars`.
        posteriors: Mean posteriors of each phone.
        frames: Mean frame of each phone.
        words: `word_scalars`; `None` where no text is known.
        reading: `reading_numbers`.
    """

    segments: Segments
    phones: Array
    posteriors: Array
    frames: Array
    words: Array | None
    reading: Array


def classes_of(pronunciations: Sequence[Sequence[str]]) -> Sounds:
    """Return the sounds of words, one pronunciation each, ARPAbet with or without stress."""
    symbols = tuple(phone for word in pronunciations for phone in word)
    bare = [phone.rstrip("012") for phone in symbols]
    owners = [index for index, word in enumerate(pronunciations) for _ in word]
    stress = [
        int(phone[-1]) if phone[-1].isdigit() else (0 if phone in VOWELS else -1)
        for phone in symbols
    ]
    classes = [1 + PHONES.index(phone) for phone in bare]
    return Sounds(symbols, np.array(classes), np.array(owners), np.array(stress))


def frame_levels(samples: Array, count: int) -> Array:
    """Return the level of each of so many frames of 20 ms, dB, float32."""
    padded = np.zeros(count * SAMPLES_PER_FRAME)
    kept = min(len(samples), len(padded))
    padded[:kept] = samples[:kept]
    power = np.square(padded.reshape(count, SAMPLES_PER_FRAME)).mean(1)
    found: Array = (10 * np.log10(power + 1e-9)).astype(np.float32)
    return found


def describe_text(
    frames: Array,
    heard: Array,
    levels: Array,
    segments: Segments,
    fit: float,
    forced: Forced,
    usual: Array,
) -> Described:
    """Describe the reading of a text that has been laid over the frames."""
    phones, posteriors = phone_scalars(heard, levels, segments, usual)
    words = word_scalars(phones, segments, forced)
    reading = reading_numbers(phones, segments, words, (float(forced.own[-1]), fit))
    means = span_means(frames, segments.spans)
    return Described(segments, phones, posteriors, means, words, reading)


def describe_free(frames: Array, heard: Array, levels: Array, usual: Array) -> Described | None:
    """Describe speech of which no text is known; `None` where hardly a phone is heard."""
    spans, classes = phone_run(heard)
    if len(classes) < LEAST_PHONES:
        return None
    owners = np.zeros(len(classes), np.int64)
    segments = Segments(spans, classes, owners, _VOWEL_CLASS[classes])
    phones, posteriors = phone_scalars(heard, levels, segments, usual)
    means = span_means(frames, spans)
    return Described(segments, phones, posteriors, means, None, reading_numbers(phones, segments))


def describe_gaps(heard: Array, levels: Array, described: Described, forced: Forced) -> Array:
    """Describe what lies before each word and after the last, `GAPS` [W + 1, F].

    The text is laid over the frames once more, and frames between words may now hold any phone:
    so speech that is not of the text has a place to go.
    """
    segments, words = described.segments, described.words
    assert words is not None
    loose = heard.copy()
    loose[:, SILENCE] = np.maximum(heard[:, SILENCE], heard[:, 1:].max(1) - LOOSE)
    found = align(loose, segments.classes.tolist(), segments.owners.tolist())
    spans = segments.spans if found is None else found.spans
    again = Segments(spans, segments.classes, segments.owners, segments.stress)
    starts, ends = _gap_edges(again, len(heard))
    plain_starts, plain_ends = _gap_edges(segments, len(heard))
    spoken = 1 - np.exp(heard[:, SILENCE])
    run, _ = phone_run(heard)
    middles = run.mean(1)
    reference = float(np.percentile(levels, 75))
    count = len(words)
    index = {name: i for i, name in enumerate(WORD_SCALARS)}
    lengths = described.phones[:, PHONE_SCALARS.index("length")]
    firsts = segments.starts
    lasts = np.append(firsts[1:], len(segments.owners)) - 1
    table = np.zeros((count + 1, len(GAPS)), np.float32)
    for row, start, end in zip(table, starts.tolist(), ends.tolist(), strict=True):
        row[0] = np.log1p(end - start)
        row[1] = np.log1p(spoken[start:end].sum())
        row[2] = levels[start:end].max() - reference if end > start else -40.0
        row[3] = np.log1p(((middles > start) & (middles < end)).sum())
    table[:, 4] = np.log1p(plain_ends - plain_starts)
    table[0, 5] = table[-1, 6] = 1.0
    columns = [index[name] for name in ("distance_min", "length_mean", "own_mean", "gain_mean")]
    inside = index["att_inside_mean"]
    for base, rows, edges, target in (
        (7, slice(0, count), lasts, slice(1, count + 1)),
        (13, slice(0, count), firsts, slice(0, count)),
    ):
        table[target, base : base + 4] = words[rows][:, columns]
        table[target, base + 4] = lengths[edges]
        table[target, base + 5] = words[rows, inside]
    tokens = np.flatnonzero(np.diff(forced.owners, prepend=-1))
    at = np.append(tokens, len(forced.owners))
    table[:, 19] = forced.own[at] - forced.best[at]
    table[:, 20] = forced.best[at]
    return table


def describe_words(heard: Array, described: Described, forced: Forced, leaps: Array) -> Array:
    """Describe each word for whether it was said, [W, F].

    Its numbers, how they differ from the reading's middle, those of its neighbours, whether the
    decoder would rather write the next word in its place, and how much likelier the frames around
    it are without it.

    Args:
        heard: Log-probabilities of silence and the phones, [T, C].
        described: The reading.
        forced: What the decoder said.
        leaps: Of `plan.leaps_of`, [W].
    """
    words = described.words
    assert words is not None
    index = {name: i for i, name in enumerate(WORD_SCALARS)}
    seen = words[:, [index[name] for name in _BESIDE]]
    edge = np.zeros((1, len(_BESIDE)), np.float32)
    first = np.flatnonzero(np.diff(forced.owners, prepend=-1))
    lead = (forced.best - forced.own)[first]
    columns = (
        words,
        words - np.median(words, axis=0),
        np.concatenate((edge, seen[:-1])),
        np.concatenate((seen[1:], edge)),
        leaps[:, None],
        (leaps * lead)[:, None],
        _gains_without(heard, described.segments)[:, None],
    )
    return np.concatenate(columns, 1).astype(np.float32)


def _gains_without(heard: Array, segments: Segments) -> Array:
    """Return how much likelier the frames from each word's neighbours to it are without it, [W].

    In nats for each phone of the word, held to `_MOST_GAIN`; 0 where there is only one word.
    """
    spans, classes, owners = segments.spans, segments.classes, segments.owners
    count = int(owners[-1]) + 1
    found = np.zeros(count, np.float32)
    if count == 1:
        return found
    path = np.full(len(heard), SILENCE)
    for (start, end), phone in zip(spans.tolist(), classes.tolist(), strict=True):
        path[start:end] = phone
    laid = heard[np.arange(len(heard)), path].astype(np.float64)
    sums = np.concatenate(([0.0], np.cumsum(laid)))
    edges = segments.word_spans
    for word in range(count):
        start = int(edges[max(word - 1, 0), 0])
        end = int(edges[min(word + 1, count - 1), 1])
        beside = np.abs(owners - word) == 1
        own = int((owners == word).sum())
        other = align(heard[start:end], classes[beside].tolist(), owners[beside].tolist())
        if other is not None:
            gain = (other.score - (sums[end] - sums[start])) / own
            found[word] = min(max(gain, -_MOST_GAIN), _MOST_GAIN)
    return found


def _gap_edges(segments: Segments, length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    spans = segments.word_spans
    return np.append(0, spans[:, 1]), np.append(spans[:, 0], length)
