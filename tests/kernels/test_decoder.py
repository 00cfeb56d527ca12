"""The text decoder's kernels against NumPy, written down from the paper's formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from asa_engine.kernels.decoder import Decoder
from asa_engine.nn.config import WhisperDecoderConfig

Floats = NDArray[np.float64]

CONFIGS = [
    WhisperDecoderConfig(d_model=48, layers=2, heads=3, ffn=80, tokens=101, positions=12),
    WhisperDecoderConfig(d_model=160, layers=1, heads=2, ffn=300, tokens=64, positions=9),
    WhisperDecoderConfig(d_model=12, layers=3, heads=1, ffn=7, tokens=5, positions=8),
]


class Weights:
    """Random weights by CTranslate2's names, the same for each name every time."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.tensors: dict[str, NDArray[np.float32]] = {}

    def __call__(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        rng = np.random.default_rng([self.seed, *name.encode()])
        values = rng.normal(0, 1, shape) / math.sqrt(shape[-1])
        if name.endswith("gamma"):
            values = 1 + values
        self.tensors[name] = values.astype(np.float32)
        return self.tensors[name]


def norm(x: Floats, w: Weights, name: str) -> Floats:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * w.tensors[f"{name}/gamma"] + w.tensors[f"{name}/beta"]


def linear(x: Floats, w: Weights, name: str) -> Floats:
    return x @ w.tensors[f"{name}/weight"].astype(np.float64).T + w.tensors[f"{name}/bias"]


def attend(
    q: Floats, k: Floats, v: Floats, heads: int, mask: NDArray[np.bool_] | None = None
) -> tuple[Floats, Floats]:
    """Return the context [n, D] and the shares [heads, n, m]."""
    q, k, v = (x.reshape(len(x), heads, -1).swapaxes(0, 1) for x in (q, k, v))
    scores = q @ k.swapaxes(1, 2) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    shares = powers / powers.sum(-1, keepdims=True)
    context = (shares @ v).swapaxes(0, 1)
    return context.reshape(len(context), -1), shares


def gelu(x: Floats) -> Floats:
    return np.array([0.5 * y * (1 + math.erf(y / math.sqrt(2))) for y in x.flat]).reshape(x.shape)


def expected(
    config: WhisperDecoderConfig, w: Weights, speech: Floats, tokens: list[int]
) -> tuple[Floats, Floats]:
    """Return logits [n, tokens] and cross-attention [n, layers * heads, T], all tokens at once."""
    embeddings = w.tensors["embeddings/weight"].astype(np.float64)
    x = embeddings[tokens] + w.tensors["position_encodings/encodings"][: len(tokens)]
    causal = np.tril(np.ones((len(tokens), len(tokens)), bool))
    seen = []
    for layer in range(config.layers):
        at = f"layer_{layer}"
        qkv = linear(
            norm(x, w, f"{at}/self_attention/layer_norm"), w, f"{at}/self_attention/linear_0"
        )
        context, _ = attend(*np.split(qkv, 3, axis=1), config.heads, causal)
        x = x + linear(context, w, f"{at}/self_attention/linear_1")
        q = linear(norm(x, w, f"{at}/attention/layer_norm"), w, f"{at}/attention/linear_0")
        k, v = np.split(linear(speech, w, f"{at}/attention/linear_1"), 2, axis=1)
        context, shares = attend(q, k, v, config.heads)
        seen.append(shares)
        x = x + linear(context, w, f"{at}/attention/linear_2")
        inner = gelu(linear(norm(x, w, f"{at}/ffn/layer_norm"), w, f"{at}/ffn/linear_0"))
        x = x + linear(inner, w, f"{at}/ffn/linear_1")
    return norm(x, w, "layer_norm") @ embeddings.T, np.concatenate(seen).swapaxes(0, 1)


def run(
    decoder: Decoder, speech: NDArray[np.float32], tokens: list[int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    decoder.start(speech)
    steps = [decoder.step(token) for token in tokens]
    return np.stack([s[0] for s in steps]), np.stack([s[1] for s in steps])


# float32 sums of up to 300 products of size 1 leave 1e-5. In int8 each of some ten layers adds
# rounding of a half in 127 of the largest of 128 weights and a half in 255 of the inputs.
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 5e-5), ("int8", 0.06)])
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("frames", [1, 13, 70])
def test_logits_and_attention_are_those_of_the_formulas(
    config: WhisperDecoderConfig, frames: int, precision: str, tolerance: float
) -> None:
    weights = Weights(seed=frames)
    decoder = Decoder(config, weights, precision=precision)
    rng = np.random.default_rng(0)
    speech = rng.normal(0, 1, (frames, config.d_model)).astype(np.float32)
    tokens = rng.integers(0, config.tokens, config.positions).tolist()
    logits, attended = run(decoder, speech, tokens)
    wanted, shares = expected(config, weights, speech.astype(np.float64), tokens)
    scale = np.abs(wanted).max()
    assert np.sqrt(((logits - wanted) ** 2).mean()) < tolerance * scale
    np.testing.assert_allclose(attended.sum(-1), 1, rtol=1e-5)
    assert np.abs(attended - shares).max() < tolerance


def test_speech_given_anew_forgets_what_was_decoded() -> None:
    decoder = Decoder(CONFIGS[0], Weights(1), precision="int8")
    rng = np.random.default_rng(1)
    long, short = (rng.normal(0, 1, (n, 48)).astype(np.float32) for n in (90, 7))
    first = run(decoder, short, [3, 4])
    run(decoder, long, [5, 6, 7, 8, 9])
    again = run(decoder, short, [3, 4])
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])


def test_misuse_is_refused() -> None:
    config = CONFIGS[0]
    with pytest.raises(ValueError, match="bf16"):
        Decoder(config, Weights(1), precision="bf16")
    with pytest.raises(ValueError, match="not the shape"):
        Decoder(WhisperDecoderConfig(d_model=10, heads=3), Weights(1), precision="fp32")
    decoder = Decoder(config, Weights(1), precision="fp32")
    with pytest.raises(RuntimeError, match="no speech"):
        decoder.step(0)
    for frames in (np.zeros((0, 48)), np.zeros((3, 47)), np.full((3, 48), np.nan)):
        with pytest.raises(ValueError, match="frames must be"):
            decoder.start(frames.astype(np.float32))
    decoder.start(np.zeros((3, 48), np.float32))
    for token in (-1, config.tokens):
        with pytest.raises(ValueError, match="no such token"):
            decoder.step(token)
    for _ in range(config.positions):
        decoder.step(0)
    with pytest.raises(RuntimeError, match="no position left"):
        decoder.step(0)
