"""The grader's small networks in NumPy: phones of frames, sounds of words, audio tokens.

They are small enough that no runtime is needed for them; training computes the same in PyTorch.
Every function takes its weights by name, as the checkpoint holds them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from asa_engine.features.phone_alignment import SILENCE

__all__ = [
    "MEASURES",
    "audio_tokens",
    "phone_log_probabilities",
    "slot_tokens",
    "sound_features",
]

Array = NDArray[np.float32]
Weights = Mapping[str, Array]

MEASURES = 5
"""Numbers that `sound_features` adds to a phone's mean frame and mean posterior."""
_NORM_EPSILON = 1e-5


def phone_log_probabilities(weights: Weights, frames: Array) -> Array:
    """Return log-probabilities [T, C] of silence and the phones at frames [T, D]."""
    x = _layer_norm(weights, "phones.norm", frames)
    x = _linear(weights, "phones.fc2", _silu(_linear(weights, "phones.fc1", x)))
    x -= x.max(1, keepdims=True)
    x -= np.log(np.exp(x).sum(1, keepdims=True))
    return x


def sound_features(
    frames: Array, log_probabilities: Array, spans: NDArray[np.int64], phones: Sequence[int]
) -> Array:
    """Describe how each phone was said.

    Args:
        frames: [T, D].
        log_probabilities: [T, C].
        spans: First frame, and the frame after the last, of each phone, [P, 2].
        phones: Class of each.

    Returns:
        float32 [P, D + C + 5]: mean frame, mean posterior, and of the phone's log-probability its
        mean (goodness of pronunciation, Witt and Young 2000, equation 2), its mean lead over the
        strongest rival, its best frame, its mean distance from each frame's likeliest class; and
        the logarithm of its length in frames.
    """
    depth, classes = frames.shape[1], log_probabilities.shape[1]
    features = np.empty((len(phones), depth + classes + MEASURES), np.float32)
    for row, (first, last), phone in zip(features, spans.tolist(), phones, strict=True):
        said = log_probabilities[first:last]
        means = said.mean(0)
        rivals = means.copy()
        rivals[[SILENCE, phone]] = -np.inf
        row[:depth] = frames[first:last].mean(0)
        row[depth : depth + classes] = np.exp(said).mean(0)
        row[depth + classes :] = (
            means[phone],
            means[phone] - rivals.max(),
            said[:, phone].max(),
            (said[:, phone] - said.max(1)).mean(),
            np.log(last - first),
        )
    return features


def slot_tokens(
    weights: Weights, features: Array, phones: Sequence[int], words: Sequence[int]
) -> Array:
    """Return the tokens that say how it sounded: of the recording, each word, each phone.

    Args:
        weights: Of `slots`.
        features: Of `sound_features`, [P, F].
        phones: Class of each phone.
        words: Which word each is of: 0 to N - 1, ascending, none left out.

    Returns:
        float32 [1 + N + P, W], of the size of the language model's embeddings.
    """
    x = (features - weights["slots.mean"]) / weights["slots.deviation"]
    x = _silu(_linear(weights, "slots.fc1", x) + weights["slots.phone"][list(phones)])
    x = _silu(_linear(weights, "slots.fc2", x))
    owner = np.asarray(words)
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    counts = np.diff(starts, append=len(owner))[:, None].astype(np.float32)
    means = np.add.reduceat(x, starts, axis=0) / counts
    peaks = np.maximum.reduceat(x, starts, axis=0)
    whole = x.mean(0, keepdims=True)
    inner = (
        ("all", whole),
        ("word", np.concatenate((means, peaks, np.repeat(whole, len(means), 0)), 1)),
        ("one", np.concatenate((x, means[owner], np.repeat(whole, len(x), 0)), 1)),
    )
    tokens = [
        _rms_norm(
            weights,
            f"slots.{name}_norm",
            _linear(weights, f"slots.{name}_out", _silu(_linear(weights, f"slots.{name}", rows))),
        )
        for name, rows in inner
    ]
    return np.concatenate(tokens)


def audio_tokens(weights: Weights, frames: Array, stack: int) -> Array:
    """Return the audio tokens [ceil(T / stack), W] of a window's frames [T, D]."""
    x = _layer_norm(weights, "projector.frame_norm", frames)
    x = np.pad(x, ((0, -len(x) % stack), (0, 0)))
    x = _silu(_linear(weights, "projector.fc1", x.reshape(len(x) // stack, -1)))
    return _rms_norm(weights, "projector.norm", _linear(weights, "projector.fc2", x))


def _linear(weights: Weights, name: str, x: Array) -> Array:
    y: Array = x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
    return y


def _silu(x: Array) -> Array:
    # Held, so that the exponential stays finite: silu(-80) is 0 in float32 for all that matters.
    y: Array = x / (1 + np.exp(-np.maximum(x, np.float32(-80))))
    return y


def _layer_norm(weights: Weights, name: str, x: Array) -> Array:
    centred = x - x.mean(1, keepdims=True)
    scale = np.sqrt(np.square(centred).mean(1, keepdims=True) + np.float32(_NORM_EPSILON))
    y: Array = centred / scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]
    return y


def _rms_norm(weights: Weights, name: str, x: Array) -> Array:
    scale = np.sqrt(np.square(x).mean(1, keepdims=True) + np.float32(_NORM_EPSILON))
    y: Array = x / scale * weights[f"{name}.weight"]
    return y
