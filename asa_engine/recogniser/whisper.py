"""Whisper on the CPU without PyTorch: the engine's own encoder, CTranslate2's decoder."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from asa_engine.assessment import Word
from asa_engine.errors import BackendError, CheckpointError
from asa_engine.kernels import log_mel
from asa_engine.kernels.encoder import Encoder
from asa_engine.nn.config import WhisperEncoderConfig
from asa_engine.nn.ct2 import read_ct2_encoder
from asa_engine.recogniser.guards import Doubts
from asa_engine.recogniser.vocabulary import Vocabulary

if TYPE_CHECKING:
    import ctranslate2

__all__ = ["PRECISIONS", "Heard", "Whisper"]

SAMPLE_RATE_HZ: Final = 16_000
FRAMES_PER_S: Final = 50
SAMPLES_PER_FRAME: Final = SAMPLE_RATE_HZ // FRAMES_PER_S

# Precision -> (the encoder's, CTranslate2's compute type for the decoder).
PRECISIONS: Final = {"fp32": ("fp32", "float32"), "int8": ("int8", "int8")}

# Silence behind the speech, and what a window is filled up to. Whisper was trained on windows of
# 30 s; a short one without much silence behind the speech makes it fall into loops.
TAIL_S: Final = 1.0
MIN_WINDOW_S: Final = 10.0

# Learners say at most four words a second, a word is seldom more than two tokens.
TOKENS_PER_S: Final = 10.0
MIN_NEW_TOKENS: Final = 16
MAX_NEW_TOKENS: Final = 224


@dataclass(frozen=True, slots=True)
class Heard:
    """What was heard in one window.

    Attributes:
        text: The transcript.
        words: The words; times in seconds of the window, never overlapping, never backwards.
        doubts: What the decoder thinks of them.
    """

    text: str
    words: tuple[Word, ...]
    doubts: Doubts


class Whisper:
    """One Whisper model; threads that share it take turns.

    Args:
        encoder: Its encoder, packed.
        decoder: The same model in CTranslate2.
        vocabulary: Its tokens.
    """

    def __init__(
        self, encoder: Encoder, decoder: ctranslate2.models.Whisper, vocabulary: Vocabulary
    ) -> None:
        import ctranslate2

        self._encoder = encoder
        self._decoder = decoder
        self._vocabulary = vocabulary
        self._view = ctranslate2.StorageView.from_array
        self._turn = threading.Lock()

    @classmethod
    def open(cls, folder: Path, *, precision: str, threads: int) -> Self:
        """Open a folder in CTranslate2's layout: `model.bin`, `config.json`, vocabulary.

        Args:
            folder: The folder; the encoder's weights must be fp16 or fp32.
            precision: `fp32` or `int8`.
            threads: Threads one window is decoded with.

        Raises:
            CheckpointError: A file is missing, damaged, or of another model.
            BackendError: ctranslate2 is missing or refuses the model, or there is no such
                precision.
        """
        if precision not in PRECISIONS:
            raise BackendError(
                f"the recogniser runs at {', '.join(PRECISIONS)}, not {precision}",
                mend="name another precision",
            )
        try:
            import ctranslate2
        except ImportError:
            raise BackendError(
                "recognising speech needs ctranslate2", mend="pip install 'asa-engine[recogniser]'"
            ) from None
        arithmetic, compute_type = PRECISIONS[precision]
        vocabulary = Vocabulary.read(folder)
        encoder = _encoder(folder / "model.bin", arithmetic, threads)
        try:
            decoder = ctranslate2.models.Whisper(
                str(folder), device="cpu", compute_type=compute_type, intra_threads=threads
            )
        except (RuntimeError, ValueError) as failure:
            raise CheckpointError(
                f"CTranslate2 cannot open {folder}: {failure}", mend="fetch or export it again"
            ) from None
        return cls(encoder, decoder, vocabulary)

    def hear(self, samples: NDArray[np.float32]) -> Heard:
        """Transcribe one window, greedily, in English.

        Args:
            samples: float32 [n] at 16 kHz, speech of at most 30 s.

        Raises:
            ValueError: Samples are too many, NaN or infinite.
        """
        most = self._encoder.config.positions * SAMPLES_PER_FRAME
        if len(samples) > most:
            raise ValueError(f"{len(samples)} samples; a window holds at most {most}")
        with self._turn:
            frames = self._encode(samples, most)
            return self._decode(frames, len(samples) / SAMPLE_RATE_HZ)

    def _encode(self, samples: NDArray[np.float32], most: int) -> Any:
        length = max(len(samples) + TAIL_S * SAMPLE_RATE_HZ, MIN_WINDOW_S * SAMPLE_RATE_HZ)
        whole = math.ceil(length / SAMPLES_PER_FRAME) * SAMPLES_PER_FRAME
        padded = np.zeros(min(whole, most), np.float32)
        padded[: len(samples)] = samples
        (frames,) = self._encoder.encode([log_mel(padded, self._encoder.config.n_mels)])
        return self._view(np.ascontiguousarray(frames[np.newaxis]))

    def _decode(self, frames: Any, duration_s: float) -> Heard:
        vocabulary = self._vocabulary
        limit = min(MAX_NEW_TOKENS, MIN_NEW_TOKENS + math.ceil(TOKENS_PER_S * duration_s))
        (result,) = self._decoder.generate(
            frames,
            [vocabulary.prompt],
            beam_size=1,
            max_length=len(vocabulary.prompt) + limit,
            return_scores=True,
            return_no_speech_prob=True,
        )
        english = 1.0
        if vocabulary.is_multilingual:
            english = dict(self._decoder.detect_language(frames)[0]).get("<|en|>", 0.0)
        doubts = Doubts(result.scores[0], result.no_speech_prob, english)
        ids = [token for token in result.sequences_ids[0] if token < vocabulary.end]
        if not ids or doubts.is_silence():
            return Heard("", (), doubts)
        words = self._align(frames, ids, duration_s)
        return Heard(vocabulary.text(ids).strip(), words, doubts)

    def _align(self, frames: Any, ids: list[int], duration_s: float) -> tuple[Word, ...]:
        """Give each word its time and probability, from the decoder's cross-attention."""
        mel_frames = max(2, round(duration_s * 2 * FRAMES_PER_S))
        (aligned,) = self._decoder.align(frames, self._vocabulary.start, [ids], mel_frames)
        steps = dict[int, int]()
        for token, frame in aligned.alignments:
            steps.setdefault(token, frame)
        words: list[Word] = []
        at, last = 0, 0.0
        for group in self._vocabulary.words(ids):
            after = at + len(group)
            start = min(max(steps.get(at, 0) / FRAMES_PER_S, last), duration_s)
            end = steps[after] / FRAMES_PER_S if after in steps else duration_s
            last = min(max(end, start), duration_s)
            probability = float(np.mean(aligned.text_token_probs[at:after]))
            text = self._vocabulary.text(group).strip()
            if any(character.isalnum() for character in text):
                words.append(Word(text, start, last, min(max(probability, 0.0), 1.0)))
            at = after
        return tuple(words)


def _encoder(path: Path, precision: str, threads: int) -> Encoder:
    tensors, heads = read_ct2_encoder(path)

    def read(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        tensor = tensors.get(name)
        if tensor is None or tensor.shape != shape or not np.isfinite(tensor).all():
            raise CheckpointError(
                f"{path}: the encoder's {name} is not {list(shape)} finite numbers",
                mend="fetch or export the model again",
            )
        return np.ascontiguousarray(tensor)

    try:
        width, n_mels, _ = tensors["conv1.weight"].shape
        config = WhisperEncoderConfig(
            n_mels=n_mels,
            d_model=width,
            layers=sum(name.endswith("fc1.weight") for name in tensors),
            heads=heads,
            ffn=len(tensors["layers.0.fc1.bias"]),
            positions=len(tensors["embed_positions.weight"]),
        )
    except (KeyError, ValueError):
        raise CheckpointError(f"{path} holds no whole encoder", mend="fetch it again") from None
    return Encoder(config, read, precision=precision, threads=threads)
