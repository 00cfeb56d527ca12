"""Whisper on the CPU without PyTorch: encoder and decoder on the engine's own kernels."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from asa_engine.assessment import Word
from asa_engine.errors import BackendError, CheckpointError
from asa_engine.files import read_json
from asa_engine.kernels import log_mel
from asa_engine.kernels.decoder import PRECISIONS, Decoder
from asa_engine.kernels.encoder import Encoder
from asa_engine.nn.config import WhisperDecoderConfig, WhisperEncoderConfig
from asa_engine.nn.ct2 import ct2_decoder_config, read_ct2_decoder, read_ct2_encoder
from asa_engine.recogniser.alignment import align
from asa_engine.recogniser.guards import Doubts
from asa_engine.recogniser.vocabulary import Vocabulary

__all__ = ["PRECISIONS", "Heard", "Whisper", "pad_window", "token_limit"]

SAMPLE_RATE_HZ: Final = 16_000
FRAMES_PER_S: Final = 50
SAMPLES_PER_FRAME: Final = SAMPLE_RATE_HZ // FRAMES_PER_S


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


@dataclass(frozen=True, slots=True)
class Settings:
    """What a model's `config.json` says of decoding.

    Attributes:
        suppressed: Tokens that are never written.
        suppressed_first: Tokens that are not written first.
        languages: The languages' tokens.
        alignment_heads: Decoder layer and head of those that follow the speech.
    """

    suppressed: tuple[int, ...]
    suppressed_first: tuple[int, ...]
    languages: tuple[int, ...]
    alignment_heads: tuple[tuple[int, int], ...]

    @classmethod
    def read(cls, folder: Path, config: WhisperDecoderConfig) -> Self:
        """Read them.

        Raises:
            CheckpointError: A value is missing or names a token or head that there is not.
        """
        path = folder / "config.json"
        fields = read_json(path, CheckpointError)

        def numbers(name: str, below: int) -> tuple[int, ...]:
            values = fields.get(name, [])
            if not isinstance(values, list) or not all(
                type(value) is int and 0 <= value < below for value in values
            ):
                raise CheckpointError(f"{path}: {name} is no list of numbers below {below}")
            return tuple(values)

        heads = fields.get("alignment_heads")
        if not isinstance(heads, list) or not heads or not all(map(_is_pair, heads)):
            raise CheckpointError(f"{path}: alignment_heads is no list of layers and heads")
        if any(
            not (0 <= layer < config.layers and 0 <= head < config.heads) for layer, head in heads
        ):
            raise CheckpointError(f"{path}: alignment_heads names a head that there is not")
        return cls(
            numbers("suppress_ids", config.tokens),
            numbers("suppress_ids_begin", config.tokens),
            numbers("lang_ids", config.tokens),
            tuple((layer, head) for layer, head in heads),
        )


class Whisper:
    """One Whisper model; threads that share it take turns.

    Args:
        encoder: Its encoder, packed.
        decoder: Its decoder, packed.
        vocabulary: Its tokens.
        settings: What it never writes, and which of its heads tell the time.
    """

    def __init__(
        self, encoder: Encoder, decoder: Decoder, vocabulary: Vocabulary, settings: Settings
    ) -> None:
        self._encoder = encoder
        self._decoder = decoder
        self._vocabulary = vocabulary
        self._turn = threading.Lock()
        self._never = np.zeros(decoder.config.tokens, np.float32)
        self._never[list(settings.suppressed)] = -np.inf
        self._not_first = self._never.copy()
        self._not_first[list(settings.suppressed_first)] = -np.inf
        self._languages = list(settings.languages)
        self._heads = [
            layer * decoder.config.heads + head for layer, head in settings.alignment_heads
        ]

    @classmethod
    def open(cls, folder: Path, *, precision: str, threads: int) -> Self:
        """Open a folder in CTranslate2's layout: `model.bin`, `config.json`, vocabulary.

        Args:
            folder: The folder; the weights must be fp16 or fp32.
            precision: `fp32` or `int8`.
            threads: Threads a window is encoded with; a decoder takes one.

        Raises:
            CheckpointError: A file is missing, damaged, or of another model.
            BackendError: There is no such precision.
        """
        if precision not in PRECISIONS:
            raise BackendError(
                f"the recogniser runs at {', '.join(PRECISIONS)}, not {precision}",
                hint="name another precision",
            )
        vocabulary = Vocabulary.read(folder)
        path = folder / "model.bin"
        encoder = _encoder(path, precision, threads)
        decoder = _decoder(path, precision)
        if vocabulary.no_speech + 1 >= decoder.config.tokens:
            raise CheckpointError(
                f"{folder}: vocabulary and model.bin are not of one model", hint="fetch it again"
            )
        settings = Settings.read(folder, decoder.config)
        return cls(encoder, decoder, vocabulary, settings)

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
            self._decoder.start(self._encode(samples, most))
            return self._decode(len(samples) / SAMPLE_RATE_HZ)

    def _encode(self, samples: NDArray[np.float32], most: int) -> NDArray[np.float32]:
        padded = pad_window(samples, most)
        (frames,) = self._encoder.encode([log_mel(padded, self._encoder.config.n_mels)])
        return frames

    def _decode(self, duration_s: float) -> Heard:
        vocabulary, decoder = self._vocabulary, self._decoder
        limit = token_limit(duration_s)
        seen: list[NDArray[np.float32]] = []
        no_speech, english = 0.0, 1.0
        for token in vocabulary.prompt:
            logits, attended = decoder.step(token)
            if not seen:
                no_speech = math.exp(logits[vocabulary.no_speech] - _log_sum(logits))
                if vocabulary.is_multilingual and vocabulary.english in self._languages:
                    others = logits[self._languages]
                    english = math.exp(logits[vocabulary.english] - _log_sum(others))
            seen.append(attended[self._heads])
        ids: list[int] = []
        probabilities: list[float] = []
        total, written = 0.0, 0
        while written < limit:
            allowed = logits + (self._never if written else self._not_first)
            token = int(allowed.argmax())
            total += float(allowed[token]) - _log_sum(allowed)
            written += 1
            if token >= vocabulary.end:
                break
            ids.append(token)
            probabilities.append(math.exp(logits[token] - _log_sum(logits[: vocabulary.end])))
            logits, attended = decoder.step(token)
            seen.append(attended[self._heads])
        doubts = Doubts(total / max(1, len(ids)), no_speech, english)
        if not ids or doubts.is_silence():
            return Heard("", (), doubts)
        # What was attended to write the first token is that of the prompt's last.
        heads = np.stack(seen)[:, :, : max(1, round(duration_s * FRAMES_PER_S))]
        begins = align(heads, len(vocabulary.start))
        words = self._words(ids, probabilities, begins, duration_s)
        return Heard(vocabulary.text(ids).strip(), words, doubts)

    def _words(
        self, ids: list[int], probabilities: list[float], begins: list[int], duration_s: float
    ) -> tuple[Word, ...]:
        """Group tokens into words, with times that neither overlap nor leave the window."""
        words: list[Word] = []
        at, last = 0, 0.0
        for group in self._vocabulary.words(ids):
            after = at + len(group)
            start = min(max(begins[at] / FRAMES_PER_S, last), duration_s)
            last = min(max(begins[after] / FRAMES_PER_S, start), duration_s)
            probability = min(float(np.mean(probabilities[at:after])), 1.0)
            text = self._vocabulary.text(group).strip()
            if any(character.isalnum() for character in text):
                words.append(Word(text, start, last, probability))
            at = after
        return tuple(words)


# Silence behind the speech, and what a window is filled up to. Whisper was trained on windows of
# 30 s; a short one without much silence behind the speech makes it fall into loops.
TAIL_S: Final = 1.0
MIN_WINDOW_S: Final = 10.0


def pad_window(samples: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """Return a window with silence behind it, whole frames, at most so many samples."""
    length = max(len(samples) + TAIL_S * SAMPLE_RATE_HZ, MIN_WINDOW_S * SAMPLE_RATE_HZ)
    whole = math.ceil(length / SAMPLES_PER_FRAME) * SAMPLES_PER_FRAME
    padded = np.zeros(min(whole, most), np.float32)
    padded[: len(samples)] = samples
    return padded


# Learners say at most four words a second, a word is seldom more than two tokens.
TOKENS_PER_S: Final = 10.0
MIN_NEW_TOKENS: Final = 16
MAX_NEW_TOKENS: Final = 224


def token_limit(duration_s: float) -> int:
    """Return how many tokens are written at most for so many seconds."""
    return min(MAX_NEW_TOKENS, MIN_NEW_TOKENS + math.ceil(TOKENS_PER_S * duration_s))


def _log_sum(logits: NDArray[np.float32]) -> float:
    """Return log sum exp."""
    top = float(logits.max())
    return top + math.log(float(np.exp(logits - top).sum()))


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(v) is int for v in value)


def _encoder(path: Path, precision: str, threads: int) -> Encoder:
    tensors, heads = read_ct2_encoder(path)
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
        raise CheckpointError(f"{path} holds no whole encoder", hint="fetch it again") from None
    read = _Reader(path, tensors)
    return Encoder(config, read, precision=precision, threads=threads)


def _decoder(path: Path, precision: str) -> Decoder:
    tensors, heads = read_ct2_decoder(path)
    try:
        config = ct2_decoder_config(tensors, heads)
        return Decoder(config, _Reader(path, tensors), precision=precision)
    except (KeyError, ValueError):
        raise CheckpointError(f"{path} holds no whole decoder", hint="fetch it again") from None


class _Reader:
    """Gives the kernels one tensor after the other, checked, as float32."""

    def __init__(self, path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
        self._path, self._tensors = path, tensors

    def __call__(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        tensor = self._tensors.get(name)
        if tensor is None or tensor.shape != shape or not np.isfinite(tensor).all():
            raise CheckpointError(
                f"{self._path}: {name} is not {list(shape)} finite numbers",
                hint="fetch or export the model again",
            )
        return np.ascontiguousarray(tensor, dtype=np.float32)
