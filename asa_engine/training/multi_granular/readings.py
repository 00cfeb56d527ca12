"""Read texts with experts' labels: what the multi-granular grader is trained on."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asa_engine.audio import read_audio
from asa_engine.errors import ManifestError
from asa_engine.evaluation.manifest import Utterance
from asa_engine.graders.multi_granular.config import ASPECTS, MultiGranularConfig
from asa_engine.graders.multi_granular.plan import Spoken
from asa_engine.graders.multi_granular.verdict import (
    LABELS,
    PHONE_CUTS,
    SENTENCE_CUTS,
    WORD_CUTS,
    Verdict,
    label_of,
    verdict_of,
)
from asa_engine.graders.windows import log_mel_windows
from asa_engine.kernels.encoder import Encoder
from asa_engine.nn.whisper import WhisperEncoder
from asa_engine.text import PHONES

__all__ = ["Reading", "frames_of_readings", "label_means", "lexicon_of", "readings_of"]

_SCALES = {"word": (WORD_CUTS, 10.0), "phone": (PHONE_CUTS, 2.0)}


@dataclass(frozen=True, slots=True)
class Reading:
    """One recording of a text that was read.

    Attributes:
        utterance: The manifest's entry.
        words: Its words and the phones that the corpus gives them.
        scores: The experts' scores of the sentence, as in `ASPECTS`, 0 to 10.
        word_scores: Of each word, 0 to 10.
        phone_scores: Of each phone, 0 to 2.
        verdict: All of them as labels.
    """

    utterance: Utterance
    words: tuple[Spoken, ...]
    scores: tuple[float, ...]
    word_scores: tuple[float, ...]
    phone_scores: tuple[float, ...]
    verdict: Verdict

    @property
    def classes(self) -> tuple[int, ...]:
        """Class of each phone for the phone layer."""
        return tuple(1 + PHONES.index(phone) for word in self.words for phone in word.phones)

    @property
    def owners(self) -> tuple[int, ...]:
        """Which word each phone is of."""
        return tuple(index for index, word in enumerate(self.words) for _ in word.phones)


def readings_of(utterances: Sequence[Utterance]) -> list[Reading]:
    """Return what a manifest's entries hold for training.

    Raises:
        ManifestError: One has no words, no phones, or no scores of them.
    """
    kept = []
    for utterance in utterances:
        try:
            entries = utterance.extra["words"]
            plain = [
                {
                    **word,
                    "phones": [{**p, "phone": p["phone"].rstrip("012")} for p in word["phones"]],
                }
                for word in entries
            ]
            reading = Reading(
                utterance,
                tuple(
                    Spoken(word["text"].lower(), tuple(p["phone"] for p in word["phones"]))
                    for word in plain
                ),
                tuple(float(utterance.scores[name]) for name in ASPECTS),
                tuple(float(word["accuracy"]) for word in plain),
                tuple(float(p["accuracy"]) for word in plain for p in word["phones"]),
                verdict_of(utterance.scores, plain),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ManifestError(
                f"{utterance.id} cannot be trained on: {error!r}",
                hint="every line needs scores, and words with phones and their scores",
            ) from None
        if not reading.words or not all(set(word.phones) <= set(PHONES) for word in reading.words):
            raise ManifestError(f"{utterance.id} has no words, or phones that are not ARPAbet's")
        kept.append(reading)
    return kept


def lexicon_of(readings: Sequence[Reading]) -> str:
    """Return a dictionary of the readings' words, each as it is most often transcribed."""
    heard: dict[str, collections.Counter[tuple[str, ...]]] = collections.defaultdict(
        collections.Counter
    )
    for reading in readings:
        for word in reading.words:
            heard[word.text][word.phones] += 1
    lines = []
    for text, counts in sorted(heard.items()):
        phones, _ = min(counts.items(), key=lambda item: (-item[1], item[0]))
        lines.append(f"{text} {' '.join(phones)}\n")
    return "".join(lines)


def label_means(readings: Sequence[Reading]) -> Mapping[str, tuple[float, ...]]:
    """Return, for each grain, the mean of the scores that got each label.

    A label that nobody got has the middle of its bin.
    """
    table = {
        name: ([reading.scores[index] for reading in readings], SENTENCE_CUTS, 10.0)
        for index, name in enumerate(ASPECTS)
    }
    for name, (cuts, top) in _SCALES.items():
        scores = [x for reading in readings for x in getattr(reading, f"{name}_scores")]
        table[name] = (scores, cuts, top)
    means = {}
    for name, (scores, cuts, top) in table.items():
        labels = np.array([label_of(score, cuts) for score in scores])
        edges = (0.0, *cuts, top)
        means[name] = tuple(
            round(float(np.mean(np.array(scores)[labels == label])), 3)
            if (labels == label).any()
            else (edges[label] + edges[label + 1]) / 2
            for label in range(len(LABELS))
        )
    return means


def frames_of_readings(
    encoder: WhisperEncoder,
    config: MultiGranularConfig,
    readings: Sequence[Reading],
    threads: int,
) -> list[NDArray[np.float16]]:
    """Return the frames [T, D] of each recording, windows end to end, as the run time makes them.

    Raises:
        ManifestError: A recording is longer than the grader takes, or too short to frame a window.
    """
    state = {name: value.numpy() for name, value in encoder.state_dict().items()}
    kernel = Encoder(encoder.config, lambda name, _: state[name], precision="fp32", threads=threads)
    encoded = []
    for reading in readings:
        samples = read_audio(reading.utterance.audio)
        windows = log_mel_windows(config)
        mels = windows.push(samples)
        if (rest := windows.finish()) is not None:
            mels.append(rest)
        if not mels or len(samples) > config.max_samples:
            raise ManifestError(
                f"{reading.utterance.id} lasts {len(samples) / 16_000:.1f} s",
                hint=f"train on recordings of {config.min_window_s:g} to {config.max_audio_s:g} s",
            )
        encoded.append(np.concatenate(kernel.encode(mels, config.layer_weights)).astype(np.float16))
    return encoded
