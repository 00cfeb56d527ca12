"""The grader's small networks in NumPy: phones of frames, scores of phones, words and readings.

They are small enough that no runtime is needed for them; training computes the same in PyTorch.
Two judges share one form: `text` for readings of a known text, `free` for speech without one.
Tensors are taken by the names that the checkpoint has them under.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from asa_engine.graders.pronunciation.measures import Array, Indices, Segments
from asa_engine.kernels.dense import Dense, matrix_vector, product

__all__ = [
    "CLIP",
    "Judge",
    "Judged",
    "Pooled",
    "Tensors",
    "log_odds",
    "phone_log_probabilities",
    "slopes_of",
]

CLIP = 4.0
"""Standardised numbers are held to this many deviations: nothing unusual outweighs all else."""
_EPSILON = 1e-5
_NOTHING = -1e4
Tensors = Mapping[str, NDArray[np.float32]]


class Pooled(NamedTuple):
    """Sums over the frames that were heard.

    Attributes:
        frames: How many.
        moments: Of every layer the sum of h, then of every layer the sum of h^2, float64.
    """

    frames: int
    moments: NDArray[np.float64]

    def profile(self) -> Array:
        """Return mean and deviation of every layer's outputs, float32 [2 (layers + 1) D]."""
        means, squares = np.split(self.moments / self.frames, 2)
        deviations = np.sqrt(np.maximum(squares - np.square(means), _EPSILON))
        return np.concatenate((means, deviations)).astype(np.float32)


class Judged(NamedTuple):
    """What a judge says, in points of the experts' scales, not yet held to them.

    Attributes:
        scores: Of each aspect, [A].
        words: Accuracy of each word, 0 to 10, [W].
        phones: Accuracy of each phone, 0 to 2, [P].
    """

    scores: Array
    words: Array
    phones: Array


def phone_log_probabilities(tensors: Tensors, frames: Array) -> Array:
    """Return log-probabilities [T, C] of silence and the phones at frames [T, D]."""
    x = _norm(frames, tensors["phones.norm.weight"], tensors["phones.norm.bias"])
    x = _silu(product(x, tensors["phones.fc1.weight"].T) + tensors["phones.fc1.bias"])
    x = product(x, tensors["phones.fc2.weight"].T) + tensors["phones.fc2.bias"]
    x -= x.max(1, keepdims=True)
    x -= np.log(np.exp(x).sum(1, keepdims=True))
    return x


class Judge:
    """A transformer over phones, several seeds side by side, and a Gaussian-kernel regressor.

    Args:
        tensors: The checkpoint's.
        name: Which judge: `text` or `free`.
        heads: Attention heads.
        classes: Of the phone layer.
    """

    def __init__(self, tensors: Tensors, name: str, heads: int) -> None:
        own = {
            key.removeprefix(f"{name}."): tensors[key]
            for key in tensors
            if key.startswith(f"{name}.")
        }
        self._w = own
        self._packed: dict[str, Dense] = {}
        self._heads = heads
        self._slopes = np.array(slopes_of(heads), np.float32)
        self._layers = sum(key.endswith(".qkv.weight") for key in own)

    def inputs(
        self, phones: Array, posteriors: Array, frames: Array, words: Array | None, owners: Indices
    ) -> Array:
        """Return one standardised row a phone, [P, F].

        Args:
            phones: `measures.phone_scalars`.
            posteriors: Mean posteriors of each phone, [P, C].
            frames: Mean frame of each phone, [P, D].
            words: `measures.word_scalars`, where a text is known.
            owners: Word of each phone.
        """
        w = self._w
        pictured = self._times(frames - w["frames.mean"], "frames.directions")
        parts = [phones, posteriors, pictured.astype(np.float32)]
        if words is not None:
            parts.append(words[owners])
        return _standard(np.concatenate(parts, 1), w["input.mean"], w["input.scale"])

    def __call__(
        self,
        rows: Array,
        segments: Segments,
        words: Array | None,
        reading: Array,
        pooled: Pooled,
        blocks: Sequence[slice] = (),
    ) -> Judged:
        """Judge a reading.

        Args:
            rows: From `inputs`.
            segments: The phones and their frames.
            words: `measures.word_scalars`, where a text is known.
            reading: `measures.reading_numbers`.
            pooled: Sums over the reading's frames.
            blocks: Phones that see each other, in order; by default all do.
        """
        w = self._w
        standard = _standard(reading, w["reading.mean"], w["reading.scale"])
        profile = _standard(pooled.profile(), w["pooled.mean"], w["pooled.scale"])
        pooled_rows = self._times(profile, "pooled.directions")
        whole = np.concatenate((standard, pooled_rows[: w["net_pooled"].size] * w["net_pooled"]))
        h = np.concatenate(
            [self._see(rows[b], segments.classes[b], whole) for b in blocks or (slice(None),)], 1
        )
        net = self._scores(h, whole)
        place = np.concatenate((standard * w["kernel.reading"], pooled_rows * w["kernel.pooled"]))
        near = np.exp(-np.square(w["kernel.centres"] - place).sum(1))
        # Large weights of either sign: they cancel in float64.
        kernel = matrix_vector(w["kernel.weights"].T, near) + w["kernel.mean"]
        scores = (w["blend"] * net + (1 - w["blend"]) * kernel).astype(np.float32)
        if words is None:
            empty = np.zeros(0, np.float32)
            return Judged(scores, empty, empty)
        return Judged(scores, self._words(h, segments, words), self._phones(h))

    def _times(self, rows: Array, name: str) -> Array:
        """Return rows times a weight, which is packed when it is first needed."""
        if name not in self._packed:
            self._packed[name] = Dense(self._w[name])
        return self._packed[name](rows)

    def _see(self, rows: Array, classes: NDArray[np.int64], whole: Array) -> Array:
        """Return the hidden rows of some phones that see each other, [S, P, H]."""
        w = self._w
        h = self._times(rows, "input.weight") + w["input.bias"][:, None] + w["phone"][:, classes]
        h = h + (self._times(whole, "context.weight") + w["context.bias"])[:, None]
        seeds, count, width = h.shape
        at = np.arange(count)
        far = self._slopes[:, None, None] * np.abs(at[:, None] - at)
        depth = width // self._heads
        for layer in range(self._layers):
            name = f"layers.{layer}."
            x = _norm(h, *(w[f"{name}norm1.{part}"][:, None] for part in ("weight", "bias")))
            qkv = self._times(x, f"{name}qkv.weight") + w[f"{name}qkv.bias"][:, None]
            q, k, v = qkv.reshape(seeds, count, 3, self._heads, depth).transpose(2, 0, 3, 1, 4)
            share = product(q, k.transpose(0, 1, 3, 2)) / np.float32(np.sqrt(depth))
            mixed = product(_softmax(share - far), v)
            mixed = mixed.transpose(0, 2, 1, 3).reshape(seeds, count, width)
            h = h + self._times(mixed, f"{name}out.weight") + w[f"{name}out.bias"][:, None]
            x = _norm(h, *(w[f"{name}norm2.{part}"][:, None] for part in ("weight", "bias")))
            x = _silu(self._times(x, f"{name}fc1.weight") + w[f"{name}fc1.bias"][:, None])
            h = h + self._times(x, f"{name}fc2.weight") + w[f"{name}fc2.bias"][:, None]
        return _norm(h, w["norm.weight"][:, None], w["norm.bias"][:, None])

    def _scores(self, h: Array, whole: Array) -> Array:
        w = self._w
        share = _softmax(self._times(h, "attend.weight")[..., 0] + w["attend.bias"])
        seen = product(share[:, None], h)[:, 0]
        whole = np.broadcast_to(whole, (len(h), len(whole)))
        g = np.concatenate((h.mean(1), seen, whole), 1)
        g = _silu(self._times(g[:, None], "score1.weight")[:, 0] + w["score1.bias"])
        found = self._times(g[:, None], "score2.weight")[:, 0] + w["score2.bias"]
        scores: Array = found.mean(0) * w["scores.scale"] + w["scores.mean"]
        return scores

    def _words(self, h: Array, segments: Segments, words: Array) -> Array:
        w = self._w
        standard = _standard(words, w["words.mean"], w["words.scale"])
        starts = segments.starts
        counts = np.diff(np.append(starts, len(segments.owners)))[:, None].astype(np.float32)
        means = np.add.reduceat(h, starts, axis=1) / counts
        peaks = np.maximum.reduceat(h, starts, axis=1)
        standard = np.broadcast_to(standard, (len(h), *standard.shape))
        x = np.concatenate((means, peaks, standard), 2)
        x = _silu(self._times(x, "word1.weight") + w["word1.bias"][:, None])
        x = self._times(x, "word2.weight")[..., 0] + w["word2.bias"]
        found: Array = x.mean(0) * w["word_scores.scale"] + w["word_scores.mean"]
        return found

    def _phones(self, h: Array) -> Array:
        w = self._w
        x = self._times(h, "one.weight")[..., 0] + w["one.bias"]
        found: Array = x.mean(0) * w["phone_scores.scale"] + w["phone_scores.mean"]
        return found


def slopes_of(heads: int) -> list[float]:
    """Return what each attention head takes off for each phone in between.

    As ALiBi (Press et al. 2022), but for the first head, which sees all alike.
    """
    return [0.0, *(2.0 * 4.0 ** (k + 1 - heads) for k in range(1, heads))]


def log_odds(tensors: Tensors, name: str, rows: Array) -> Array:
    """Return what a small network says of rows [N, F]: log-odds [N]."""
    x = _standard(rows, tensors[f"{name}.mean"], tensors[f"{name}.scale"])
    x = _silu(product(x, tensors[f"{name}.fc1.weight"].T) + tensors[f"{name}.fc1.bias"])
    found: Array = (product(x, tensors[f"{name}.fc2.weight"].T) + tensors[f"{name}.fc2.bias"])[:, 0]
    return found


def _standard(values: Array, mean: Array, scale: Array) -> Array:
    found: Array = np.clip((values - mean) / scale, -CLIP, CLIP).astype(np.float32)
    return found


def _silu(x: Array) -> Array:
    # Held, so that the exponential stays finite: silu(-80) is 0 in float32 for all that matters.
    found: Array = x / (1 + np.exp(-np.maximum(x, np.float32(-80))))
    return found


def _softmax(x: Array) -> Array:
    x = np.exp(x - x.max(-1, keepdims=True))
    found: Array = x / x.sum(-1, keepdims=True)
    return found


def _norm(x: Array, weight: Array, bias: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    scale = np.sqrt(np.square(centred).mean(-1, keepdims=True) + np.float32(_EPSILON))
    found: Array = centred / scale * weight + bias
    return found
