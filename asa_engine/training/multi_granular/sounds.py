"""Sounds before words: the phone layer, then slots and projector, without the language model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from asa_engine.evaluation.metrics import pcc
from asa_engine.features.phone_alignment import SILENCE, align
from asa_engine.graders.multi_granular.model import AudioProjector, PhoneLayer, Slots
from asa_engine.graders.multi_granular.parts import sound_features
from asa_engine.training.multi_granular.readings import Reading
from asa_engine.training.multi_granular.recipe import PhonesRecipe, WarmRecipe

__all__ = ["Heard", "Sounds", "learn_phones", "slot_batch", "sounds_of", "warm_slots"]

Frames = Sequence[NDArray[np.float16]]


@dataclass(frozen=True)
class Sounds:
    """How the phones of a side's readings were said.

    Attributes:
        features: `sound_features` of each reading, float32 [P, F].
        fits: `Alignment.fit` of each; -inf where the text could not be aligned with the recording.
        mismatched: The same under the text of another reading.
    """

    features: list[NDArray[np.float32]]
    fits: NDArray[np.float64]
    mismatched: NDArray[np.float64]


@dataclass(frozen=True)
class Heard:
    """A side's readings, what was read in them, and how it was said.

    Attributes:
        frames: Of the encoder, [T, D] each.
        sounds: The phones' features.
        readings: In the same order.
    """

    frames: Frames
    sounds: Sounds
    readings: Sequence[Reading]


def learn_phones(
    layer: PhoneLayer, frames: Frames, readings: Sequence[Reading], how: PhonesRecipe, seed: int
) -> list[float]:
    """Train the phone layer in place: align the text with the frames, learn that, and again.

    In the first round the phones have equal lengths, between a tenth of silence on either side
    (flat start).

    Returns:
        Mean cross-entropy of each round.
    """
    chance = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=how.lr, weight_decay=0.01)
    torch.manual_seed(seed)
    losses = []
    for turn in tqdm(range(how.rounds), desc="phones", unit="", leave=False):
        last = turn == how.rounds - 1
        count = len(readings) if last else max(1, math.ceil(how.share * len(readings)))
        some = np.sort(chance.permutation(len(readings))[:count])
        wanted = [_classes(layer if turn else None, frames[i], readings[i]) for i in some]
        x = np.concatenate([frames[i] for i in some])
        y = torch.from_numpy(np.concatenate(wanted))
        for group in optimizer.param_groups:
            group["lr"] = how.lr if turn < 0.75 * how.rounds else how.lr / 3
        layer.dropout.p = how.dropout
        layer.train()
        total = 0.0
        for batch in torch.split(torch.from_numpy(chance.permutation(len(y))), how.batch_size):
            said = layer(torch.from_numpy(x[batch.numpy()]).float())
            loss = F.nll_loss(said, y[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item() * len(batch)
        losses.append(round(total / len(y), 4))
        layer.eval()
    return losses


def sounds_of(layer: PhoneLayer, frames: Frames, readings: Sequence[Reading], title: str) -> Sounds:
    """Align every text with its recording and describe the phones.

    A text that has more phones than its recording has frames is described by single frames.
    """
    features, fits, mismatched = [], [], []
    for index, reading in enumerate(tqdm(readings, desc=title, unit="", leave=False)):
        said = _said(layer, frames[index])
        aligned = align(said, reading.classes, reading.owners)
        if aligned is None:
            at = np.arange(len(reading.classes)) * len(said) // len(reading.classes)
            spans = np.stack((at, at + 1), 1)
        else:
            spans = aligned.spans
        fits.append(aligned.fit if aligned else -np.inf)
        features.append(
            sound_features(frames[index].astype(np.float32), said, spans, reading.classes)
        )
        other = readings[(index + 1 + len(readings) // 2) % len(readings)]
        wrong = align(said, other.classes, other.owners)
        mismatched.append(wrong.fit if wrong else -np.inf)
    return Sounds(features, np.array(fits), np.array(mismatched))


def warm_slots(
    slots: Slots, projector: AudioProjector, heard: Heard, how: WarmRecipe, seed: int
) -> Probes:
    """Train slots and projector in place: linear layers on their tokens learn the scores.

    Returns:
        Those layers, for figures; they are no part of the grader.
    """
    readings = heard.readings
    table = np.concatenate(heard.sounds.features)
    slots.mean.copy_(torch.from_numpy(table.mean(0)))
    slots.deviation.copy_(torch.from_numpy(table.std(0) + 1e-4))
    torch.manual_seed(seed)
    probes = Probes(slots.all_out.out_features, readings)
    parameters = [*slots.parameters(), *projector.parameters(), *probes.parameters()]
    optimizer = torch.optim.AdamW(
        {"params": [p], "weight_decay": how.weight_decay if p.ndim > 1 else 0.0} for p in parameters
    )
    chance = np.random.default_rng(seed)
    order = [
        batch
        for _ in range(how.epochs)
        for batch in np.array_split(
            chance.permutation(len(readings)), math.ceil(len(readings) / how.batch_size)
        )
    ]
    for part in (slots, projector):
        part.dropout.p = how.dropout
        part.train()
    for step, index in enumerate(tqdm(order, desc="slots", unit="", leave=False)):
        rate = how.lr * 0.5 * (1 + math.cos(math.pi * step / len(order)))
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 50)
        loss = probes.loss(
            probes.said(slots, projector, heard, index.tolist()),
            [readings[i] for i in index],
            how.phone_weight,
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    for part in (slots, projector):
        part.eval()
    return probes


class Probes(nn.Module):
    """Linear layers from tokens to scores, standardised over the training readings.

    Args:
        width: Of the tokens.
        readings: Training readings.
    """

    def __init__(self, width: int, readings: Sequence[Reading]) -> None:
        super().__init__()
        targets = _targets(readings)
        self.means = [item.mean(0) for item in targets]
        self.deviations = [item.std(0) + 1e-4 for item in targets]
        scores = targets[0].shape[1]
        self.all = nn.Linear(width, scores)
        self.audio = nn.Linear(width, scores)
        self.word = nn.Linear(width, 1)
        self.one = nn.Linear(width, 1)

    def said(
        self, slots: Slots, projector: AudioProjector, heard: Heard, index: Sequence[int]
    ) -> list[Tensor]:
        """Return what is said of some readings: scores by slots and by audio, words, phones."""
        frames = heard.frames
        whole, word, one = slots(*slot_batch(heard, index))
        lengths = torch.tensor([len(frames[i]) for i in index])
        padded = nn.utils.rnn.pad_sequence(
            [torch.from_numpy(frames[i]).float() for i in index], batch_first=True
        )
        tokens = projector(padded, lengths)
        counts = (lengths + projector.stack - 1) // projector.stack
        audio = torch.stack([row[:n].mean(0) for row, n in zip(tokens, counts, strict=True)])
        return [self.all(whole), self.audio(audio), self.word(word), self.one(one)]

    def loss(self, said: Sequence[Tensor], readings: Sequence[Reading], phones: float) -> Tensor:
        """Return the weighted sum of the standardised squared errors."""
        wanted = [
            (item - mean) / deviation
            for item, mean, deviation in zip(
                _targets(readings), self.means, self.deviations, strict=True
            )
        ]
        total = F.mse_loss(said[0], wanted[0]) + F.mse_loss(said[1], wanted[0])
        return total + F.mse_loss(said[2], wanted[1]) + phones * F.mse_loss(said[3], wanted[2])

    @torch.inference_mode()
    def figures(self, slots: Slots, projector: AudioProjector, heard: Heard) -> dict[str, float]:
        """Return correlations with the experts on readings."""
        readings = heard.readings
        every = list(range(len(readings)))
        parts = [
            self.said(slots, projector, heard, every[start : start + 50])
            for start in range(0, len(every), 50)
        ]
        said = [torch.cat([part[i] for part in parts]).double().numpy() for i in range(4)]
        scores, words, phones = (item.double().numpy() for item in _targets(readings))
        names = ("accuracy", "fluency", "prosodic")
        figures = {f"slots_{n}": pcc(said[0][:, i], scores[:, i]) for i, n in enumerate(names)}
        figures |= {f"audio_{n}": pcc(said[1][:, i], scores[:, i]) for i, n in enumerate(names)}
        figures |= {
            "word": pcc(said[2][:, 0], words[:, 0]),
            "phone": pcc(said[3][:, 0], phones[:, 0]),
        }
        return {name: round(value, 4) for name, value in figures.items()}


def slot_batch(heard: Heard, index: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the arguments of `Slots` for some readings."""
    readings = heard.readings
    features = torch.from_numpy(np.concatenate([heard.sounds.features[i] for i in index]))
    phones: list[int] = []
    words: list[int] = []
    recordings: list[int] = []
    for at, i in enumerate(index):
        phones += readings[i].classes
        words += [len(recordings) + owner for owner in readings[i].owners]
        recordings += [at] * len(readings[i].words)
    return features, torch.tensor(phones), torch.tensor(words), torch.tensor(recordings)


def _targets(readings: Sequence[Reading]) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.tensor([reading.scores for reading in readings]),
        torch.tensor([[x] for reading in readings for x in reading.word_scores]),
        torch.tensor([[x] for reading in readings for x in reading.phone_scores]),
    )


@torch.inference_mode()
def _said(layer: PhoneLayer, frames: NDArray[np.float16]) -> NDArray[np.float32]:
    posteriors: NDArray[np.float32] = layer(torch.from_numpy(frames).float()).numpy()
    return posteriors


def _classes(
    layer: PhoneLayer | None, frames: NDArray[np.float16], reading: Reading
) -> NDArray[np.int64]:
    """Return the class of every frame, by the layer as it is, or by equal lengths."""
    classes = np.full(len(frames), SILENCE)
    aligned = (
        None if layer is None else align(_said(layer, frames), reading.classes, reading.owners)
    )
    if aligned is None:
        edges = np.linspace(0.1 * len(frames), 0.9 * len(frames), len(reading.classes) + 1)
        spans = np.stack((edges[:-1], edges[1:]), 1).astype(int)
    else:
        spans = aligned.spans
    for (first, end), phone in zip(spans.tolist(), reading.classes, strict=True):
        classes[first:end] = phone
    return classes
