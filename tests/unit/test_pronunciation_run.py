"""The pronunciation grader's run: whole recordings, streams, texts that cannot be, its settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from pronunciation_samples import CONFIG, write_grader

from asa_engine.artifacts.safetensors import Tensors
from asa_engine.assessment import WORD_ERRORS
from asa_engine.audio import read_audio
from asa_engine.engine import load
from asa_engine.errors import CheckpointError, ManifestError, UsageError
from asa_engine.graders.pronunciation.again import AGAIN
from asa_engine.graders.pronunciation.config import PronunciationConfig
from asa_engine.graders.pronunciation.model import TorchStages
from asa_engine.graders.pronunciation.runtime import PronunciationRun
from asa_engine.graders.pronunciation.stages import NativeStages
from asa_engine.profiling import StageClock
from asa_engine.request import Request
from asa_engine.training.pronunciation.trainer import PronunciationTraining

DEMO = Path(__file__).parents[2] / "examples" / "audio" / "demo.flac"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    folder = write_grader(tmp_path_factory.mktemp("pronunciation") / "grader")
    return load(folder, backend="torch", threads=1)


def test_a_reading_has_scores_words_and_sounds_with_their_times(engine) -> None:  # type: ignore[no-untyped-def]
    result = engine.assess(DEMO, text="The thing is there.")
    assert set(result.scores) == {"accuracy", "fluency", "prosodic", "total", "completeness"}
    assert [word.text for word in result.words] == ["The", "thing", "is", "there"]
    assert all(word.error in WORD_ERRORS for word in result.words)
    last = 0.0
    for word in result.words:
        assert word.start_s is not None
        assert word.end_s is not None
        assert last <= word.start_s < word.end_s <= result.timing.audio_s + 1e-3
        last = word.end_s - 1e-9
        assert [phone.phone for phone in word.phones]
        assert all(phone.ipa for phone in word.phones)
    assert result.features["words_per_minute"] > 0
    json.dumps(result.to_dict())


def test_a_stream_gives_what_the_whole_recording_gives(engine) -> None:  # type: ignore[no-untyped-def]
    from asa_engine.audio import read_audio

    samples = read_audio(DEMO)
    for text in ("The thing is there.", None):
        whole = engine.assess((samples, 16_000), text=text)
        with engine.stream(text=text) as stream:
            for start in range(0, len(samples), 3001):
                stream.feed(samples[start : start + 3001])
            streamed = stream.finish()
        assert streamed.scores == whole.scores
        assert streamed.words == whole.words


def test_what_a_text_is_over_silence_is_known_before_anything_is_said(tmp_path: Path) -> None:
    stages = TorchStages.load(write_grader(tmp_path / "grader"))
    asked: list[tuple[int, ...]] = []
    own = stages.write_quiet

    def counted(tokens: tuple[int, ...]) -> NDArray[np.float32]:
        asked.append(tuple(tokens))
        return own(tokens)

    stages.write_quiet = counted  # type: ignore[method-assign, assignment]
    run = PronunciationRun(CONFIG, stages, StageClock(), Request(text="The thing is there."))
    assert len(asked) == 1
    run.push(np.random.default_rng(0).normal(0, 0.05, 30_000).astype(np.float32))
    grade = run.finish()
    assert grade is not None
    assert grade.scores
    assert len(asked) == 1


def test_without_a_text_there_are_four_scores(engine) -> None:  # type: ignore[no-untyped-def]
    result = engine.assess(DEMO)
    assert set(result.scores) == {"accuracy", "fluency", "prosodic", "total"}
    assert not result.words


@pytest.mark.parametrize("text", ["", "\u65e5\u672c\u8a9e", "word " * 2000])
def test_a_text_that_cannot_be_read_is_one_clear_error(engine, text: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError):
        engine.assess(DEMO, text=text)


def test_a_text_of_more_sounds_than_there_are_frames_is_not_the_recordings(engine) -> None:  # type: ignore[no-untyped-def]
    result = engine.assess(DEMO, text="incomprehensibilities " * 60)
    assert not result.validity.scorable
    assert "text_mismatch" in result.validity.reasons


def test_recordings_in_which_nothing_is_heard_cannot_be_trained_on() -> None:
    training = PronunciationTraining.__new__(PronunciationTraining)
    training.__dict__["reads"] = {"told": [], "words": []}
    training.recipe = SimpleNamespace(judge=None)  # type: ignore[assignment]
    training.studio = SimpleNamespace(readings=[None] * 7)  # type: ignore[assignment]
    with pytest.raises(ManifestError, match="hardly a phone was heard in all 7"):
        training._fit_judge("free", 0)


def test_a_configuration_is_read_back_as_it_was_written() -> None:
    assert PronunciationConfig.from_dict(json.loads(json.dumps(CONFIG.to_dict()))) == CONFIG


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("alignment_heads", [[0, 9]]),
        ("alignment_heads", []),
        ("window_s", 4.01),
        ("thresholds", {"odd": 1.0}),
        ("word_sd", [[2.0, 1.0], [1.0, 1.0]]),
        ("sd_by_score", {"odd": []}),
        ("max_text_s", 0.0),
        ("decoder", {"d_model": 64, "heads": 2}),
    ],
)
def test_a_wrong_configuration_names_its_field(field: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=field):
        PronunciationConfig.from_dict({**CONFIG.to_dict(), field: value})


def test_only_a_text_has_the_decoder_packed(tmp_path: Path) -> None:
    engine = load(write_grader(tmp_path / "grader"), backend="torch", threads=1)
    bundle = engine.bundle
    config = PronunciationConfig.from_dict(bundle.config)
    file = Tensors(bundle.path / "weights.safetensors")
    vocabulary = engine._stages.vocabulary
    stages = NativeStages(config, file, vocabulary, precision="int8", threads=1)
    speech = np.random.default_rng(0).normal(0, 0.05, 30_000).astype(np.float32)
    for text, is_open in ((None, False), ("The thing is there.", True)):
        run = PronunciationRun(config, stages, StageClock(), Request(text=text))
        run.push(speech)
        run.finish()
        assert (stages._decoder is not None) is is_open


def test_the_last_layer_is_what_is_embedded(engine) -> None:  # type: ignore[no-untyped-def]
    found = engine.embed(DEMO)
    assert found.frame_rate_hz == 50.0
    assert found.frames.shape[1] == CONFIG.encoder.d_model


DEMO_TEXT = """Last summer I went to the mountains with my family. We walked for three hours,
and then we found a small lake. The water was cold."""


def test_a_text_that_is_read_again_is_judged_once_and_says_so() -> None:
    engine = load("pronunciation", threads=1)
    samples = read_audio(DEMO)
    once = engine.assess((samples, 16_000), text=DEMO_TEXT)
    assert once.validity.reasons == ()
    twice = engine.assess((np.concatenate((samples, samples)), 16_000), text=DEMO_TEXT)
    assert twice.validity.scorable
    assert twice.validity.reasons == (AGAIN,)
    again = [word for word in twice.words if word.error == "repetition"]
    judged = [word for word in twice.words if word.error != "repetition"]
    assert [word.text for word in again] == [word.text for word in once.words]
    assert [word.text for word in judged] == [word.text for word in once.words]
    # Whichever was judged, words stand in the order of their times, within the recording.
    starts = [word.start_s for word in twice.words]
    assert starts == sorted(starts)
    assert again[0].start_s is not None
    assert judged[0].start_s is not None
    assert abs(again[0].start_s - judged[0].start_s) == pytest.approx(len(samples) / 16_000, abs=1)
    # A whole point lower where the second reading is taken for slowness.
    for name, score in once.scores.items():
        assert twice.scores[name].value == pytest.approx(score.value, abs=0.5)


def test_a_text_that_is_read_three_times_is_judged_once() -> None:
    engine = load("pronunciation", threads=1)
    samples = np.tile(read_audio(DEMO)[: 4 * 16_000], 3)
    text = "Last summer I went to the mountains with my family."
    result = engine.assess((samples, 16_000), text=text)
    assert result.validity.reasons == (AGAIN,)
    said = [word.text for word in result.words]
    assert said == text.rstrip(".").split() * 3
    assert sum(word.error == "repetition" for word in result.words) == 20


def test_speech_behind_a_text_is_no_reading_of_it() -> None:
    engine = load("pronunciation", threads=1)
    samples = read_audio(DEMO)
    result = engine.assess(
        (samples, 16_000), text="Last summer I went to the mountains with my family."
    )
    assert AGAIN not in result.validity.reasons


@pytest.mark.parametrize("text", [None, DEMO_TEXT])
def test_scores_are_the_same_for_every_number_of_blas_threads(text: str | None) -> None:
    script = (
        "import json, sys, asa_engine\n"
        "engine = asa_engine.load('pronunciation', threads=1)\n"
        "text = json.loads(sys.argv[2])\n"
        "texts = {} if text is None else {'text': text}\n"
        "print(json.dumps(engine.assess(sys.argv[1], **texts).to_dict()['scores']))\n"
    )
    found = []
    for threads in ("1", "2"):
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        command = [sys.executable, "-c", script, str(DEMO), json.dumps(text)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found.append(done.stdout)
    assert json.loads(found[0])
    assert found[0] == found[1]
