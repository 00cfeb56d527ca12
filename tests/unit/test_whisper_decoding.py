"""Greedy decoding by the recogniser, with a decoder that writes what the test says."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from asa_engine.recogniser.vocabulary import Vocabulary
from asa_engine.recogniser.whisper import Heard, Settings, Whisper

RATE = 16_000
HEADS, FRAMES = 2, 60


def _vocabulary(*, multilingual: bool) -> Vocabulary:
    letters = ["Ġgood", "Ġmorn", "ing", "Ġ,"]
    padding = [f"<{i}>" for i in range(50_256 + multilingual - len(letters))]
    languages = ["<|en|>", "<|de|>", *(f"<|{i}|>" for i in range(97))]
    ends = ["<|endoftext|>", "<|startoftranscript|>"]
    tasks = ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>"]
    marks = ["<|nospeech|>", "<|notimestamps|>"]
    return Vocabulary([*letters, *padding, *ends, *languages, *tasks, *marks], "here")


class Decoder:
    """Wants to write `tokens` one after the other, each attended half a second later."""

    def __init__(
        self, vocabulary: Vocabulary, tokens: list[int], first: dict[int, float] | None = None
    ) -> None:
        self.config = SimpleNamespace(tokens=vocabulary.no_speech + 2, heads=HEADS)
        self.vocabulary, self.tokens, self.first = vocabulary, tokens, first or {}
        self.seen: list[int] = []

    def start(self, frames: NDArray[np.float32]) -> None:
        """Begin."""
        self.seen = []

    def step(self, token: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return logits and attention."""
        self.seen.append(token)
        written = len(self.seen) - len(self.vocabulary.prompt)
        logits = np.zeros(self.config.tokens, np.float32)
        if len(self.seen) == 1:
            for index, logit in self.first.items():
                logits[index] = logit
        if written >= 0:
            end = self.vocabulary.end
            logits[self.tokens[written] if written < len(self.tokens) else end] = 20.0
        attended = np.full((HEADS, FRAMES), 1e-3, np.float32)
        attended[:, 12 * max(written, 0) : 12 * max(written, 0) + 12] = 1
        return logits, attended / attended.sum(axis=1, keepdims=True)


def _hear(decoder: Decoder, settings: Settings | None = None) -> Heard:
    encoder = SimpleNamespace(
        config=SimpleNamespace(positions=1500, n_mels=80),
        encode=lambda mels: [np.zeros((FRAMES, 4), np.float32)],
    )
    settings = settings or Settings((), (), tuple(range(50_259, 50_261)), ((0, 0), (0, 1)))
    whisper = Whisper(encoder, decoder, decoder.vocabulary, settings)  # type: ignore[arg-type]
    return whisper.hear(np.zeros(RATE + RATE // 5, np.float32))


def test_tokens_become_words_with_times_and_probabilities() -> None:
    heard = _hear(Decoder(_vocabulary(multilingual=False), [0, 1, 2, 3]))
    assert heard.text == "good morning ,"
    assert [word.text for word in heard.words] == ["good", "morning"]  # no word without a letter
    # 12 frames of 20 ms a token; the median over seven frames may move an edge by three.
    starts = [word.start_s for word in heard.words]
    np.testing.assert_allclose(starts, [0.0, 0.24], atol=0.06)
    assert all(0.99 < (word.probability or 0) <= 1 for word in heard.words)
    assert heard.doubts.log_probability == pytest.approx(0, abs=1e-3)


def test_another_language_is_known_from_the_first_token() -> None:
    vocabulary = _vocabulary(multilingual=True)
    german = vocabulary.english + 1
    for logits, foreign in (({german: 9.0}, True), ({vocabulary.english: 9.0}, False)):
        heard = _hear(Decoder(vocabulary, [0, 1, 2], logits))
        reasons = heard.doubts.reasons([word.text for word in heard.words], speech_s=1.0)
        assert reasons == (("not_english",) if foreign else ())
        expected = 1 / (1 + np.exp(9.0 if foreign else -9.0))
        assert heard.doubts.english == pytest.approx(expected, rel=1e-4)


def test_silence_is_told_by_the_first_token() -> None:
    vocabulary = _vocabulary(multilingual=False)
    heard = _hear(Decoder(vocabulary, [0, 1, 2], {vocabulary.no_speech: 30.0}))
    assert heard.doubts.no_speech == pytest.approx(1, abs=1e-4)
    assert heard.words == ()


def test_suppressed_tokens_are_not_written() -> None:
    vocabulary = _vocabulary(multilingual=False)
    settings = Settings((1,), (0, vocabulary.end), (), ((0, 0),))
    decoder = Decoder(vocabulary, [0, 1, 2])
    _hear(decoder, settings)
    written = decoder.seen[len(vocabulary.prompt) :]
    assert written[0] != 0
    assert 1 not in written


def test_a_decoder_that_never_ends_is_stopped() -> None:
    decoder = Decoder(_vocabulary(multilingual=False), [0, 1] * 500)
    heard = _hear(decoder)
    assert len(decoder.seen) - len(decoder.vocabulary.prompt) == 16 + 12  # 10 a second, and 16
    assert len(heard.words) == 28
