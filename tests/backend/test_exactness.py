"""One audio, one score: the acoustic bundle on every backend and precision it holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import asa_engine as asa
from asa_engine.audio import read_audio
from asa_engine.audio.intake import heard_samples
from asa_engine.bundle import Bundle
from asa_engine.runtimes import runtime

RATE_HZ = 16_000
# What the contract allows between two ways of feeding one audio, on a scale of 0 to 10.
SAME_SCORE = 1e-4


def _variants() -> list[tuple[str, str]]:
    return [v for v in Bundle.open("acoustic").variants() if runtime(v[0]).availability().usable]


@pytest.fixture(scope="module")
def answer(corpus: Path) -> np.ndarray:
    """Just over three windows of one learner's speech, so that the last one is open."""
    files = sorted((corpus / "audio").glob("00001*.flac"))[:5]
    return np.concatenate([read_audio(path) for path in files])[: int(13.37 * RATE_HZ)]


@pytest.fixture(scope="module", params=_variants(), ids="/".join)
def variant(request: pytest.FixtureRequest) -> tuple[str, str]:
    found: tuple[str, str] = request.param
    return found


@pytest.fixture(scope="module")
def engine(variant: tuple[str, str]) -> asa.Engine:
    return asa.load("acoustic", backend=variant[0], precision=variant[1], threads=1)


@pytest.fixture(scope="module")
def offline(engine: asa.Engine, answer: np.ndarray) -> asa.Assessment:
    return engine.assess((answer, RATE_HZ))


def _values(result: asa.Assessment) -> np.ndarray:
    assert result.prior is not None
    scores = [score.value for score in result.scores.values()]
    return np.array([*scores, *result.prior.probabilities])


def _streamed(engine: asa.Engine, chunks: Iterator[np.ndarray], rate_hz: int) -> asa.Assessment:
    with engine.stream(rate_hz) as stream:
        for chunk in chunks:
            stream.feed(chunk)
        return stream.finish()


def _cut(samples: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (samples[start : start + size] for start in range(0, len(samples), size))


@pytest.mark.parametrize("chunk_ms", [1, 30, 100, 3999, 4000, 4001, 10_000])
def test_streamed_equals_offline(
    engine: asa.Engine, answer: np.ndarray, offline: asa.Assessment, chunk_ms: int
) -> None:
    streamed = _streamed(engine, _cut(answer, chunk_ms * RATE_HZ // 1000), RATE_HZ)
    np.testing.assert_allclose(_values(streamed), _values(offline), atol=SAME_SCORE, rtol=0)
    assert streamed.receipt["audio_sha256"] == offline.receipt["audio_sha256"]


def test_random_chunks(engine: asa.Engine, answer: np.ndarray, offline: asa.Assessment) -> None:
    rng = np.random.default_rng(7)
    for _ in range(3):
        at = np.sort(rng.integers(0, len(answer), size=40))
        streamed = _streamed(engine, iter(np.split(answer, at)), RATE_HZ)
        np.testing.assert_allclose(_values(streamed), _values(offline), atol=SAME_SCORE, rtol=0)


@pytest.mark.parametrize("rate_hz", [8_000, 44_100, 48_000])
def test_other_rates_stream_as_they_read(
    engine: asa.Engine, answer: np.ndarray, rate_hz: int
) -> None:
    import soxr

    samples = soxr.resample(answer, RATE_HZ, rate_hz)
    whole = engine.assess((samples, rate_hz))
    streamed = _streamed(engine, _cut(samples, 777), rate_hz)
    np.testing.assert_allclose(_values(streamed), _values(whole), atol=SAME_SCORE, rtol=0)


def test_two_runs_are_bit_equal(
    engine: asa.Engine, answer: np.ndarray, offline: asa.Assessment
) -> None:
    again = engine.assess((answer, RATE_HZ))
    np.testing.assert_array_equal(_values(again), _values(offline))
    assert again.receipt == offline.receipt


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_do_not_move_scores(
    variant: tuple[str, str], answer: np.ndarray, offline: asa.Assessment, threads: int
) -> None:
    engine = asa.load("acoustic", backend=variant[0], precision=variant[1], threads=threads)
    result = engine.assess((answer, RATE_HZ))
    np.testing.assert_allclose(_values(result), _values(offline), atol=SAME_SCORE, rtol=0)


def test_neighbours_do_not_move_scores(
    variant: tuple[str, str], engine: asa.Engine, answer: np.ndarray, offline: asa.Assessment
) -> None:
    other = answer[::-1].copy()
    with engine.stream() as one, engine.stream() as two:
        for a, b in zip(_cut(answer, 1600), _cut(other, 1600), strict=True):
            one.feed(a)
            two.feed(b)
        two.finish()
        together = one.finish()
    # PyTorch's products depend on where in memory their operands lie.
    tolerance = SAME_SCORE if variant[0] == "torch" else 0.0
    np.testing.assert_allclose(_values(together), _values(offline), atol=tolerance, rtol=0)


def test_the_embedding_is_that_of_the_stream(engine: asa.Engine, answer: np.ndarray) -> None:
    embedding = engine.embed((answer, RATE_HZ))
    # 50 frames a second of what passes the front; the last window's odd mel frame makes one more.
    frames = heard_samples(answer, engine.config.front).size // 320
    assert embedding.frames.shape[0] in (frames, frames + 1)
    assert np.isfinite(embedding.frames).all()
