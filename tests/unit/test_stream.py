"""One audio, one score: what a stream may and may not depend on, on the fake backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audio_samples import RATE_HZ, silence, speech
from hypothesis import given, settings
from hypothesis import strategies as st

import asa_engine as asa
from asa_engine.evaluation.sessions import INCOMPLETE, assess_session, read_sessions


@pytest.fixture
def engine(fake_bundle: Path) -> asa.Engine:
    return asa.load(fake_bundle, backend="fake", threads=1)


@pytest.fixture(scope="module")
def answer() -> np.ndarray:
    return speech(3.3, seed=3)


def _values(result: asa.Assessment) -> dict[str, float]:
    return {name: score.value for name, score in result.scores.items()}


def _streamed(engine: asa.Engine, samples: np.ndarray, sizes: list[int]) -> asa.Assessment:
    """Feed chunks of the sizes given, then whatever is left in one."""
    with engine.stream() as stream:
        start = 0
        for size in sizes:
            stream.feed(samples[start : start + size])
            start += size
        stream.feed(samples[start:])
        return stream.finish()


@pytest.mark.parametrize("chunk_ms", [1, 7, 20, 100, 999, 1000, 1001, 10_000])
def test_chunk_size_cannot_matter(engine: asa.Engine, answer: np.ndarray, chunk_ms: int) -> None:
    offline = engine.assess((answer, RATE_HZ))
    streamed = _streamed(engine, answer, [chunk_ms * 16] * (len(answer) // (chunk_ms * 16)))
    assert _values(streamed) == _values(offline)
    assert streamed.validity == offline.validity
    assert streamed.receipt == offline.receipt


def test_random_chunks_cannot_matter(engine: asa.Engine, answer: np.ndarray) -> None:
    expected = _values(engine.assess((answer, RATE_HZ)))

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.integers(0, 20_000), max_size=200))
    def check(sizes: list[int]) -> None:
        assert _values(_streamed(engine, answer, sizes)) == expected

    check()


def test_int16_and_float32_are_the_same_sound(engine: asa.Engine, answer: np.ndarray) -> None:
    as_int16 = (answer * 32767).astype(np.int16)
    as_float = as_int16.astype(np.float32) / 32768
    a, b = engine.assess((as_int16, RATE_HZ)), engine.assess((as_float, RATE_HZ))
    assert a.receipt["audio_sha256"] == b.receipt["audio_sha256"]
    assert _values(a) == _values(b)


def test_provisional_scores_come_when_a_window_closes(
    engine: asa.Engine, answer: np.ndarray
) -> None:
    with engine.stream() as stream:
        stream.feed(answer[: RATE_HZ - 1])
        assert stream.provisional is None
        stream.feed(answer[RATE_HZ - 1 : RATE_HZ])
        first = stream.provisional
        assert first is not None
        assert first["fluency"].sd == 2.0
        stream.feed(answer[RATE_HZ:])
        final = stream.finish()
    assert final.scores["fluency"].sd == pytest.approx(2.0 - (3.3 - 1.0) / 4.0)
    assert stream.provisional == final.scores
    assert stream.finish() is final


def test_an_ended_stream_takes_no_more(engine: asa.Engine, answer: np.ndarray) -> None:
    stream = engine.stream()
    stream.feed(answer)
    stream.finish()
    with pytest.raises(asa.UsageError, match="finished"):
        stream.feed(answer)
    with engine.stream() as dropped:
        dropped.feed(answer)
    with pytest.raises(asa.UsageError, match="closed"):
        dropped.feed(answer)
    with pytest.raises(asa.UsageError, match="closed"):
        dropped.finish()


def test_streams_can_be_interleaved(engine: asa.Engine, answer: np.ndarray) -> None:
    other = speech(2.0, seed=9)
    with engine.stream() as a, engine.stream() as b:
        for start in range(0, len(answer), 3000):
            a.feed(answer[start : start + 3000])
            b.feed(other[start : start + 3000])
        both = _values(a.finish()), _values(b.finish())
    alone = _values(engine.assess((answer, RATE_HZ))), _values(engine.assess((other, RATE_HZ)))
    assert both == alone


def test_audio_that_cannot_be_judged_has_no_scores(engine: asa.Engine) -> None:
    result = engine.assess((silence(3.0), RATE_HZ))
    assert not result.validity.scorable
    assert result.validity.reasons == ("silence",)
    assert result.scores == {}
    assert result.prior is None


def test_nothing_at_all_is_an_error(engine: asa.Engine) -> None:
    with engine.stream() as stream, pytest.raises(asa.AudioError, match="0 samples"):
        stream.finish()


def test_embedding_has_fifty_frames_a_second(engine: asa.Engine, answer: np.ndarray) -> None:
    embedding = engine.embed((answer, RATE_HZ))
    assert embedding.frame_rate_hz == 50.0
    assert embedding.frames.dtype == np.float32
    assert embedding.frames.shape[0] == 165


def _write_session(folder: Path, parts: str) -> Path:
    import soundfile

    soundfile.write(folder / "good.wav", speech(2.0, seed=5), RATE_HZ)
    soundfile.write(folder / "other.wav", speech(2.0, seed=6), RATE_HZ)
    soundfile.write(folder / "silent.wav", silence(2.0), RATE_HZ)
    path = folder / "sessions.jsonl"
    path.write_text(f'{{"session": "s1", "parts": {parts}}}\n')
    return path


def _assess(engine: asa.Engine, folder: Path, parts: dict[str, list[list[str]]]) -> Any:
    stated = [{"part": name, "responses": responses} for name, responses in parts.items()]
    return assess_session(engine, read_sessions(_write_session(folder, json.dumps(stated)))[0])


def test_a_session_is_the_mean_of_its_parts(engine: asa.Engine, tmp_path: Path) -> None:
    parts = {"P1": [["good.wav"], ["other.wav"]], "P3": [["good.wav", "other.wav"]]}
    result = _assess(engine, tmp_path, parts)
    first, second = (p.scores["total"].value for p in result.parts)
    alone = [engine.assess(tmp_path / n).scores["total"].value for n in ("good.wav", "other.wav")]
    assert first == pytest.approx(sum(alone) / 2)
    assert result.scores["total"].value == pytest.approx((first + second) / 2)
    assert result.validity.reasons == ()
    assert len(result.responses) == 3
    assert result.responses[2].timing.audio_s == pytest.approx(4.3)


def test_a_missing_response_is_left_out_and_said(engine: asa.Engine, tmp_path: Path) -> None:
    parts = {"P1": [["good.wav"], ["silent.wav"], ["absent.wav"]], "P3": [["silent.wav"]]}
    result = _assess(engine, tmp_path, parts)
    assert [(p.scored, p.responses) for p in result.parts] == [(1, 3), (0, 1)]
    assert result.parts[1].scores == {}
    assert result.validity.scorable
    assert result.validity.reasons == (INCOMPLETE,)
    alone = engine.assess(tmp_path / "good.wav").scores["total"].value
    assert result.scores["total"].value == pytest.approx(alone)


@pytest.mark.parametrize(
    "parts", ["[]", "3", '[{"part": "P1"}]', '[{"part": "P1", "responses": [["../x.wav"]]}]']
)
def test_a_bad_session_names_file_and_line(tmp_path: Path, parts: str) -> None:
    with pytest.raises(asa.ManifestError, match=r"sessions\.jsonl, line 1"):
        read_sessions(_write_session(tmp_path, parts))
