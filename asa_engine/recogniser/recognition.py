"""One recording's words, as its samples arrive."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from asa_engine.assessment import Word
from asa_engine.recogniser.guards import REASONS, loop_start
from asa_engine.recogniser.whisper import Heard, Whisper
from asa_engine.recogniser.windows import SpeechWindow, SpeechWindows

__all__ = ["Hears", "Recogniser", "Recognition", "Transcript"]

SAMPLE_RATE_HZ: Final = 16_000


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was said.

    Attributes:
        text: The words, joined.
        words: Each with its time in the recording, in seconds, and its probability.
        reasons: Members of `REASONS`: why to doubt them.
    """

    text: str
    words: tuple[Word, ...]
    reasons: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the transcript as JSON values."""
        words = [word.to_dict() for word in self.words]
        return {"text": self.text, "words": words, "reasons": list(self.reasons)}


class Hears(Protocol):
    """What transcribes one window."""

    def hear(self, samples: NDArray[np.float32]) -> Heard:
        """Transcribe float32 samples [n] at 16 kHz."""


class Recogniser:
    """A speech recogniser, shared by any number of recordings.

    Args:
        model: What transcribes one window.

    Example:
        recogniser = Recogniser.open(backbone_folder("whisper-tiny.en"), precision="int8")
        recognition = recogniser.start()
        for chunk in chunks:
            recognition.push(chunk)
        print(recognition.finish().text)
    """

    def __init__(self, model: Hears) -> None:
        self._model = model

    @classmethod
    def open(cls, folder: Path, *, precision: str = "int8", threads: int = 1) -> Self:
        """Open a Whisper folder in CTranslate2's layout.

        Raises:
            CheckpointError: A file is missing, damaged, or of another model.
            BackendError: There is no such precision.
        """
        return cls(Whisper.open(folder, precision=precision, threads=threads))

    def start(self) -> Recognition:
        """Start on one recording."""
        return Recognition(self._model)


class Recognition:
    """The words of one recording.

    The result depends on the samples alone, never on how they were cut into chunks.
    """

    def __init__(self, model: Hears) -> None:
        self._model = model
        self._windows = SpeechWindows()
        self._words: tuple[Word, ...] = ()
        self._reasons: set[str] = set()
        self._heard = 0

    @property
    def windows(self) -> int:
        """How many windows have been transcribed."""
        return self._heard

    @property
    def words(self) -> tuple[Word, ...]:
        """The words of the closed windows; they are final."""
        return self._words

    def push(self, samples: NDArray[np.float32]) -> None:
        """Take samples and transcribe the windows that they close.

        Args:
            samples: float32 [n], mono, 16 kHz; n may be 0.

        Raises:
            ValueError: Another dtype or shape, NaN or infinity.
        """
        if samples.ndim != 1 or samples.dtype != np.float32 or not np.isfinite(samples).all():
            raise ValueError("samples must be finite float32 [n]")
        for window in self._windows.push(samples):
            self._hear(window)

    def finish(self) -> Transcript:
        """Transcribe the open window; return all that was said."""
        if (window := self._windows.finish()) is not None:
            self._hear(window)
        reasons = self._reasons if self._words else self._reasons | {"no_words"}
        text = " ".join(word.text for word in self._words)
        return Transcript(text, self._words, tuple(r for r in REASONS if r in reasons))

    def _hear(self, window: SpeechWindow) -> None:
        heard = self._model.hear(window.samples)
        self._heard += 1
        words = heard.words
        if (again := loop_start([word.text for word in words])) is not None:
            words = words[:again]
            self._reasons.add("repetition")
        texts = [word.text for word in words]
        self._reasons.update(heard.doubts.reasons(texts, window.speech_s))
        self._words += tuple(_place(word, window) for word in words)


def _place(word: Word, window: SpeechWindow) -> Word:
    """Move a window's word to its time in the recording, not before anybody speaks.

    The alignment lets the first word begin with the window.
    """
    offset = window.start / SAMPLE_RATE_HZ
    times = (max(time or 0.0, window.speech_from_s) for time in (word.start_s, word.end_s))
    start_s, end_s = (offset + time for time in times)
    return dataclasses.replace(word, start_s=start_s, end_s=end_s)
