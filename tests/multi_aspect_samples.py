"""A multi-aspect grader of tiny shape with random weights, and stages that need no backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asa_engine.assessment import Word
from asa_engine.features.linguistic import Token
from asa_engine.graders.aspects import AspectConfig
from asa_engine.graders.multi_aspect.config import MultiAspectConfig
from asa_engine.nn.config import WhisperEncoderConfig
from asa_engine.recogniser import Transcript

LEVELS = ("low", "middle", "high")


def tiny_config(**changes: Any) -> MultiAspectConfig:
    """Return a small configuration; `changes` go into it."""
    settings: dict[str, Any] = {
        "aspects": tuple(
            AspectConfig(name, level_cuts=(4.0, 7.0), level_names=LEVELS)
            for name in ("fluency", "total")
        ),
        "class_scores": (3.0, 5.5, 9.0),
        "frame_width": 6,
        "prompt_width": 5,
        "content_width": 8,
        "delivery_width": 7,
        "language_width": 4,
        "ffn_factor": 2,
        "projection": 9,
        "window_s": 1.0,
        "frame_pool": 5,
        "speech_encoder": WhisperEncoderConfig(d_model=6, layers=1, heads=1, ffn=8, positions=50),
        **changes,
    }
    return MultiAspectConfig(**settings)


class Recognition:
    """Says the same words whatever it hears."""

    def __init__(self, transcript: Transcript) -> None:
        self.transcript = transcript
        self.words: tuple[Word, ...] = ()

    def push(self, samples: NDArray[np.float32]) -> None:
        """Take samples."""

    def finish(self) -> Transcript:
        """Return the words."""
        return self.transcript


class Recogniser:
    """Starts recognitions of one transcript."""

    def __init__(self, words: Sequence[Word], reasons: tuple[str, ...] = ()) -> None:
        text = " ".join(word.text for word in words)
        self.transcript = Transcript(text, tuple(words), reasons)

    def start(self) -> Recognition:
        """Start one."""
        return Recognition(self.transcript)


class Analyser:
    """Calls every word a noun."""

    name = "nouns"

    def analyse(self, words: Sequence[str]) -> list[Token]:
        """Return a token for each word."""
        return [Token(("NOUN",), (), ("dep",)) for _ in words]

    def versions(self) -> dict[str, str]:
        """Return nothing."""
        return {}


def encode(mel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return six columns of a log-mel window's own numbers as frames."""
    return np.ascontiguousarray(mel[:6, ::2].T)


def words_of(count: int, step_s: float = 0.25) -> list[Word]:
    """Return so many words, back to back."""
    return [Word(f"w{i}", i * step_s, (i + 1) * step_s, 0.8) for i in range(count)]
