"""Corpus and batches: recordings in memory, targets beside them, windows out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from asa_engine.audio import read_audio
from asa_engine.errors import AudioError, ManifestError
from asa_engine.features.log_mel import WindowedLogMel
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.manifest import Utterance, dev_split, read_manifest
from asa_engine.training.augment import augment_mel, augment_samples
from asa_engine.training.recipe import AugmentRecipe

__all__ = ["Batch", "Corpus", "epoch_order", "load_corpus", "make_batch"]

MAX_UTTERANCE_S = 600.0
AUXILIARY = (
    "mean word accuracy",
    "lowest word accuracy",
    "share of words below 7",
    "mean phone accuracy",
    "share of mispronounced phones",
    "log phones a second",
)
POOR_WORD = 7.0
# A phone most experts found wanting (0-2 scale) is a different symbol for the CTC: its class is
# that of the phone meant, moved up by the size of the inventory.
POOR_PHONE = 1.5


@dataclass(frozen=True)
class Corpus:
    """Recordings of one side of the split and what is known of them.

    Attributes:
        utterances: Manifest entries, n of them.
        audio: int16 [samples] each, 16 kHz.
        targets: What is trained on, in scale units, float64 [n, A].
        scores: The manifest's scores, which figures compare with, float64 [n, A].
        overall: Score the prior's bins are made from, float64 [n].
        auxiliary: `AUXILIARY` targets, float64 [n, 6]; None where the manifest has no words.
        phones: CTC labels, int64 each; None where the manifest has no words.
    """

    utterances: list[Utterance]
    audio: list[NDArray[np.int16]]
    targets: NDArray[np.float64]
    scores: NDArray[np.float64]
    overall: NDArray[np.float64]
    auxiliary: NDArray[np.float64] | None
    phones: list[Tensor] | None

    def __len__(self) -> int:
        return len(self.utterances)

    def samples(self, index: int) -> NDArray[np.float32]:
        """Return a recording as float32 [n] in [-1, 1]."""
        return self.audio[index].astype(np.float32) / 32768.0

    def durations_s(self) -> NDArray[np.float64]:
        """Return the length of each recording, s."""
        return np.array([len(audio) / 16_000 for audio in self.audio])


@dataclass(frozen=True)
class Batch:
    """Windows of some utterances, padded to the longest.

    Attributes:
        index: Utterances, as positions in the corpus, [N].
        mel: Log-mel windows, float32 [B, n_mels, T].
        lengths: Valid mel frames of each window, int64 [B].
        owner: Which of the N utterances a window is of, int64 [B]; windows are in time order.
    """

    index: list[int]
    mel: Tensor
    lengths: Tensor
    owner: Tensor


def load_corpus(
    manifest: Path, aspects: Sequence[str], targets: str, limit: int = 0
) -> tuple[Corpus, Corpus, list[str]]:
    """Read a manifest and its recordings.

    Args:
        manifest: JSON Lines file.
        aspects: Score names, each needed on every line.
        targets: `raters` or `medians`.
        limit: Keep so many utterances of each side; 0 keeps all.

    Returns:
        Train side, dev side (held-out speakers), and the phone inventory (empty without words).

    Raises:
        ManifestError: A line cannot be used, a recording cannot be read, or a side is empty.
    """
    utterances = read_manifest(manifest)
    sides = [side[: limit or None] for side in dev_split(utterances)]
    if not all(sides):
        raise ManifestError(
            f"{manifest} has no {'dev' if sides[0] else 'train'} speaker",
            mend="dev speakers are those whose number is divisible by 5",
        )
    inventory = _inventory(utterances)
    with tqdm(total=sum(map(len, sides)), desc="recordings", unit="", leave=False) as bar:
        train, dev = (_corpus(side, aspects, targets, inventory, bar) for side in sides)
    return train, dev, inventory


def epoch_order(corpus: Corpus, batch_size: int, rng: Generator) -> list[list[int]]:
    """Return the batches of one epoch: random, but of recordings of like length."""
    lengths = np.array([len(audio) for audio in corpus.audio])
    order = rng.permutation(len(corpus))
    pool = batch_size * 8
    batches: list[list[int]] = []
    for start in range(0, len(order), pool):
        some = order[start : start + pool]
        some = some[np.argsort(lengths[some] + rng.normal(0, 8000, len(some)), kind="stable")]
        batches += [some[i : i + batch_size].tolist() for i in range(0, len(some), batch_size)]
    # A batch of one has no variance for the concordance loss.
    batches = [batch for batch in batches if len(batch) >= min(batch_size, 2)]
    return [batches[i] for i in rng.permutation(len(batches))]


def make_batch(
    corpus: Corpus,
    index: list[int],
    config: AcousticConfig,
    augment: AugmentRecipe | None = None,
    rng: Generator | None = None,
) -> Batch:
    """Compute the log-mel windows of some utterances, augmented if asked for.

    Raises:
        AudioError: A recording is too short to frame a window.
    """
    mels: list[NDArray[np.float32]] = []
    owner: list[int] = []
    for position, item in enumerate(index):
        samples = corpus.samples(item)
        if augment is not None and rng is not None:
            samples = augment_samples(samples, augment, rng)
        windows = _windows(samples, config)
        if not windows:
            raise AudioError(f"{corpus.utterances[item].audio} is too short to be trained on")
        if augment is not None and rng is not None:
            windows = [augment_mel(mel, augment, rng) for mel in windows]
        mels += windows
        owner += [position] * len(windows)
    lengths = torch.tensor([mel.shape[1] for mel in mels])
    padded = torch.zeros(len(mels), config.encoder.n_mels, int(lengths.max()))
    for row, mel in zip(padded, mels, strict=True):
        row[:, : mel.shape[1]] = torch.from_numpy(mel)
    return Batch(index, padded, lengths, torch.tensor(owner))


def _windows(samples: NDArray[np.float32], config: AcousticConfig) -> list[NDArray[np.float32]]:
    cutter = WindowedLogMel(
        config.encoder.n_mels,
        config.window_samples,
        pad_to_window=config.window_padding == "full",
        min_samples=config.min_window_samples,
    )
    windows = cutter.push(samples)
    rest = cutter.finish()
    return windows if rest is None else [*windows, rest]


def _inventory(utterances: list[Utterance]) -> list[str]:
    if not all(u.extra.get("words") for u in utterances):
        return []
    return sorted({name for u in utterances for name, _ in _phones(u)})


def _phones(utterance: Utterance) -> list[tuple[str, float]]:
    """Return (phone without stress mark, accuracy 0-2) in order."""
    try:
        return [
            (str(phone["phone"]).rstrip("012"), float(phone["accuracy"]))
            for word in utterance.extra["words"]
            for phone in word["phones"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"{utterance.id}: words and phones are malformed: {error!r}") from None


def _corpus(
    side: list[Utterance],
    aspects: Sequence[str],
    targets: str,
    inventory: list[str],
    bar: tqdm[None],
) -> Corpus:
    audio = []
    for utterance in side:
        try:
            samples = read_audio(utterance.audio, max_duration_s=MAX_UTTERANCE_S)
        except AudioError as error:
            raise ManifestError(f"{utterance.id}: {error.message}", mend=error.mend) from None
        audio.append(np.round(np.clip(samples * 32768.0, -32768, 32767)).astype(np.int16))
        bar.update()
    scores = np.array([_scores(u, aspects, "medians") for u in side])
    goals = np.array([_scores(u, aspects, targets) for u in side])
    overall = goals[:, list(aspects).index("total")] if "total" in aspects else goals.mean(1)
    if not inventory:
        return Corpus(side, audio, goals, scores, overall, None, None)
    number = {phone: i for i, phone in enumerate(inventory)}
    phones = [_phones(u) for u in side]
    labels = [
        torch.tensor([1 + number[p] + len(inventory) * (a < POOR_PHONE) for p, a in item])
        for item in phones
    ]
    rates = [len(p) * 16_000 / len(a) for p, a in zip(phones, audio, strict=True)]
    auxiliary = np.array([_auxiliary(u, p, r) for u, p, r in zip(side, phones, rates, strict=True)])
    return Corpus(side, audio, goals, scores, overall, auxiliary, labels)


def _scores(utterance: Utterance, aspects: Sequence[str], targets: str) -> list[float]:
    raters = utterance.extra.get("raters") or {}
    try:
        if targets == "raters":
            values = [float(np.mean([float(v) for v in raters[name]])) for name in aspects]
        else:
            values = [utterance.scores[name] for name in aspects]
    except (KeyError, TypeError, ValueError) as error:
        raise ManifestError(
            f"{utterance.id} lacks {targets} for {', '.join(aspects)}: {error!r}",
            mend="name every aspect on every line, or train on medians",
        ) from None
    if not np.isfinite(values).all():
        raise ManifestError(f"{utterance.id}: a score is not a finite number")
    return values


def _auxiliary(
    utterance: Utterance, phones: list[tuple[str, float]], phones_a_second: float
) -> list[float]:
    words = np.array([float(word["accuracy"]) for word in utterance.extra["words"]])
    accuracy = np.array([value for _, value in phones])
    return [
        words.mean(),
        words.min(),
        (words < POOR_WORD).mean(),
        accuracy.mean(),
        (accuracy < POOR_PHONE).mean(),
        float(np.log(phones_a_second)),
    ]
