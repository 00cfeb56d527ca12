"""What the grader hears, without PyTorch: speech frames by windows, and what a word was like."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asa_engine.assessment import Word
from asa_engine.features import delivery, linguistic
from asa_engine.features.delivery import TimedWord, Track
from asa_engine.features.linguistic import Analyser
from asa_engine.features.log_mel import WindowedLogMel
from asa_engine.features.word_pieces import clean
from asa_engine.graders.multi_aspect.config import MultiAspectConfig
from asa_engine.graders.windows import WindowedRun
from asa_engine.profiling import StageClock

__all__ = [
    "MAX_FRAMES",
    "SpeechFrames",
    "WaveFrames",
    "WordFeatures",
    "describe_words",
    "pool_frames",
    "prompt_of",
    "speech_frames",
]

MIN_WINDOW_SAMPLES = 1600
SAMPLES_PER_FRAME = 320
MAX_FRAMES = 3000
"""Attention's memory grows with the square of this; longer speech is averaged further."""

Encode = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Log-mel of a window, float32 [n_mels, T], to its frames, float32 [ceil(T / 2), D]; for a wav2vec2
samples, float32 [n], to frames, 50 a second."""


def prompt_of(texts: Mapping[str, str]) -> str:
    """Return what stands for the prompt, in training as at run time: `prompt`, then `text`."""
    cleaned = (clean(texts.get(name) or "") for name in ("prompt", "text"))
    return " ".join(filter(None, cleaned))


class SpeechFrames(WindowedRun):
    """Encodes the windows of one recording as they close, and averages neighbouring frames.

    Args:
        config: The grader's configuration.
        encode: The speech encoder.
        clock: Collects `features` and `encoder` times.
    """

    def __init__(self, config: MultiAspectConfig, encode: Encode, clock: StageClock) -> None:
        self._pool = config.frame_pool
        self._encode = encode
        self._clock = clock
        self._mel = WindowedLogMel(
            config.speech_encoder.n_mels,
            config.window_samples,
            pad_to_window=False,
            min_samples=MIN_WINDOW_SAMPLES,
        )
        self._frames: list[NDArray[np.float32]] = []

    def push(self, samples: NDArray[np.float32]) -> None:
        """Take float32 mono samples at 16 kHz; encode every window they close."""
        self._hear(samples)

    def finish(self) -> NDArray[np.float32] | None:
        """Return the frames of the whole recording, float32 [T, D], T at most `MAX_FRAMES`.

        `None` where it is too short to be framed. More frames are averaged, as many neighbours as
        it takes.
        """
        self._hear_rest()
        if not self._frames:
            return None
        frames = np.concatenate(self._frames)
        return pool_frames(frames, -(-len(frames) // MAX_FRAMES))

    def _take(self, mel: NDArray[np.float32]) -> None:
        with self._clock.scope("encoder", frames=mel.shape[1]):
            self._frames.append(pool_frames(self._encode(mel), self._pool))


class WaveFrames:
    """Encodes one recording with a wav2vec2, at its end: samples are normalised over all of it.

    Args:
        config: The grader's configuration.
        encode: The speech encoder.
        clock: Collects `encoder` times.
    """

    def __init__(self, config: MultiAspectConfig, encode: Encode, clock: StageClock) -> None:
        self._config, self._encode, self._clock = config, encode, clock
        self._samples: list[NDArray[np.float32]] = []

    def push(self, samples: NDArray[np.float32]) -> None:
        """Take float32 mono samples at 16 kHz."""
        self._samples.append(samples.copy())

    def finish(self) -> NDArray[np.float32] | None:
        """Return the frames of the whole recording, as `SpeechFrames` does."""
        samples = np.concatenate([*self._samples, np.empty(0, np.float32)])
        if samples.size < MIN_WINDOW_SAMPLES:
            return None
        # As wav2vec2's own feature extractor has it.
        samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
        frames = []
        for start in range(0, samples.size, self._config.window_samples):
            window = samples[start : start + self._config.window_samples]
            if window.size >= MIN_WINDOW_SAMPLES:
                with self._clock.scope("encoder", frames=window.size // SAMPLES_PER_FRAME):
                    frames.append(pool_frames(self._encode(window), self._config.frame_pool))
        joined = np.concatenate(frames)
        return pool_frames(joined, -(-len(joined) // MAX_FRAMES))


def speech_frames(
    config: MultiAspectConfig, encode: Encode, clock: StageClock
) -> SpeechFrames | WaveFrames:
    """Return what collects the frames of one recording, as the configuration says."""
    return (WaveFrames if config.hears_waves else SpeechFrames)(config, encode, clock)


def pool_frames(frames: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Average groups of `size` neighbours of [T, D]; the last group may be smaller."""
    if size == 1:
        return frames
    starts = np.arange(0, len(frames), size)
    counts = np.diff(np.append(starts, len(frames)))
    sums = np.add.reduceat(frames, starts, axis=0)
    return np.asarray(sums / counts[:, None], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class WordFeatures:
    """What is known of the words of a recording.

    Attributes:
        words: With times that can be used, W of them.
        delivery: float32 [W, 16].
        language: float32 [W, 263].
        named: Features of the whole, under names that a teacher can read.
        reasons: What was mended or not found: "word_times_mended", "no_pitch".
    """

    words: tuple[TimedWord, ...]
    delivery: NDArray[np.float32]
    language: NDArray[np.float32]
    named: dict[str, float]
    reasons: tuple[str, ...]


def describe_words(
    words: Sequence[Word], track: Track, duration_s: float, analyser: Analyser
) -> WordFeatures:
    """Return the features of each word and of them all.

    Args:
        words: From the recogniser, in the order they were said.
        track: Pitch and energy of the recording.
        duration_s: Its length.
        analyser: Tags the words.
    """
    timed, mended = delivery.mend_times(words, duration_s)
    texts = [word.text for word in timed]
    tokens = analyser.analyse(texts)
    named = delivery.summarise(track, timed) | linguistic.summarise(texts, tokens)
    reasons = ["word_times_mended"] if mended else []
    if not named["pitch_found"]:
        reasons.append("no_pitch")
    return WordFeatures(
        words=timed,
        delivery=delivery.word_features(track, timed),
        language=linguistic.word_features(tokens),
        named=named,
        reasons=tuple(reasons),
    )
