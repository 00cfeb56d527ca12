"""The text decoder's kernels against NumPy in float64: token by token, and a whole text at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from other_isa import run_again

from asa_engine import _kernels, kernels
from asa_engine.kernels import reference
from asa_engine.kernels.decoder import Decoder, Forced
from asa_engine.nn.config import WhisperDecoderConfig

CONFIGS = [
    WhisperDecoderConfig(d_model=48, layers=2, heads=3, ffn=80, tokens=101, positions=12),
    WhisperDecoderConfig(d_model=160, layers=1, heads=2, ffn=300, tokens=64, positions=9),
    WhisperDecoderConfig(d_model=12, layers=3, heads=1, ffn=7, tokens=5, positions=8),
]
# Longer than a few tiles, and a vocabulary of more than two parts.
LONG = WhisperDecoderConfig(d_model=66, layers=2, heads=3, ffn=40, tokens=2100, positions=61)


# float32 sums of up to 300 products of size 1 leave 1e-5. In int8 each of some ten layers adds
# rounding of a half in 127 of the largest of 128 weights and a half in 255 of the inputs.
TOLERANCES = [("fp32", 5e-5), ("int8", 0.06)]


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


def run(
    decoder: Decoder, speech: NDArray[np.float32], tokens: list[int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    decoder.start(speech)
    steps = [decoder.step(token) for token in tokens]
    return np.stack([s[0] for s in steps]), np.stack([s[1] for s in steps])


@pytest.mark.parametrize(("precision", "tolerance"), TOLERANCES)
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
    states, shares = reference.decode(config, weights.tensors, speech, tokens)
    wanted = states @ weights.tensors["embeddings/weight"].T
    scale = np.abs(wanted).max()
    assert np.sqrt(((logits - wanted) ** 2).mean()) < tolerance * scale
    np.testing.assert_allclose(attended.sum(-1), 1, rtol=1e-5)
    assert np.abs(attended - shares).max() < tolerance


def random_case(
    config: WhisperDecoderConfig, frames: int, count: int
) -> tuple[NDArray[np.float32], list[int]]:
    rng = np.random.default_rng([frames, count])
    speech = rng.normal(0, 1, (frames, config.d_model)).astype(np.float32)
    return speech, rng.integers(0, config.tokens, count).tolist()


def forced(
    decoder: Decoder, speech: NDArray[np.float32], tokens: list[int], prompt: int = 1
) -> Forced:
    decoder.start(speech)
    return decoder.force(tokens, prompt, [0])


@pytest.mark.parametrize(("precision", "tolerance"), TOLERANCES)
@pytest.mark.parametrize("config", [*CONFIGS, LONG])
@pytest.mark.parametrize(("frames", "prompt"), [(1, 1), (37, 2), (70, 3)])
def test_a_forced_text_is_judged_as_by_the_formulas(
    config: WhisperDecoderConfig, frames: int, prompt: int, precision: str, tolerance: float
) -> None:
    weights = Weights(seed=frames)
    decoder = Decoder(config, weights, precision=precision)
    heads = list(range(0, config.layers * config.heads, 2))
    for count in (prompt + 1, config.positions + 1):
        speech, tokens = random_case(config, frames, count)
        decoder.start(speech)
        found = decoder.force(tokens, prompt, heads)
        wanted = reference.force(config, weights.tensors, speech, tokens, prompt, heads)
        log_p = wanted.pop("log_p")
        scale = tolerance * np.ptp(log_p, axis=1).max()
        for name in ("own", "best", "entropy"):
            error = getattr(found, name) - wanted[name]
            assert np.sqrt((error**2).mean()) < scale, name
        for name in ("attended", "attended_peak", "states"):
            assert np.abs(getattr(found, name) - wanted[name]).max() < 10 * tolerance, name
        assert np.abs(found.attended_entropy - wanted["attended_entropy"]).max() < 5 * tolerance
        # Those that are as likely but for rounding may stand either way.
        near, own = 10 * scale, wanted["own"][:, None]
        assert (found.rank >= (log_p > own + near).sum(1)).all()
        assert (found.rank <= (log_p > own - near).sum(1)).all()
        rows = np.arange(len(log_p))
        assert (found.other != tokens[prompt:]).all()
        assert (log_p[rows, found.other] > wanted["best"] - near).all()


def test_forcing_says_what_steps_say() -> None:
    config = CONFIGS[1]
    decoder = Decoder(config, Weights(3), precision="fp32")
    speech, tokens = random_case(config, 50, config.positions + 1)
    logits, attended = run(decoder, speech, tokens[:-1])
    found = decoder.force(tokens, 1, [1])
    log_p = logits - np.log(np.exp(logits.astype(np.float64)).sum(1, keepdims=True))
    own = log_p[np.arange(len(log_p)), tokens[1:]]
    np.testing.assert_allclose(found.own, own, atol=2e-5)
    np.testing.assert_allclose(found.attended, attended[:, 1], atol=1e-5)
    # A step after a forced text begins anew.
    np.testing.assert_array_equal(decoder.step(tokens[0])[0], logits[0])


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_speech_heard_piece_by_piece_gives_the_same_bits(precision: str) -> None:
    """Frames given before keep their keys and values; those given instead of others do not."""
    config = CONFIGS[0]
    decoder = Decoder(config, Weights(5), precision=precision)
    speech, tokens = random_case(config, 2100, 8)  # more than there is room for at first
    other = speech.copy()
    other[30, 0] += 1
    for pieces in ([5, 40, 41, 96, 97], [200, 400, 590], [60, 25, 24, 7, 60], [1600, 2100], [1500]):
        for length in pieces:
            for heard in (speech, other) if length == 60 else (speech,):
                fresh = Decoder(config, Weights(5), precision=precision)
                for found, wanted in zip(
                    forced(decoder, heard[:length], tokens),
                    forced(fresh, heard[:length], tokens),
                    strict=True,
                ):
                    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_speech_that_overflows_hurts_only_itself(precision: str) -> None:
    config = CONFIGS[0]
    decoder = Decoder(config, Weights(6), precision=precision)
    speech, tokens = random_case(config, 33, 8)
    wanted = forced(decoder, speech, tokens)
    lost = forced(decoder, np.full((70, config.d_model), 3e38, np.float32), tokens)
    assert np.isnan(lost.own).all()
    for found, expected in zip(forced(decoder, speech, tokens), wanted, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_misuse_of_forcing_is_refused() -> None:
    config = CONFIGS[0]
    decoder = Decoder(config, Weights(1), precision="fp32")
    with pytest.raises(RuntimeError, match="no speech"):
        decoder.force([1, 2], 1)
    decoder.start(np.zeros((3, 48), np.float32))
    for tokens, prompt in (
        ([], 1),
        ([1], 1),
        ([1, 2], 0),
        ([1, 2], -1),
        ([1, 2], 2),
        ([1] * 14, 1),
    ):
        with pytest.raises(ValueError, match="prompt"):
            decoder.force(tokens, prompt)
    for token in (-1, config.tokens):
        with pytest.raises(ValueError, match="no such token"):
            decoder.force([1, token], 1)
    for head in (-1, config.layers * config.heads):
        with pytest.raises(ValueError, match="no such head"):
            decoder.force([1, 2], 1, [head])
    assert decoder.force([1, 2], 1).attended.tolist() == [[0, 0, 0]]


def test_a_vocabulary_of_one() -> None:
    config = WhisperDecoderConfig(d_model=8, layers=1, heads=1, ffn=4, tokens=1, positions=4)
    decoder = Decoder(config, Weights(1), precision="fp32")
    found = forced(decoder, np.ones((2, 8), np.float32), [0, 0])
    assert found.other == [-1]
    assert found.best == [-np.inf]
    np.testing.assert_allclose([found.own, found.entropy], 0, atol=1e-6)


@pytest.mark.parametrize("isa", kernels.available_isas())
def test_every_isa(isa: str) -> None:
    run_again(__file__, isa)


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


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_embeddings_read_by_rows_are_those_read_whole(precision: str) -> None:
    config = WhisperDecoderConfig(d_model=64, layers=1, heads=2, ffn=64, tokens=2075, positions=8)
    weights = Weights(seed=5)
    read: list[tuple[int, int]] = []

    def rows(name: str, shape: tuple[int, ...], first: int, end: int) -> NDArray[np.float32]:
        assert shape == weights.tensors[name].shape
        read.append((first, end))
        return weights.tensors[name][first:end]

    whole = Decoder(config, weights, precision=precision)
    again = Decoder(config, lambda name, _: weights.tensors[name], precision=precision, rows=rows)
    assert read == [(0, 1024), (1024, 2048), (2048, 2075)]
    speech = np.random.default_rng(1).normal(0, 1, (9, 64)).astype(np.float32)
    for got, wanted in zip(
        run(again, speech, [3, 2074]), run(whole, speech, [3, 2074]), strict=True
    ):
        np.testing.assert_array_equal(got, wanted)


def test_tokens_come_in_order_and_whole() -> None:
    decoder = _kernels.Decoder(64, 2, 64, 1, 3000, 8, "fp32")
    part = np.zeros((1024, 64), np.float32)
    for first, wrong in ((1024, part), (0, part[:1000]), (0, np.zeros((0, 64), np.float32))):
        with pytest.raises(RuntimeError, match="in order"):
            decoder.set_tokens(first, wrong)
    decoder.set_tokens(0, part)
    with pytest.raises(RuntimeError, match="in order"):
        decoder.set_tokens(0, part)
    with pytest.raises(ValueError, match="width"):
        decoder.set_tokens(1024, np.zeros((1024, 63), np.float32))
    with pytest.raises(ValueError, match="width"):
        decoder.set_tokens(1024, np.zeros((3001, 64), np.float32))
