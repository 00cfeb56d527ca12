"""What the scores rest on: numbers of each phone, each word and the whole reading.

Everything is a function of the frames inside the aligned phones and of the pauses between them:
what lies before the first phone and after the last does not enter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FORCED",
    "PHONE_SCALARS",
    "WORD_SCALARS",
    "Forced",
    "Segments",
    "phone_scalars",
    "reading_numbers",
    "span_means",
    "word_scalars",
]

Array = NDArray[np.float32]
Indices = NDArray[np.int64]

FRAMES_PER_S = 50.0
SILENCE = 0
PAUSE_FRAMES = 8
"""0.16 s: shorter gaps between words are stops and junctures."""
_JUDGED = 22
"""Of `PHONE_SCALARS`, those that say something of the reading; the others are the text's."""
PHONE_SCALARS = (
    "own_mean", "own_max", "own_min", "own_sd", "lead_mean", "lead_min", "lead_of_means",
    "distance", "posterior", "silence", "entropy", "middle", "log_frames", "length", "length_here",
    "gap_before", "gap_after", "energy", "energy_peak", "energy_change", "change_before",
    "change_after", "from_start", "from_end", "phones_in_word", "is_first", "is_last", "stressed",
    "reduced", "vowel",
)  # fmt: skip
FORCED = ("own", "margin", "rank", "entropy", "gain", "att_entropy", "att_peak", "att_inside")
WORD_SCALARS = (
    *(f"{name}_mean" for name in FORCED), *(f"{name}_min" for name in FORCED),
    "att_before", "att_after", "tokens", "next_own", "next_gain",
    *(f"{name}_{how}" for name in ("own", "lead", "distance", "length") for how in ("mean", "min")),
    "log_frames", "phones", "gap_before", "gap_after", "energy",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Segments:
    """A text laid over a recording.

    Attributes:
        spans: First frame, and the frame after the last, of each phone, int64 [P, 2].
        classes: Class of each phone for the phone layer, [P].
        owners: Which word each phone is of: 0 to W - 1, ascending, none left out, [P].
        stress: ARPAbet's stress digit of each phone, -1 for consonants, [P].
    """

    spans: Indices
    classes: Indices
    owners: Indices
    stress: Indices

    @property
    def starts(self) -> Indices:
        """Index of each word's first phone, [W]."""
        return np.flatnonzero(np.diff(self.owners, prepend=-1))

    @property
    def word_spans(self) -> Indices:
        """First frame, and the frame after the last, of each word, [W, 2]."""
        starts = self.starts
        ends = np.append(starts[1:], len(self.owners)) - 1
        return np.stack((self.spans[starts, 0], self.spans[ends, 1]), 1)


@dataclass(frozen=True, slots=True)
class Forced:
    """What the text decoder said of a text while it was made to write it.

    Attributes:
        own: Log-probability of each token, the end of the text among them, [N + 1].
        best: That of the likeliest other token at its place.
        rank: How many tokens are likelier.
        entropy: Of the distribution over tokens, nats.
        quiet: Log-probability of each token when the decoder hears silence.
        attended: Of the alignment heads' mean, what each token's writing attends, [N + 1, T].
        att_entropy: Mean entropy of all heads' attention, [N + 1].
        att_peak: Mean of all heads' largest share, [N + 1].
        owners: Word of each token without the end, [N].
    """

    own: Array
    best: Array
    rank: Array
    entropy: Array
    quiet: Array
    attended: Array
    att_entropy: Array
    att_peak: Array
    owners: Indices


def span_means(rows: Array, spans: Indices) -> Array:
    """Return the mean of rows [T, F] over each span [P, 2], [P, F]."""
    sums = np.zeros((len(rows) + 1, rows.shape[1]))
    np.cumsum(rows, axis=0, dtype=np.float64, out=sums[1:])
    lengths = (spans[:, 1] - spans[:, 0])[:, None]
    found: Array = ((sums[spans[:, 1]] - sums[spans[:, 0]]) / lengths).astype(np.float32)
    return found


def phone_scalars(
    heard: Array, energy: Array, segments: Segments, usual: Array
) -> tuple[Array, Array]:
    """Describe how each phone was said.

    Args:
        heard: Log-probabilities of silence and the phones, [T, C].
        energy: Level of each frame, dB, [T].
        segments: The text laid over the frames.
        usual: Mean and deviation of each class's log length in frames, [C, 2].

    Returns:
        `PHONE_SCALARS` [P, F] and the mean posteriors [P, C].
    """
    spans, classes = segments.spans, segments.classes
    first, last = spans[:, 0], spans[:, 1]
    lengths = last - first
    count = len(classes)
    # Frames inside phones, phone by phone.
    owner = np.repeat(np.arange(count), lengths)
    at = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + first[owner]
    said = heard[at]
    own = said[np.arange(len(at)), classes[owner]]
    rivals = said.copy()
    rivals[:, SILENCE] = -np.inf
    rivals[np.arange(len(at)), classes[owner]] = -np.inf
    lead = own - rivals.max(1)
    bounds = np.cumsum(lengths) - lengths

    def mean(values: Array) -> Array:
        found: Array = np.add.reduceat(values, bounds) / lengths
        return found

    own_mean = mean(own)
    means = np.add.reduceat(said, bounds, axis=0) / lengths[:, None]
    posteriors = np.add.reduceat(np.exp(said), bounds, axis=0) / lengths[:, None]
    others = means.copy()
    others[:, SILENCE] = -np.inf
    others[np.arange(count), classes] = -np.inf
    log_frames = np.log(lengths)
    length = (log_frames - usual[classes, 0]) / usual[classes, 1]
    gaps = first[1:] - last[:-1]
    before = np.log1p(np.append(0, gaps))
    after = np.log1p(np.append(gaps, 0))
    levels = energy[at]
    reference = float(np.percentile(levels, 75))
    level = np.clip(mean(levels) - reference, -40, 20)
    peak = np.clip(np.maximum.reduceat(levels, bounds) - reference, -40, 20)
    change = np.diff(level, prepend=level[:1])
    starts = segments.starts
    sizes = np.diff(np.append(starts, count))
    place = np.arange(count) - starts[segments.owners]
    size = sizes[segments.owners]
    columns = (
        own_mean,
        np.maximum.reduceat(own, bounds),
        np.minimum.reduceat(own, bounds),
        # Around the mean: the difference of two squares would lose what it is about.
        np.sqrt(mean(np.square(own - own_mean[owner]))),
        mean(lead),
        np.minimum.reduceat(lead, bounds),
        means[np.arange(count), classes] - others.max(1),
        mean(own - said.max(1)),
        np.log(posteriors[np.arange(count), classes] + 1e-4),
        np.log(posteriors[:, SILENCE] + 1e-3),
        mean(-(np.exp(said) * said).sum(1)),
        heard[(first + last - 1) // 2, classes],
        log_frames,
        length,
        length - length.mean(),
        before,
        after,
        level,
        peak,
        peak - level,
        change,
        -np.append(change[1:], 0),
        np.log1p(place),
        np.log1p(size - 1 - place),
        np.log(size),
        place == 0,
        place == size - 1,
        segments.stress == 1,
        segments.stress == 0,
        segments.stress >= 0,
    )
    return np.stack(columns, 1).astype(np.float32), posteriors.astype(np.float32)


def word_scalars(phones: Array, segments: Segments, forced: Forced) -> Array:
    """Describe each word: what the decoder said of it, and its phones together; [W, F]."""
    spans = segments.word_spans
    starts = segments.starts
    tokens = np.flatnonzero(np.diff(forced.owners, prepend=-1))
    sizes = np.diff(np.append(tokens, len(forced.owners)))
    count = len(forced.owners)
    shares = forced.attended[:count] / np.maximum(
        forced.attended[:count].sum(1, keepdims=True), 1e-9
    )
    sums = np.concatenate((np.zeros((count, 1)), np.cumsum(shares, 1, dtype=np.float64)), 1)
    rows = np.arange(count)
    # What surrounds a word belongs to it in part: attention runs a little ahead.
    length = shares.shape[1]
    from_ = np.maximum(spans[forced.owners, 0] - 3, 0)
    to = np.minimum(spans[forced.owners, 1] + 3, length)
    head, tail = sums[rows, from_], 1 - sums[rows, to]
    per_token = np.stack(
        (
            forced.own[:count],
            forced.own[:count] - forced.best[:count],
            -np.log1p(forced.rank[:count]),
            -forced.entropy[:count],
            forced.own[:count] - forced.quiet[:count],
            -forced.att_entropy[:count],
            forced.att_peak[:count],
            1 - head - tail,
        ),
        1,
    )
    means = np.add.reduceat(per_token, tokens, axis=0) / sizes[:, None]
    least = np.minimum.reduceat(per_token, tokens, axis=0)
    gain = forced.own - forced.quiet
    index = {name: i for i, name in enumerate(PHONE_SCALARS)}
    columns = [
        np.add.reduceat(head, tokens) / sizes,
        np.add.reduceat(tail, tokens) / sizes,
        np.log(sizes),
        forced.own[np.append(tokens[1:], count)],
        gain[np.append(tokens[1:], count)],
    ]
    phone_counts = np.diff(np.append(starts, len(phones)))
    for name in ("own_mean", "lead_mean", "distance", "length"):
        values = phones[:, index[name]]
        columns += [
            np.add.reduceat(values, starts) / phone_counts,
            np.minimum.reduceat(values, starts),
        ]
    gaps = np.log1p(spans[1:, 0] - spans[:-1, 1])
    columns += [
        np.log(spans[:, 1] - spans[:, 0]),
        np.log(phone_counts),
        np.append(0, gaps),
        np.append(gaps, 0),
        np.add.reduceat(phones[:, index["energy"]], starts) / phone_counts,
    ]
    return np.concatenate((means, least, np.stack(columns, 1)), 1).astype(np.float32)


def reading_numbers(
    phones: Array, segments: Segments, words: Array | None = None, told: Sequence[float] = ()
) -> Array:
    """Describe the whole reading: how its phones and words are spread, its pace and pauses.

    Args:
        phones: `phone_scalars`.
        segments: The phones and their frames.
        words: `word_scalars`; `None` where no text is known.
        told: Further numbers, such as how well the text fits.

    Returns:
        float32, of the same length for all readings with words, and for all without.
    """
    parts = [_spread(phones[:, :_JUDGED])]
    if words is not None:
        parts.append(_spread(words))
    spans = segments.spans
    gaps = (spans[1:, 0] - spans[:-1, 1]).astype(np.float64)
    speech = float(spans[-1, 1] - spans[0, 0]) / FRAMES_PER_S
    voiced = float((spans[:, 1] - spans[:, 0]).sum()) / FRAMES_PER_S
    pauses = gaps[gaps >= PAUSE_FRAMES] / FRAMES_PER_S
    lengths = np.log(spans[:, 1] - spans[:, 0])
    vowels = lengths[segments.stress >= 0]
    pace = [
        np.log(len(phones) / speech),
        np.log(len(phones) / voiced),
        np.log(speech),
        voiced / speech,
        np.log1p(len(pauses)),
        pauses.sum() / speech,
        np.log1p(pauses.max() if len(pauses) else 0.0),
        len(pauses) / len(phones),
        vowels.std() if len(vowels) else 0.0,
        np.abs(np.diff(vowels)).mean() if len(vowels) > 1 else 0.0,
        np.log(len(phones)),
        *told,
    ]
    if words is not None:
        pace += [np.log(len(words) / speech), np.log(len(words)), len(pauses) / len(words)]
    return np.concatenate((*parts, np.array(pace))).astype(np.float32)


def _spread(table: Array) -> Array:
    """Return mean, deviation, and four low percentiles of each column."""
    low = np.percentile(table, (0, 10, 25, 50), axis=0)
    return np.concatenate((table.mean(0), table.std(0), low.ravel()))
