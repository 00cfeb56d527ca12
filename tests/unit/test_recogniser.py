"""The recogniser without a model: windows, guards, words, transcripts of a manifest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from asa_engine.assessment import Word
from asa_engine.errors import CheckpointError
from asa_engine.evaluation.manifest import read_manifest
from asa_engine.recogniser import Recogniser, Transcript, windows
from asa_engine.recogniser.guards import Doubts, compression_ratio, loop_start
from asa_engine.recogniser.vocabulary import Vocabulary
from asa_engine.recogniser.whisper import Heard
from asa_engine.recogniser.windows import MAX_WINDOW_SAMPLES, SpeechWindow, SpeechWindows
from asa_engine.training import transcripts as corpus

RATE = 16_000
SURE = Doubts(log_probability=-0.3, no_speech=0.01)


class LevelDetector:
    """Takes loud frames for speech, so that tests can say where speech is."""

    def probability(self, samples: NDArray[np.float32]) -> float:
        assert samples.shape == (576,)
        return 0.9 if np.abs(samples[64:]).mean() > 0.1 else 0.1


class EchoModel:
    """Hears one word a second, and remembers what it was given."""

    def __init__(self, *texts: str, doubts: Doubts = SURE) -> None:
        self.given: list[NDArray[np.float32]] = []
        self.texts = texts
        self.doubts = doubts

    def hear(self, samples: NDArray[np.float32]) -> Heard:
        self.given.append(samples)
        texts = self.texts or tuple(f"w{i}" for i in range(max(1, len(samples) // RATE)))
        last = len(samples) / RATE
        words = tuple(
            Word(text, min(i, last), min(i + 1, last), 0.5) for i, text in enumerate(texts)
        )
        return Heard(" ".join(texts), words, self.doubts)


@pytest.fixture(autouse=True)
def _level_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "SpeechDetector", LevelDetector)


def _audio(*parts: tuple[str, float]) -> NDArray[np.float32]:
    """Speech ("s") and quiet ("q") of so many seconds each; every sample differs."""
    rng = np.random.default_rng(0)
    levels = {"s": 0.5, "q": 0.001}
    pieces = [levels[kind] * rng.choice([-1, 1], round(s * RATE)) for kind, s in parts]
    return (np.concatenate(pieces) + rng.normal(0, 1e-4, sum(map(len, pieces)))).astype(np.float32)


def _windows(audio: NDArray[np.float32], chunk: int) -> list[SpeechWindow]:
    cutter = SpeechWindows()
    found = [w for i in range(0, len(audio), chunk) for w in cutter.push(audio[i : i + chunk])]
    last = cutter.finish()
    return found if last is None else [*found, last]


def test_windows_close_at_pauses_and_lose_no_speech() -> None:
    audio = _audio(("q", 3), ("s", 14), ("q", 0.8), ("s", 5), ("q", 0.3), ("s", 11), ("q", 0.5))
    found = _windows(audio, 4000)
    assert [round(w.start / RATE, 1) for w in found] == [2.1, 17.3]
    assert found[0].start / RATE + found[0].speech_from_s == pytest.approx(3, abs=0.04)
    loud = np.abs(audio) > 0.1
    for window in found:
        end = window.start + len(window.samples)
        np.testing.assert_array_equal(window.samples, audio[window.start : end])
        loud[window.start : end] = False
    assert not loud.any()


def test_speech_without_a_pause_is_cut_all_the_same() -> None:
    found = _windows(_audio(("s", 70)), 999)
    assert [len(w.samples) <= MAX_WINDOW_SAMPLES for w in found] == [True] * len(found)
    assert sum(len(w.samples) for w in found) == 70 * RATE


def test_long_silence_closes_a_short_answer() -> None:
    cutter = SpeechWindows()
    assert len(cutter.push(_audio(("s", 2), ("q", 2.1)))) == 1
    assert cutter.finish() is None


@pytest.mark.parametrize("audio", [_audio(("q", 60)), _audio(("q", 1), ("s", 0.06), ("q", 1))])
def test_silence_and_clicks_are_no_window(audio: NDArray[np.float32]) -> None:
    assert _windows(audio, 512) == []


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 30_000), min_size=1, max_size=40), st.integers(0, 2**32 - 1))
def test_chunks_do_not_matter(chunks: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    audio = _audio(*(("sq"[i % 2], float(s)) for i, s in enumerate(rng.uniform(0.05, 9, 8))))
    whole, cut, start = EchoModel(), EchoModel(), 0
    recognition = Recogniser(cut).start()
    for i in range(10_000):
        chunk = chunks[i % len(chunks)]
        recognition.push(audio[start : start + chunk])
        start += chunk
        if start >= len(audio):
            break
    recognition.push(audio[start:])
    expected = Recogniser(whole).start()
    expected.push(audio)
    assert recognition.finish() == expected.finish()
    assert len(cut.given) == len(whole.given)
    for a, b in zip(cut.given, whole.given, strict=True):
        np.testing.assert_array_equal(a, b)


def test_closed_windows_are_final_and_heard_once() -> None:
    model = EchoModel()
    recognition = Recogniser(model).start()
    recognition.push(_audio(("s", 15), ("q", 1)))
    before = recognition.words
    assert len(model.given) == 1
    assert before
    recognition.push(_audio(("s", 3)))
    assert recognition.words == before
    transcript = recognition.finish()
    assert len(model.given) == 2
    assert transcript.words[: len(before)] == before
    times = [t for word in transcript.words for t in (word.start_s, word.end_s)]
    assert times == sorted(times)
    assert times[-1] <= 19


def test_words_do_not_begin_before_anybody_speaks() -> None:
    recognition = Recogniser(EchoModel("one")).start()
    recognition.push(_audio(("q", 0.9), ("s", 2)))
    (word,) = recognition.finish().words
    assert word.start_s == pytest.approx(0.9, abs=0.04)
    assert word.end_s is not None
    assert word.start_s <= word.end_s


@pytest.mark.parametrize(
    "samples",
    [
        np.array([0.0, np.nan], np.float32),
        np.array([np.inf], np.float32),
        np.zeros(4),
        np.zeros((2, 2), np.float32),
    ],
)
def test_bad_samples_are_refused(samples: NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match="finite float32"):
        Recogniser(EchoModel()).start().push(samples)


def test_nothing_said_is_no_words() -> None:
    recognition = Recogniser(EchoModel()).start()
    assert recognition.finish() == Transcript("", (), ("no_words",))


def _reasons(*texts: str, doubts: Doubts = SURE, speech_s: float = 10) -> Transcript:
    recognition = Recogniser(EchoModel(*texts, doubts=doubts)).start()
    recognition.push(_audio(("s", speech_s)))
    return recognition.finish()


def test_loops_are_cut_and_flagged() -> None:
    heard = _reasons("I", "say", *["thank", "you."] * 50)
    assert heard.text == "I say thank you."
    assert heard.reasons == ("repetition",)
    assert _reasons("no", "no", "no").reasons == ()


def test_words_nobody_could_have_said_are_flagged() -> None:
    rng = np.random.default_rng(0)
    many = ["".join(rng.choice(list("abcdefghijklmnop"), 5)) for _ in range(99)]
    assert _reasons(*many, speech_s=10).reasons == ("hallucination",)
    assert _reasons(*many[:60], speech_s=20).reasons == ()
    guesses = Doubts(log_probability=-2.5, no_speech=0.1)
    assert _reasons("you", doubts=guesses).reasons == ("hallucination",)
    foreign = Doubts(log_probability=-0.3, no_speech=0.1, english=0.05)
    assert _reasons("you", doubts=foreign).reasons == ("not_english",)
    assert _reasons("one").reasons == ()


def test_500_words_are_kept() -> None:
    recognition = Recogniser(EchoModel()).start()
    for _ in range(25):
        recognition.push(_audio(("s", 20), ("q", 0.6)))
    transcript = recognition.finish()
    assert len(transcript.words) >= 500
    assert transcript.reasons == ()


def test_loop_start_and_compression() -> None:
    assert loop_start([]) is None
    assert loop_start("a b c d a b c d a b c d".split()) is None
    assert loop_start("x a b c d a b c d a b c d a b c d".split()) == 5
    assert loop_start("one two three four".split()) is None
    assert compression_ratio("") == 0
    assert compression_ratio("ha " * 200) > 10
    assert compression_ratio("Three blind mice saw how they run") < 1.2


def _tokens(english: bool) -> list[str]:
    letters = ["t", "h", "e", "Ġ", "Ġc", "at", "Ã©", "Ã", "©", "Ċ"]
    padding = [f"<{i}>" for i in range(50_256 + (not english) - len(letters))]
    languages = ["<|en|>", *(f"<|{i}|>" for i in range(98))]
    tasks = ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>"]
    ends = ["<|endoftext|>", "<|startoftranscript|>"]
    return [*letters, *padding, *ends, *languages, *tasks, "<|nospeech|>", "<|notimestamps|>"]


def test_vocabulary_reads_words_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "vocabulary.txt").write_text("\n".join(_tokens(True)), encoding="utf-8")
    vocabulary = Vocabulary.read(tmp_path)
    assert not vocabulary.is_multilingual
    assert vocabulary.prompt == [50257, 50362]
    assert vocabulary.text([0, 1, 2, 4, 5]) == "the cat"
    assert vocabulary.words([0, 1, 2, 4, 5]) == [[0, 1, 2], [4, 5]]
    assert vocabulary.text([6, 7, 8, 7]) == "éé"
    (tmp_path / "vocabulary.json").write_text(json.dumps(_tokens(False)), encoding="utf-8")
    several = Vocabulary.read(tmp_path)
    assert several.is_multilingual
    assert several.prompt == [50258, 50259, 50359, 50363]


@pytest.mark.parametrize("content", ["", "a\nb", "\ufffd", "[1, 2]", '{"a": 1}', "[" * 100_000])
def test_a_broken_vocabulary_is_one_clear_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "vocabulary.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError):
        Vocabulary.read(tmp_path)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    lines = []
    for i, seconds in enumerate((1.0, 2.0, 3.0)):
        soundfile.write(tmp_path / f"{i}.wav", _audio(("s", seconds)), RATE)
        lines.append(json.dumps({"id": str(i), "audio": f"{i}.wav", "scores": {"total": 5}}))
    path = tmp_path / "manifest.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_a_manifest_is_heard_once(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = EchoModel()
    monkeypatch.setattr(corpus, "model_folder", Path)
    monkeypatch.setattr(corpus.Recogniser, "open", lambda *_, **__: Recogniser(model))
    cache = tmp_path / "cache" / "heard.jsonl"
    utterances = read_manifest(manifest)
    first = corpus.transcribe(utterances, cache)
    assert [len(t.words) for t in first.values()] == [1, 2, 3]
    assert corpus.transcribe(utterances, cache) == first
    assert len(model.given) == 3
    content = cache.read_bytes()
    cache.write_bytes(content[:-20])  # as a kill leaves it
    assert corpus.transcribe(utterances, cache) == first
    assert len(model.given) == 4
    assert cache.read_bytes() == content
    soundfile.write(tmp_path / "0.wav", _audio(("s", 2)), RATE)
    assert len(corpus.transcribe(utterances, cache)["0"].words) == 2
    assert len(model.given) == 5
    corpus.transcribe(utterances, cache, precision="fp32")
    assert len(model.given) == 8
