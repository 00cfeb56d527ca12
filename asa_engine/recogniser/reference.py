"""The reference the recogniser is measured against: Hugging Face's Whisper, in PyTorch, fp32.

It hears the recording in windows of 30 s, after its end, as the papers do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asa_engine.assessment import Word
from asa_engine.kernels import log_mel
from asa_engine.recogniser.recognition import Transcript
from asa_engine.recogniser.vocabulary import Vocabulary

__all__ = ["ReferenceRecogniser", "ReferenceRecognition", "open_reference"]

WINDOW_SAMPLES: Final = 30 * 16_000
MIN_SAMPLES: Final = 1600


class ReferenceRecogniser:
    """Hugging Face's greedy `generate`; its words have neither times nor probabilities.

    Args:
        model: From `asa_engine.nn.hugging_face.build_whisper`.
        vocabulary: The model's tokens.
    """

    def __init__(self, model: Any, vocabulary: Vocabulary) -> None:
        self._model = model
        self._vocabulary = vocabulary

    def start(self) -> ReferenceRecognition:
        """Start on one recording."""
        return ReferenceRecognition(self)

    def hear(self, samples: NDArray[np.float32]) -> str:
        """Transcribe float32 samples [n], n at most 30 s."""
        from asa_engine.nn.hugging_face import transcribe_tokens

        padded = np.zeros(WINDOW_SAMPLES, np.float32)
        padded[: len(samples)] = samples
        mel = log_mel(padded, self._model.config.num_mel_bins)
        return self._vocabulary.text(transcribe_tokens(self._model, mel)).strip()


class ReferenceRecognition:
    """The words of one recording, all of them heard at its end."""

    def __init__(self, recogniser: ReferenceRecogniser) -> None:
        self._recogniser = recogniser
        self._samples: list[NDArray[np.float32]] = []

    @property
    def words(self) -> tuple[Word, ...]:
        """None: no window is final before the end."""
        return ()

    def push(self, samples: NDArray[np.float32]) -> None:
        """Take float32 samples [n], mono, 16 kHz."""
        self._samples.append(samples.copy())

    def finish(self) -> Transcript:
        """Transcribe all windows."""
        samples = np.concatenate([*self._samples, np.zeros(0, np.float32)])
        windows = (samples[i : i + WINDOW_SAMPLES] for i in range(0, len(samples), WINDOW_SAMPLES))
        texts = [self._recogniser.hear(window) for window in windows if len(window) >= MIN_SAMPLES]
        text = " ".join(filter(None, texts))
        words = tuple(Word(word) for word in text.split())
        return Transcript(text, words, () if words else ("no_words",))


def open_reference(folder: Path) -> ReferenceRecogniser:
    """Build the reference from a Whisper folder in CTranslate2's layout.

    Raises:
        CheckpointError: The folder holds no whole Whisper.
    """
    from asa_engine.nn.hugging_face import build_whisper

    return ReferenceRecogniser(build_whisper(folder), Vocabulary.read(folder))
