"""Corpus and batches: recordings in memory, targets beside them, windows out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from asa_engine.audio import read_audio
from asa_engine.audio.intake import heard_samples
from asa_engine.errors import AudioError, ManifestError
from asa_engine.evaluation.manifest import Utterance
from asa_engine.evaluation.splits import Sides
from asa_engine.evaluation.words import ExpertPhone, ExpertWord, expert_words
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.graders.windows import log_mel_windows
from asa_engine.training.augment import AugmentRecipe, augment_mel, augment_samples
from asa_engine.training.targets import MANIFEST, target_of

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
        audio: float32 [samples] in [-1, 1] each, 16 kHz: what the grader hears of it.
        targets: What is trained on, in scale units, float64 [n, A].
        scores: The manifest's scores, which figures compare with, float64 [n, A].
        overall: Score the prior's bins are made from, float64 [n].
        auxiliary: `AUXILIARY` targets, float64 [n, 6]; None where the manifest has no words.
        phones: CTC labels, int64 each; None where the manifest has no words.
    """

    utterances: list[Utterance]
    audio: list[NDArray[np.float32]]
    targets: NDArray[np.float64]
    scores: NDArray[np.float64]
    overall: NDArray[np.float64]
    auxiliary: NDArray[np.float64] | None
    phones: list[Tensor] | None

    def __len__(self) -> int:
        return len(self.utterances)

    def samples(self, index: int) -> NDArray[np.float32]:
        """Return a recording as float32 [n] in [-1, 1]."""
        return self.audio[index]

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
    corpus: Sides,
    aspects: Sequence[str],
    targets: str,
    limit: int = 0,
    front: int = 0,
    augment: AugmentRecipe | None = None,
    seed: int = 0,
) -> tuple[Corpus, Corpus, list[str]]:
    """Read a corpus's recordings.

    Args:
        corpus: Its lines.
        aspects: Score names, each needed on every line.
        targets: One of `asa_engine.training.targets.TARGETS`.
        limit: Keep so many utterances of each side; 0 keeps all.
        front: What stands between the recordings and the grader, as in its configuration.
        augment: Its `copies` of train recordings, changed, follow those as they are.
        seed: Where the copies' chance comes from.

    Returns:
        Train side, dev side (held-out speakers), and the phone inventory (empty without words).

    Raises:
        ManifestError: A line cannot be used, or a recording cannot be read.
    """
    sides = [side[: limit or None] for side in (corpus.train, corpus.dev)]
    inventory = _inventory(corpus.all)
    copied = _copied(sides[0], augment, seed)
    whole = [[*sides[0], *copied], sides[1]]
    change = None if augment is None else partial(_changed, augment=augment, seed=seed)
    with tqdm(total=sum(map(len, whole)), desc="recordings", unit="", leave=False) as bar:
        hear = partial(_corpus, aspects=aspects, targets=targets, inventory=inventory, bar=bar)
        train, dev = (
            hear(side, front=front, changed_from=len(as_is), change=change)
            for side, as_is in zip(whole, sides, strict=True)
        )
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
    cutter = log_mel_windows(config, padded=config.window_padding == "full")
    windows = cutter.push(samples)
    rest = cutter.finish()
    return windows if rest is None else [*windows, rest]


def _inventory(utterances: list[Utterance]) -> list[str]:
    if not all(u.extra.get("words") for u in utterances):
        return []
    return sorted({name for u in utterances for name, _ in _phones(u)})


def _phones(utterance: Utterance) -> list[tuple[str, float]]:
    """Return (phone without stress mark, accuracy 0-2) in order."""
    words = expert_words(utterance)
    if not all(word.phones for word in words):
        raise ManifestError(f"{utterance.id}: words and phones are malformed: a word has no phones")
    return [(p.phone, _accuracy(p, utterance)) for word in words for p in word.phones]


def _accuracy(judged: ExpertWord | ExpertPhone, utterance: Utterance) -> float:
    if "accuracy" not in judged.scores:
        raise ManifestError(
            f"{utterance.id}: words and phones are malformed: one has no accuracy",
            hint="every word and phone needs one",
        )
    return judged.scores["accuracy"]


def _copied(side: list[Utterance], augment: AugmentRecipe | None, seed: int) -> list[Utterance]:
    if augment is None:
        return []
    chosen = np.random.default_rng([seed, len(side)]).permutation(len(side))
    return [side[i] for i in np.sort(chosen[: round(augment.copies * len(side))])]


def _changed(
    samples: NDArray[np.float32], number: int, augment: AugmentRecipe, seed: int
) -> tuple[NDArray[np.float32], int]:
    """Return a changed copy, and how often its words are said in it."""
    rng = np.random.default_rng([seed, number])
    times = 1 + int(rng.random() < augment.twice)
    return augment_samples(np.tile(samples, times), augment, rng), times


def _corpus(
    side: list[Utterance],
    aspects: Sequence[str],
    targets: str,
    inventory: list[str],
    front: int,
    changed_from: int,
    change: Callable[[NDArray[np.float32], int], tuple[NDArray[np.float32], int]] | None,
    bar: tqdm[None],
) -> Corpus:
    audio = []
    times = [1] * len(side)
    for at, utterance in enumerate(side):
        try:
            samples = read_audio(utterance.audio, max_duration_s=MAX_UTTERANCE_S)
        except AudioError as error:
            raise ManifestError(f"{utterance.id}: {error.message}", hint=error.hint) from None
        if change is not None and at >= changed_from:
            samples, times[at] = change(samples, at)
        audio.append(heard_samples(samples, front))
        bar.update()
    scores, goals = (
        np.array([[target_of(u, name, of) for name in aspects] for u in side])
        for of in (MANIFEST, targets)
    )
    overall = goals[:, list(aspects).index("total")] if "total" in aspects else goals.mean(1)
    if not inventory:
        return Corpus(side, audio, goals, scores, overall, None, None)
    number = {phone: i for i, phone in enumerate(inventory)}
    phones = [_phones(u) * said for u, said in zip(side, times, strict=True)]
    labels = [
        torch.tensor([1 + number[p] + len(inventory) * (a < POOR_PHONE) for p, a in item])
        for item in phones
    ]
    rates = [len(p) * 16_000 / len(a) for p, a in zip(phones, audio, strict=True)]
    auxiliary = np.array([_auxiliary(u, p, r) for u, p, r in zip(side, phones, rates, strict=True)])
    return Corpus(side, audio, goals, scores, overall, auxiliary, labels)


def _auxiliary(
    utterance: Utterance, phones: list[tuple[str, float]], phones_a_second: float
) -> list[float]:
    words = np.array([_accuracy(word, utterance) for word in expert_words(utterance)])
    accuracy = np.array([value for _, value in phones])
    return [
        words.mean(),
        words.min(),
        (words < POOR_WORD).mean(),
        accuracy.mean(),
        (accuracy < POOR_PHONE).mean(),
        float(np.log(phones_a_second)),
    ]
