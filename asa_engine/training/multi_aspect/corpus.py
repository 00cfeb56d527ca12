"""What is trained on: frozen features of every recording, computed once and kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from asa_engine.assessment import Word
from asa_engine.audio import SAMPLE_RATE_HZ, read_audio
from asa_engine.errors import AudioError, ManifestError
from asa_engine.evaluation.manifest import Utterance
from asa_engine.evaluation.splits import Sides
from asa_engine.features.delivery import DeliveryTracker
from asa_engine.features.linguistic import Analyser
from asa_engine.graders.multi_aspect.config import MultiAspectConfig
from asa_engine.graders.multi_aspect.features import (
    Encode,
    describe_words,
    prompt_of,
    speech_frames,
)
from asa_engine.graders.multi_aspect.model import Inputs
from asa_engine.profiling import StageClock
from asa_engine.training.targets import target_of

__all__ = ["Example", "Side", "compute_examples", "load_examples", "split_sides"]

Vector = Callable[[str, str], NDArray[np.float32]]
"""A text and its pooling, `cls` or `mean`, to its vector, float32 [prompt_width]."""


@dataclass(frozen=True)
class Example:
    """One recording's features.

    Attributes:
        frames: float16 [T, frame_width].
        prompt: float32 [prompt_width].
        transcript: Mean vector of the words heard, float32 [prompt_width].
        delivery: float32 [W, 16].
        language: uint8 [W, 263].
        named: Features under names that a teacher can read.
    """

    frames: NDArray[np.float16]
    prompt: NDArray[np.float32]
    transcript: NDArray[np.float32]
    delivery: NDArray[np.float32]
    language: NDArray[np.uint8]
    named: dict[str, float]


@dataclass(frozen=True)
class Side:
    """One side of the split.

    Attributes:
        utterances: Manifest entries, n of them; those in which no word was heard are left out.
        examples: Their features.
        scores: The experts' scores, float64 [n, A].
        labels: Their classes, int64 [n, A].
        empty: Ids left out.
    """

    utterances: list[Utterance]
    examples: list[Example]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    empty: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.utterances)

    def counts(self, aspect: int, classes: int) -> list[int]:
        """Return the examples of each class."""
        return [int(n) for n in np.bincount(self.labels[:, aspect], minlength=classes)]

    def batches(self, size: int, rng: Generator | None = None) -> Iterator[list[int]]:
        """Yield batches of recordings of like length; in random order if given chance."""
        lengths = np.array([len(item.frames) for item in self.examples], dtype=np.float64)
        if rng is not None:
            # Wide enough to mix classes: the longest recordings are the slowest readers'.
            lengths *= rng.uniform(0.7, 1.4, len(lengths))
        order = np.argsort(lengths, kind="stable").tolist()
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        turn = range(len(parts)) if rng is None else rng.permutation(len(parts))
        yield from (parts[i] for i in turn)

    def inputs(self, index: Sequence[int]) -> tuple[Inputs, Tensor]:
        """Return a batch's inputs, padded, and the vectors of its transcripts."""
        items = [self.examples[i] for i in index]
        inputs = Inputs(
            frames=_padded([item.frames for item in items]),
            frame_counts=torch.tensor([len(item.frames) for item in items]),
            prompt=torch.from_numpy(np.stack([item.prompt for item in items])),
            delivery=_padded([item.delivery for item in items]),
            language=_padded([item.language for item in items]),
            word_counts=torch.tensor([len(item.delivery) for item in items]),
        )
        return inputs, torch.from_numpy(np.stack([item.transcript for item in items]))


def compute_examples(
    utterances: Sequence[Utterance],
    heard: Mapping[str, Sequence[Word]],
    config: MultiAspectConfig,
    *,
    encode: Encode,
    vector: Vector,
    analyser: Analyser,
    path: Path,
) -> None:
    """Compute the features of every recording and write them to one `.npz`.

    Args:
        utterances: The recordings.
        heard: Id -> the words that the recogniser heard.
        config: The grader's configuration.
        encode: The speech encoder.
        vector: The text encoder.
        analyser: Tags the words.
        path: The file.

    Raises:
        ManifestError: A recording cannot be read, is too short, or has no transcript.
    """
    arrays: dict[str, NDArray[np.generic]] = {}
    for utterance in tqdm(utterances, desc="features", unit="", leave=False):
        if utterance.id not in heard:
            raise ManifestError(f"{utterance.id} has no transcript")
        try:
            samples = read_audio(utterance.audio)
        except AudioError as error:
            raise ManifestError(f"{utterance.id}: {error.message}", hint=error.hint) from None
        speech = speech_frames(config, encode, StageClock())
        speech.push(samples)
        frames = speech.finish()
        if frames is None:
            raise ManifestError(f"{utterance.id} is too short to be trained on")
        tracker = DeliveryTracker()
        tracker.push(samples)
        said = heard[utterance.id]
        features = describe_words(said, tracker.finish(), samples.size / SAMPLE_RATE_HZ, analyser)
        arrays |= {
            f"{utterance.id}/frames": frames.astype(np.float16),
            f"{utterance.id}/prompt": vector(prompt_of(utterance.texts), config.prompt_pooling),
            f"{utterance.id}/transcript": vector(" ".join(w.text for w in said), "mean"),
            f"{utterance.id}/delivery": features.delivery,
            f"{utterance.id}/language": features.language.astype(np.uint8),
            f"{utterance.id}/names": np.array(list(features.named)),
            f"{utterance.id}/named": np.array(list(features.named.values())),
        }
    work = path.with_suffix(".tmp.npz")
    np.savez(work, **arrays)  # type: ignore[arg-type]  # its stub takes arrays of any one kind
    work.replace(path)


def load_examples(path: Path) -> dict[str, Example]:
    """Read what `compute_examples` wrote: id -> example."""
    with np.load(path, allow_pickle=False) as stored:
        ids = [name.removesuffix("/frames") for name in stored if name.endswith("/frames")]
        return {
            key: Example(
                frames=stored[f"{key}/frames"],
                prompt=stored[f"{key}/prompt"],
                transcript=stored[f"{key}/transcript"],
                delivery=stored[f"{key}/delivery"],
                language=stored[f"{key}/language"],
                named=dict(
                    zip(
                        stored[f"{key}/names"].tolist(),
                        stored[f"{key}/named"].tolist(),
                        strict=True,
                    )
                ),
            )
            for key in ids
        }


def split_sides(
    sides: Sides, examples: Mapping[str, Example], config: MultiAspectConfig, targets: str
) -> tuple[Side, Side]:
    """Return (train, dev), with `targets` of `asa_engine.training.targets.TARGETS`.

    Raises:
        ManifestError: A line lacks a score, or no word was heard on a side.
    """
    train, dev = (_side(side, examples, config, targets) for side in (sides.train, sides.dev))
    if not len(train) or not len(dev):
        raise ManifestError("no word was heard on the train or the dev side")
    return train, dev


def _side(
    utterances: Sequence[Utterance],
    examples: Mapping[str, Example],
    config: MultiAspectConfig,
    targets: str,
) -> Side:
    wanted = {u.id: [target_of(u, a.name, targets) for a in config.aspects] for u in utterances}
    kept = [u for u in utterances if len(examples[u.id].delivery)]
    scores = np.array([wanted[u.id] for u in kept]).reshape(len(kept), len(config.aspects))
    labels = [
        np.searchsorted(np.asarray(aspect.level_cuts), scores[:, i], side="right")
        for i, aspect in enumerate(config.aspects)
    ]
    return Side(
        utterances=kept,
        examples=[examples[u.id] for u in kept],
        scores=scores,
        labels=np.stack(labels, axis=1).astype(np.int64),
        empty=tuple(u.id for u in utterances if not len(examples[u.id].delivery)),
    )


def _padded(items: Sequence[NDArray[np.generic]]) -> Tensor:
    batch = np.zeros((len(items), max(map(len, items)), items[0].shape[1]), dtype=np.float32)
    for row, item in zip(batch, items, strict=True):
        row[: len(item)] = item
    return torch.from_numpy(batch)
