"""The multi-aspect grader's run, on stages that need no backbone."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from multi_aspect_samples import Analyser, Recogniser, encode, tiny_config, words_of

from asa_engine.assessment import Word
from asa_engine.features.delivery import DeliveryTracker
from asa_engine.graders.multi_aspect import features, runtime
from asa_engine.graders.multi_aspect.features import SpeechFrames, WordFeatures, pool_frames
from asa_engine.graders.multi_aspect.runtime import MultiAspectRun, MultiAspectStages
from asa_engine.profiling import StageClock
from asa_engine.request import Request

CONFIG = tiny_config()
RATE = 16_000


class Judge:
    """Remembers what it was given; its probabilities are a function of it."""

    def __init__(self):
        self.given = None
        self.prompts = []

    def prompt(self, text):
        self.prompts.append(text)
        return np.full(CONFIG.prompt_width, len(text), np.float32), len(text) > 100

    def judge(self, frames, prompt, found: WordFeatures):
        self.given = frames, prompt, found
        means = np.array([frames.mean(), prompt.mean() / 50, found.delivery.mean() / 100])
        powers = np.exp(np.tanh([means, means]))
        return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def voiced(seconds: float) -> np.ndarray:
    t = np.arange(int(seconds * RATE)) / RATE
    return sum(0.2 / k * np.sin(2 * np.pi * 150 * k * t) for k in range(1, 6)).astype(np.float32)


def graded(samples, words=None, request=None, reasons=(), chunk=None, judge=None):
    judge = judge or Judge()
    recogniser = Recogniser(words_of(6) if words is None else words, reasons)
    stages = MultiAspectStages(recogniser, encode, judge, Analyser())
    run = MultiAspectRun(CONFIG, stages, StageClock(), request or Request(prompt="say it"))
    for start in range(0, max(len(samples), 1), chunk or max(len(samples), 1)):
        run.push(samples[start : start + chunk] if chunk else samples)
        assert run.provisional() is None
    return run.finish(), judge


def test_a_grade_has_scores_words_features_and_transcript():
    grade, judge = graded(voiced(2.2))
    assert grade.scorable
    assert grade.reasons == ()
    assert set(grade.scores) == {"fluency", "total"}
    score = grade.scores["total"]
    assert sum(score.probabilities.values()) == pytest.approx(1, abs=1e-6)
    wanted = np.dot(list(score.probabilities.values()), CONFIG.class_scores)
    assert score.value == pytest.approx(wanted, abs=1e-9)
    assert list(score.probabilities) == ["low", "middle", "high"]
    assert grade.transcript == "w0 w1 w2 w3 w4 w5"
    assert [word.text for word in grade.words] == grade.transcript.split()
    assert grade.features["words"] == 6
    assert grade.features["pitch_median_hz"] == pytest.approx(150, rel=0.01)
    frames, prompt, found = judge.given
    # 1 s windows of 50 frames, averaged by five; 0.2 s are left for the last one.
    assert frames.shape == (10 + 10 + 2, CONFIG.frame_width)
    assert prompt.shape == (CONFIG.prompt_width,)
    assert found.language.shape == (6, 263)


@pytest.mark.parametrize("chunk", [1600, 7777, 160])
def test_streamed_equals_offline(chunk):
    samples = voiced(2.3)
    assert graded(samples, chunk=chunk)[0] == graded(samples)[0]


def test_prompt_and_text_are_both_taken_and_a_long_one_is_cut_and_flagged():
    grade, judge = graded(voiced(1.5), request=Request(text="read me", prompt="the task"))
    assert judge.prompts == ["the task read me"]
    grade, judge = graded(voiced(1.5), request=Request(prompt="why " * 2500))
    assert len(judge.prompts[0]) == 9999
    assert grade.scorable
    assert "prompt_cut" in grade.reasons


@pytest.mark.parametrize("request_", [Request(), Request(prompt="😀"), Request(text=" ")])
def test_without_a_prompt_it_is_zeros_and_said(request_):
    grade, judge = graded(voiced(1.5), request=request_)
    assert judge.prompts == []
    assert not judge.given[1].any()
    assert grade.scorable
    assert "no_prompt" in grade.reasons


@pytest.mark.parametrize(
    ("words", "reasons"),
    [([], ("no_words",)), ([Word("a")], ()), ([Word("a", math.nan, 1.0, 0.5)], ())],
)
def test_without_a_usable_word_nothing_is_scored(words, reasons):
    grade, judge = graded(voiced(1.5), words=words, reasons=reasons)
    assert not grade.scorable
    assert grade.scores == {}
    assert grade.reasons.count("no_words") == 1
    assert judge.given is None


@pytest.mark.parametrize("reason", runtime.FATAL)
def test_words_that_the_recogniser_does_not_believe_are_not_scored(reason):
    grade, _ = graded(voiced(1.5), reasons=(reason,))
    assert not grade.scorable
    assert grade.scores == {}
    assert reason in grade.reasons


def test_impossible_times_are_mended_and_said():
    words = [Word("b", 1.0, 1.4, 0.5), Word("a", 0.2, 0.6, 0.5), Word("c", 1.2, 9.0, 0.5)]
    grade, _ = graded(voiced(2.0), words=words)
    times = [time for word in grade.words for time in (word.start_s, word.end_s)]
    assert times == sorted(times)
    assert times[-1] <= 2.0
    assert grade.reasons == ("word_times_mended",)


def test_whispered_speech_is_scored_from_finite_features():
    noise = np.random.default_rng(1).normal(0, 1, 2 * RATE)
    grade, judge = graded((0.1 * np.diff(noise, prepend=0)).astype(np.float32))
    assert grade.scorable
    assert np.isfinite(judge.given[2].delivery).all()
    # Noise may sound voiced for a moment; a word said in it is never all voice.
    assert grade.features["voiced_share"] < 0.2


class Unvoiced(DeliveryTracker):
    """Finds no pitch anywhere."""

    def finish(self):
        track = super().finish()
        return replace(track, f0_hz=np.zeros_like(track.f0_hz))


def test_no_pitch_throughout_is_zeros_and_said(monkeypatch):
    monkeypatch.setattr(runtime, "DeliveryTracker", Unvoiced)
    grade, judge = graded(voiced(2.0))
    assert grade.scorable
    assert not judge.given[2].delivery[:, :7].any()
    assert judge.given[2].delivery[:, 7].all()
    assert "no_pitch" in grade.reasons
    assert grade.features["pitch_found"] == 0
    assert all(math.isfinite(value) for value in grade.features.values())


@pytest.mark.parametrize("count", [1, 500])
def test_one_word_and_five_hundred(count):
    seconds = max(1.0, count * 0.05)
    grade, judge = graded(voiced(seconds), words=words_of(count, 0.05))
    assert grade.scorable
    assert judge.given[2].delivery.shape == (count, 16)


def test_more_words_than_attention_bears_are_left_out_and_said(monkeypatch):
    monkeypatch.setattr(runtime, "MAX_WORDS", 4)
    grade, judge = graded(voiced(2.0))
    assert judge.given[2].delivery.shape == (4, 16)
    assert "many_words" in grade.reasons
    assert grade.transcript == "w0 w1 w2 w3 w4 w5"


def test_audio_too_short_for_a_window_gives_nothing():
    assert graded(np.zeros(100, np.float32))[0] is None


def test_long_speech_is_averaged_further(monkeypatch):
    monkeypatch.setattr(features, "MAX_FRAMES", 8)
    speech = SpeechFrames(CONFIG, encode, StageClock())
    speech.push(voiced(2.0))
    frames = speech.finish()
    assert frames.shape == (7, CONFIG.frame_width)


def test_pooled_frames_are_means_of_neighbours():
    frames = np.arange(14, dtype=np.float32).reshape(7, 2)
    pooled = pool_frames(frames, 3)
    np.testing.assert_allclose(pooled, [[2, 3], [8, 9], [12, 13]])
    np.testing.assert_array_equal(pool_frames(frames, 1), frames)
