"""Small graders with random weights, and windows for them, for tests of GPU code."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from asa_engine.gpu.device import Read
from asa_engine.nn.acoustic_tensors import GraderShape
from asa_engine.nn.config import WhisperEncoderConfig

Array = NDArray[np.float32]

# Nothing is a multiple of a tile, or of anything else.
SMALL = GraderShape(
    WhisperEncoderConfig(n_mels=80, d_model=36, layers=2, heads=3, ffn=70, positions=40),
    pooling_heads=3, prior_width=13, levels=5, prior_embedding=6, head_width=21, aspects=3,
    centres=9, place=7,
)  # fmt: skip
PLAIN = GraderShape(
    WhisperEncoderConfig(n_mels=80, d_model=32, layers=1, heads=2, ffn=64, positions=40),
    pooling_heads=1, prior_width=8, levels=4, prior_embedding=4, head_width=16, aspects=2,
)  # fmt: skip


def random_weights(shape: GraderShape, seed: int = 0) -> dict[str, Array]:
    """Weights of the size that trained ones have, so that no activation explodes or vanishes."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, size in {**shape.encoder_shapes(), **shape.head_shapes()}.items():
        scale = 0.5 * float(np.prod(size[1:])) ** -0.5 if len(size) > 1 else 0.2
        value = scale * rng.standard_normal(size)
        if name.endswith("norm.weight") or (
            name.startswith("pool_norms") and name.endswith("weight")
        ):
            value += 1
        weights[name] = value.astype(np.float32)
    weights["score_mean"] += 6
    if shape.centres:
        weights["blend"] = rng.uniform(0.2, 0.8, shape.aspects).astype(np.float32)
    return weights


def reader(weights: dict[str, Array]) -> Read:
    """A `Read` of weights in memory."""

    def read(name: str, size: tuple[int, ...]) -> Array:
        assert weights[name].shape == size, name
        return weights[name]

    return read


def speech_like(samples: int, seed: int = 0) -> Array:
    """Tones under a slow envelope and some noise, float32 [samples]."""
    rng = np.random.default_rng(seed)
    t = np.arange(samples) / 16_000
    tones = sum(np.sin(2 * np.pi * f * t + rng.uniform(0, 6)) / f**0.5 for f in (140, 700, 2300))
    wave = tones * (0.1 + np.sin(2 * np.pi * 3 * t) ** 2) + 0.01 * rng.standard_normal(samples)
    return (0.3 * wave).astype(np.float32)


def random_mel(frames: int, seed: int = 0, n_mels: int = 80) -> Array:
    """A log-mel of the usual range, float32 [n_mels, frames]."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (n_mels, frames)).astype(np.float32)
