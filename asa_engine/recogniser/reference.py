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
from asa_engine.recogniser.guards import Doubts
from asa_engine.recogniser.recognition import Transcript
from asa_engine.recogniser.vocabulary import Vocabulary
from asa_engine.recogniser.whisper import Heard, pad_window, token_limit

__all__ = ["ReferenceRecogniser", "ReferenceRecognition", "WindowReference", "open_reference"]

SAMPLE_RATE_HZ: Final = 16_000
WINDOW_SAMPLES: Final = 30 * SAMPLE_RATE_HZ
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
    def windows(self) -> int:
        """How many windows have been transcribed before the end."""
        return 0

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


class WindowReference:
    """The reference given the windows of the engine's recogniser, in place of its kernels.

    `Recogniser(WindowReference(folder))` hears what the engine's recogniser would hear if its
    arithmetic were PyTorch's; it has no doubts, and its words have no times.

    Args:
        folder: A Whisper folder in CTranslate2's layout.
    """

    def __init__(self, folder: Path) -> None:
        from asa_engine.nn.hugging_face import build_whisper
        from asa_engine.nn.weights import load_whisper_encoder

        self._model = build_whisper(folder)
        self._encoder = load_whisper_encoder(folder).eval()
        self._vocabulary = Vocabulary.read(folder)

    def hear(self, samples: NDArray[np.float32]) -> Heard:
        """Transcribe float32 samples [n], n at most 30 s."""
        import torch

        from asa_engine.nn.hugging_face import transcribe_frames

        padded = pad_window(samples, WINDOW_SAMPLES)
        mel = torch.from_numpy(log_mel(padded, self._model.config.num_mel_bins))
        with torch.inference_mode():
            frames = self._encoder(mel[None])[-1][0]
        limit = token_limit(len(samples) / SAMPLE_RATE_HZ)
        text = self._vocabulary.text(transcribe_frames(self._model, frames, limit)).strip()
        words = tuple(Word(word, 0.0, 0.0) for word in text.split())
        return Heard(text, words, Doubts(0.0, 0.0))


def open_reference(folder: Path) -> ReferenceRecogniser:
    """Build the reference from a Whisper folder in CTranslate2's layout.

    Raises:
        CheckpointError: The folder holds no whole Whisper.
    """
    from asa_engine.nn.hugging_face import build_whisper

    return ReferenceRecogniser(build_whisper(folder), Vocabulary.read(folder))
