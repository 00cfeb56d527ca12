"""A corpus as the grader hears it: sounds, texts written over them, readings in numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from asa_engine.audio import read_audio
from asa_engine.audio.intake import heard_samples
from asa_engine.errors import ManifestError
from asa_engine.graders.pronunciation.describe import (
    SAMPLES_PER_FRAME,
    Described,
    Sounds,
    classes_of,
    describe_free,
    describe_gaps,
    describe_text,
    describe_words,
)
from asa_engine.graders.pronunciation.judge import Pooled, phone_log_probabilities
from asa_engine.graders.pronunciation.measures import Array, Segments
from asa_engine.graders.pronunciation.plan import lay, leaps_of, tokens_of
from asa_engine.text import SpokenWord
from asa_engine.training.pronunciation.listening import Sound, Writing, listen, write_texts
from asa_engine.training.pronunciation.network_fit import Example, Targets
from asa_engine.training.pronunciation.phones import Lesson, Weights
from asa_engine.training.pronunciation.readings import (
    Reading,
    readings_of,
    speaker_folds,
    targets_of,
)
from asa_engine.training.pronunciation.recipe import PronunciationRecipe
from asa_engine.training.pronunciation.source import Source
from asa_engine.training.pronunciation.worse import cut, worsen

__all__ = ["Case", "Read", "Studio"]


class Read(NamedTuple):
    """One reading in numbers.

    Attributes:
        reading: Which one.
        text: With its text, and what experts say; `None` where the text could not be laid.
        free: Without its text; `None` where hardly a phone was heard.
        asked: `describe_words`.
        gaps: `describe_gaps`.
    """

    reading: int
    text: Example | None
    free: Example | None
    asked: Array | None
    gaps: Array | None


class Case(NamedTuple):
    """A text that differs from what was said, for the verdicts.

    Attributes:
        reading: Which one.
        described: In numbers.
        asked: `describe_words`.
        gaps: `describe_gaps`.
        word: Which word was left out of the recording, or before which word one is missing in the
            text; -1 where all of the text is another's.
    """

    reading: int
    described: Described
    asked: Array
    gaps: Array
    word: int


class _Laid(NamedTuple):
    """A text laid over a recording, and what is asked of it."""

    described: Described
    sounds: Sounds
    asked: Array
    gaps: Array


class Studio:
    """Hears a corpus once and keeps it; describes it by any phone layer.

    Args:
        recipe: What to do.
        source: The Whisper that listens.
        work: Where it is kept.

    Raises:
        ManifestError: The corpus cannot be used.
    """

    def __init__(self, recipe: PronunciationRecipe, source: Source, work: Path) -> None:
        self._recipe = recipe
        self._source = source
        self._work = work
        utterances = recipe.utterances()
        if recipe.data.limit:
            utterances = utterances[:: max(1, len(utterances) // recipe.data.limit)]
        self.readings: list[Reading] = readings_of(utterances)
        self.folds = speaker_folds(self.readings, recipe.data.folds)
        if len(np.unique(self.folds)) < recipe.data.folds:
            raise ManifestError(
                f"there are fewer speakers than {recipe.data.folds} folds",
                hint="lower [data] folds",
            )

    @cached_property
    def sounds(self) -> list[Sound | None]:
        """Every recording as it is."""
        recordings = [partial(read_audio, r.utterance.audio) for r in self.readings]
        return listen(self._work, "heard", recordings, self._source.stages, self._source.config)

    @cached_property
    def writings(self) -> list[Writing | None]:
        """Every text over its recording."""
        return self._write("text", self.sounds, self.readings_words)

    @cached_property
    def readings_words(self) -> list[list[str]]:
        """The spoken words of each reading."""
        return [[word.spoken for word in reading.words] for reading in self.readings]

    def lessons(self) -> tuple[list[int], list[Lesson]]:
        """Return what the phone layer learns from, and which readings they are."""
        kept, lessons = [], []
        for index, (reading, sound) in enumerate(zip(self.readings, self.sounds, strict=True)):
            if sound is None:
                continue
            told = classes_of([word.pronunciations[0] for word in reading.told])
            scores = np.concatenate([np.array(word) for word in reading.phone_scores])
            lessons.append(Lesson(sound.frames, told.classes, told.owners, scores))
            kept.append(index)
        return kept, lessons

    def read(self, layers: Mapping[int, Weights], usual: Array, *, told: bool) -> list[Read]:
        """Describe every reading, each by the layer of its speaker's fold.

        Args:
            layers: Fold -> the phone layer that has not heard it.
            usual: Of `usual_lengths`.
            told: Whether the phones are the corpus's transcription, or a dictionary's.
        """
        return self._read(self.sounds, self.writings, layers, usual, told=told)

    def read_worse(self, layers: Mapping[int, Weights], usual: Array) -> list[Read]:
        """Describe some readings made worse, with a dictionary's phones."""
        chance = np.random.default_rng([self._recipe.seed, 1])
        chosen = np.flatnonzero(chance.random(len(self.readings)) < self._recipe.data.worse)
        recordings = [
            partial(_worse, self.readings[index].utterance.audio, [self._recipe.seed, 2, index])
            for index in chosen.tolist()
        ]
        stages, config = self._source.stages, self._source.config
        sounds: list[Sound | None] = [None] * len(self.readings)
        writings: list[Writing | None] = [None] * len(self.readings)
        heard = listen(self._work, "worse", recordings, stages, config)
        texts = [self.readings_words[index] for index in chosen]
        quiet = [None if (w := self.writings[index]) is None else w.quiet for index in chosen]
        written = write_texts(self._work, "worse-text", heard, texts, stages, quiet)
        for index, sound, writing in zip(chosen.tolist(), heard, written, strict=True):
            sounds[index], writings[index] = sound, writing
        return self._read(sounds, writings, layers, usual, told=False)

    def cases(
        self, kind: str, reads: Sequence[Read], layers: Mapping[int, Weights], usual: Array
    ) -> list[Case]:
        """Describe readings whose text differs from what was said.

        Args:
            kind: `cut`: a word is cut out of the recording; `short`: one is missing in the text;
                `other`: the text is another reading's.
            reads: From `read` with a dictionary's phones.
            layers: Fold -> phone layer.
            usual: Of `usual_lengths`.
        """
        chance = np.random.default_rng([self._recipe.seed, len(kind)])
        chosen, words, texts = [], [], []
        for read in reads:
            count = len(self.readings[read.reading].words)
            if read.text is None or (kind != "other" and count < 2):
                continue
            if chance.random() >= self._recipe.verdicts.share:
                continue
            word = -1 if kind == "other" else int(chance.integers(count))
            source = read.reading
            if kind == "other":
                source = int(chance.integers(len(self.readings)))
                if self.readings_words[source] == self.readings_words[read.reading]:
                    continue
            spoken = list(self.readings[source].words)
            if kind == "short":
                del spoken[word]
            chosen.append(read)
            words.append(word)
            texts.append(spoken)
        sounds = [self.sounds[read.reading] for read in chosen]
        if kind == "cut":
            recordings = [
                partial(self._cut, read, word) for read, word in zip(chosen, words, strict=True)
            ]
            heard = dataclasses.replace(self._source.config, front=0)
            sounds = listen(self._work, kind, recordings, self._source.stages, heard)
        writings = self._write(
            f"{kind}-text", sounds, [[word.spoken for word in text] for text in texts]
        )
        found = []
        for read, word, text, sound, writing in zip(
            chosen, words, texts, sounds, writings, strict=True
        ):
            if sound is None or writing is None:
                continue
            one = self._describe(sound, writing, text, layers[int(self.folds[read.reading])], usual)
            if one is not None:
                found.append(Case(read.reading, one.described, one.asked, one.gaps, word))
        return found

    def _write(
        self, name: str, sounds: Sequence[Sound | None], texts: Sequence[Sequence[str]]
    ) -> list[Writing | None]:
        return write_texts(self._work, name, sounds, texts, self._source.stages)

    def _cut(self, read: Read, word: int) -> Array:
        reading = self.readings[read.reading]
        kept = heard_samples(read_audio(reading.utterance.audio), self._source.config.front)
        assert read.text is not None
        start, end = read.text.described.segments.word_spans[word].tolist()
        return cut(kept, start * SAMPLES_PER_FRAME, end * SAMPLES_PER_FRAME)

    def _read(
        self,
        sounds: Sequence[Sound | None],
        writings: Sequence[Writing | None],
        layers: Mapping[int, Weights],
        usual: Array,
        *,
        told: bool,
    ) -> list[Read]:
        found = []
        rows = zip(self.readings, sounds, writings, strict=True)
        for index, (reading, sound, writing) in enumerate(
            tqdm(rows, desc="described", unit="", leave=False, total=len(self.readings))
        ):
            if sound is None or writing is None:
                continue
            words = reading.told if told else reading.words
            layer = layers[int(self.folds[index])]
            one = self._describe(sound, writing, words, layer, usual)
            pooled = Pooled(len(sound.frames), sound.moments)
            frames = sound.frames.astype(np.float32)
            heard = phone_log_probabilities(layer, frames)
            free = describe_free(frames, heard, sound.levels, usual)
            nothing = np.zeros(0, np.float32)
            targets = Targets(reading.raters.astype(np.float32), nothing, nothing)
            found.append(
                Read(
                    index,
                    None
                    if one is None
                    else Example(one.described, pooled, targets_of(reading, one.sounds)),
                    None if free is None else Example(free, pooled, targets),
                    None if one is None else one.asked,
                    None if one is None else one.gaps,
                )
            )
        return found

    def _describe(
        self,
        sound: Sound,
        writing: Writing,
        words: Sequence[SpokenWord],
        layer: Weights,
        usual: Array,
    ) -> _Laid | None:
        frames = sound.frames.astype(np.float32)
        heard = phone_log_probabilities(layer, frames)
        found = lay(heard, words)
        if found is None:
            return None
        sounds, alignment = found
        segments = Segments(alignment.spans, sounds.classes, sounds.owners, sounds.stress)
        forced = writing.forced()
        one = describe_text(frames, heard, sound.levels, segments, alignment.fit, forced, usual)
        tokens, owners = tokens_of(self._source.stages.vocabulary, [word.spoken for word in words])
        leaps = leaps_of(self._source.stages.vocabulary, tokens, owners, writing.written.other)
        return _Laid(
            one,
            sounds,
            describe_words(heard, one, forced, leaps),
            describe_gaps(heard, sound.levels, one, forced),
        )


def _worse(path: Path, seed: Sequence[int]) -> Array:
    return worsen(read_audio(path), np.random.default_rng(seed))
