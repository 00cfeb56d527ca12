"""Read texts with experts' scores of the whole, of words and of phones."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np
from numpy.typing import NDArray

from asa_engine.errors import AsaError, ManifestError
from asa_engine.evaluation.manifest import Utterance
from asa_engine.graders.pronunciation.describe import Sounds
from asa_engine.text import SpokenWord, pronounce, speak
from asa_engine.text.phones import PHONES, VOWELS
from asa_engine.training.pronunciation.network_fit import Targets

__all__ = ["ASPECTS", "Reading", "readings_of", "speaker_folds", "targets_of"]

ASPECTS = ("accuracy", "fluency", "prosodic", "total")


@dataclass(frozen=True, slots=True)
class Reading:
    """One recording of a text that was read.

    Attributes:
        utterance: The manifest's entry.
        words: Its words as a dictionary has them, with several pronunciations.
        told: Its words as the corpus transcribes them, with one.
        raters: Mean of the experts' scores, as in `ASPECTS`, [A].
        scores: The manifest's scores, which figures compare with, [A].
        word_scores: Accuracy of each word, 0 to 10.
        phone_scores: Of each word, accuracy of each phone that the corpus gives it, 0 to 2.
    """

    utterance: Utterance
    words: tuple[SpokenWord, ...]
    told: tuple[SpokenWord, ...]
    raters: NDArray[np.float64]
    scores: NDArray[np.float64]
    word_scores: tuple[float, ...]
    phone_scores: tuple[tuple[float, ...], ...]


def readings_of(utterances: Sequence[Utterance]) -> list[Reading]:
    """Return what a manifest's entries hold for training.

    Raises:
        ManifestError: One has no words, no phones, or no scores of them.
    """
    return [_reading(utterance) for utterance in utterances]


def targets_of(reading: Reading, sounds: Sounds) -> Targets:
    """Return what the experts say of a reading, phone by phone of the sounds that were laid.

    Phones of a word that the corpus transcribes otherwise are paired as their order allows; those
    without a counterpart have no score (NaN).
    """
    phones = np.full(len(sounds.symbols), np.nan, np.float32)
    for index, (told, scores) in enumerate(zip(reading.told, reading.phone_scores, strict=True)):
        own = np.flatnonzero(sounds.owners == index)
        ours = [sounds.symbols[i].rstrip("012") for i in own]
        theirs = [phone.rstrip("012") for phone in told.pronunciations[0]]
        for a, b in _pairs(ours, theirs):
            phones[own[a]] = scores[b]
    words = np.array(reading.word_scores, np.float32)
    return Targets(reading.raters.astype(np.float32), words, phones)


def speaker_folds(readings: Sequence[Reading], folds: int) -> NDArray[np.int64]:
    """Return the fold of each reading; all of one speaker's are in one fold."""
    speakers = [reading.utterance.speaker for reading in readings]
    order = np.random.default_rng(0).permutation(sorted(set(speakers)))
    fold = {speaker: i % folds for i, speaker in enumerate(order.tolist())}
    return np.array([fold[speaker] for speaker in speakers])


def _pairs(ours: Sequence[str], theirs: Sequence[str]) -> list[tuple[int, int]]:
    found = []
    for kind, a, b, c, d in SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        if kind in ("equal", "replace"):
            found += list(zip(range(a, b), range(c, d), strict=False))
    return found


def _reading(utterance: Utterance) -> Reading:
    try:
        entries = utterance.extra["words"]
        raters = utterance.extra.get("raters", {})
        texts = [str(word["text"]).lower() for word in entries]
        phones = [tuple(str(p["phone"]) for p in word["phones"]) for word in entries]
        reading = Reading(
            utterance,
            (words := _words(texts)),
            tuple(_told(word, said) for word, said in zip(words, phones, strict=True)),
            np.array([np.mean(raters.get(name, utterance.scores[name])) for name in ASPECTS]),
            np.array([float(utterance.scores[name]) for name in ASPECTS]),
            tuple(float(word["accuracy"]) for word in entries),
            tuple(tuple(float(p["accuracy"]) for p in word["phones"]) for word in entries),
        )
    except AsaError as error:
        raise ManifestError(f"{utterance.id} cannot be trained on: {error.message}") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ManifestError(
            f"{utterance.id} cannot be trained on: {error!r}",
            hint="every line needs scores, and words with phones and their scores",
        ) from None
    known = {phone for said in phones for phone in said}
    if not entries or not all(phones) or {p.rstrip("012") for p in known} - set(PHONES):
        raise ManifestError(f"{utterance.id} has no words, or phones that are not ARPAbet's")
    return reading


def _words(texts: Sequence[str]) -> tuple[SpokenWord, ...]:
    """Return the words, one for each of the corpus's: what it splits stays split."""
    spoken = speak(" ".join(texts)).words
    if [word.spoken for word in spoken] == list(texts):
        return tuple(spoken)
    return tuple(
        SpokenWord(text, text, found.pronunciations, found.source, found.confidence, (0, 0))
        for text in texts
        for found in (pronounce(text),)
    )


def _told(word: SpokenWord, phones: tuple[str, ...]) -> SpokenWord:
    """Return a word as the corpus transcribes it, its stress the dictionary's where that fits."""
    vowels = [p for p in word.pronunciations[0] if p.rstrip("012") in VOWELS]
    bare = [p.rstrip("012") for p in phones]
    places = [i for i, p in enumerate(bare) if p in VOWELS]
    digits = [p[-1] for p in vowels] if len(vowels) == len(places) else ["1"] * len(places)
    for place, digit in zip(places, digits, strict=True):
        bare[place] += digit
    return dataclasses.replace(word, pronunciations=(tuple(bare),))
