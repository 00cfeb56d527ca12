"""Training of the transformer over phones, and what stands around it in the checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from asa_engine.graders.pronunciation.describe import Described
from asa_engine.graders.pronunciation.judge import CLIP, Pooled
from asa_engine.training.pronunciation.network import JudgeNetwork, Shape
from asa_engine.training.pronunciation.recipe import JudgeRecipe

__all__ = ["Example", "Scaling", "Targets", "fit_network", "principal", "rows_of", "scaling_of"]

Array = NDArray[np.float32]
_EVALUATED = 64
_ITERATIONS = 6


class Targets(NamedTuple):
    """The experts' scores of a reading: aspects [A], words [W], phones [P]."""

    scores: Array
    words: Array
    phones: Array


class Example(NamedTuple):
    """A reading in numbers, and what experts say of it (`None` where nobody asks)."""

    described: Described
    pooled: Pooled
    targets: Targets


@dataclass(frozen=True)
class Scaling:
    """How numbers are standardised, by the judge's names, and the principal directions."""

    tensors: dict[str, Array]


def principal(rows: Array, width: int) -> Array:
    """Return the leading principal directions [F, R] of rows [N, F] around their mean.

    Subspace iteration from a random start (Halko et al. 2011, algorithm 4.4): a full
    decomposition of thousands of numbers would cost more than all the rest of the training.
    """
    centred = (rows - rows.mean(0)).astype(np.float32)
    start = np.random.default_rng(0).standard_normal((rows.shape[1], min(width + 16, *rows.shape)))
    basis = np.linalg.qr(start.astype(np.float32))[0]
    for _ in range(_ITERATIONS):
        basis = np.linalg.qr(centred.T @ (centred @ basis))[0]
    seen = centred @ basis
    _, turned = np.linalg.eigh((seen.T @ seen).astype(np.float64))
    found: Array = (basis @ turned[:, ::-1][:, :width].astype(np.float32)).astype(np.float32)
    return found


def scaling_of(examples: Sequence[Example], how: JudgeRecipe, pooled_width: int) -> Scaling:
    """Measure how the numbers of examples are spread."""
    frames = np.concatenate([e.described.frames for e in examples]).astype(np.float32)
    depth = frames.shape[1] // 2
    directions = np.zeros((2 * depth, 2 * how.directions), np.float32)
    for side in range(2):
        part = slice(side * depth, (side + 1) * depth)
        columns = slice(side * how.directions, (side + 1) * how.directions)
        directions[part, columns] = principal(frames[:, part], how.directions)
    mean = frames.mean(0)
    pictured = (frames - mean) @ directions
    phones = np.concatenate([e.described.phones for e in examples])
    posteriors = np.concatenate([e.described.posteriors for e in examples])
    parts = [
        (phones.mean(0), phones.std(0)),
        # Probabilities keep their own scale: the rare ones must not outweigh the rest.
        (np.zeros(posteriors.shape[1]), np.full(posteriors.shape[1], 1 / 3)),
        (pictured.mean(0), pictured.std(0)),
    ]
    tensors: dict[str, Array] = {"frames.mean": mean, "frames.directions": directions}
    if examples[0].described.words is not None:
        words = np.concatenate([_words(e) for e in examples])
        tensors |= {"words.mean": words.mean(0), "words.scale": words.std(0)}
        parts.append((words.mean(0), words.std(0)))
    readings = np.stack([e.described.reading for e in examples])
    profiles = np.stack([e.pooled.profile() for e in examples])
    tensors |= {
        "input.mean": np.concatenate([mean for mean, _ in parts]),
        "input.scale": np.concatenate([scale for _, scale in parts]),
        "reading.mean": readings.mean(0),
        "reading.scale": readings.std(0),
        "pooled.mean": profiles.mean(0),
        "pooled.scale": profiles.std(0),
    }
    for name in list(tensors):
        if name.endswith(".scale"):
            tensors[name] = np.maximum(tensors[name], 1e-3)
    standard = _standard(profiles, tensors["pooled.mean"], tensors["pooled.scale"])
    found = principal(standard, min(pooled_width, len(examples)))
    tensors["pooled.directions"] = found
    spread = (standard @ found[:, : how.pooled]).std(0)
    tensors["net_pooled"] = 1 / np.maximum(spread, 1e-4)
    return Scaling({name: value.astype(np.float32) for name, value in tensors.items()})


@dataclass(frozen=True)
class Rows:
    """What the network sees of readings.

    Attributes:
        phones: Standardised numbers of each phone, float32 [P, F] each.
        classes: Of each phone.
        owners: Word of each phone.
        words: Standardised numbers of each word; `None` where no text is known.
        whole: Numbers of each reading, [N, R].
        reading: Standardised numbers of each reading, [N, R'].
        pooled: Pooled layers on their principal directions, [N, K].
    """

    phones: list[Array]
    classes: list[NDArray[np.int64]]
    owners: list[NDArray[np.int64]]
    words: list[Array] | None
    whole: Array
    reading: Array
    pooled: Array


def rows_of(examples: Sequence[Example], scaling: Scaling) -> Rows:
    """Standardise examples, as the judge does."""
    t = scaling.tensors
    phones, words = [], []
    for example in examples:
        d = example.described
        pictured = (d.frames.astype(np.float32) - t["frames.mean"]) @ t["frames.directions"]
        parts = [d.phones, d.posteriors, pictured.astype(np.float32)]
        if d.words is not None:
            parts.append(d.words[d.segments.owners])
            words.append(_standard(d.words, t["words.mean"], t["words.scale"]))
        phones.append(_standard(np.concatenate(parts, 1), t["input.mean"], t["input.scale"]))
    readings = np.stack([e.described.reading for e in examples])
    reading = _standard(readings, t["reading.mean"], t["reading.scale"])
    profiles = np.stack([e.pooled.profile() for e in examples])
    pooled = _standard(profiles, t["pooled.mean"], t["pooled.scale"]) @ t["pooled.directions"]
    seen = pooled[:, : len(t["net_pooled"])] * t["net_pooled"]
    return Rows(
        phones,
        [e.described.segments.classes for e in examples],
        [e.described.segments.owners for e in examples],
        words or None,
        np.concatenate((reading, seen), 1).astype(np.float32),
        reading,
        pooled.astype(np.float32),
    )


class Levels(NamedTuple):
    """Mean and deviation of the experts' scores: aspects, words, phones."""

    scores: tuple[Array, Array]
    words: tuple[float, float]
    phones: tuple[float, float]


def fit_network(
    rows: Rows, targets: Sequence[Targets], how: JudgeRecipe, seed: int
) -> tuple[JudgeNetwork, dict[str, Array]]:
    """Train the networks, all seeds at once.

    Returns:
        The moving average of each, and the tensors that put their answers on the experts' scales.
    """
    torch.manual_seed(seed)
    chance = np.random.default_rng(seed)
    has_words = rows.words is not None
    levels = _levels(targets)
    network = JudgeNetwork(
        Shape(
            inputs=rows.phones[0].shape[1],
            whole=rows.whole.shape[1],
            words=rows.words[0].shape[1] if rows.words is not None else 0,
            aspects=len(targets[0].scores),
            width=how.width,
            layers=how.layers,
            heads=how.heads,
            seeds=how.seeds,
        ),
        how.dropout,
        how.input_dropout,
    )
    average = {name: value.clone() for name, value in network.state_dict().items()}
    matrices = [p for p in network.parameters() if p.ndim > 2]
    others = [p for p in network.parameters() if p.ndim <= 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": how.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=how.lr,
    )
    lengths = np.array([len(one) for one in rows.classes])
    count = max(1, math.ceil(len(lengths) / how.batch_size))
    steps = how.epochs * count
    step = 0
    for _ in range(how.epochs):
        network.train()
        # Readings of like length together, but not the same ones every time.
        order = np.argsort(lengths + chance.normal(0, 6, len(lengths)))
        batches = np.array_split(order, count)
        chance.shuffle(batches)
        for batch in batches:
            loss = _loss(network, rows, targets, levels, batch, how, has_words)
            rate = how.lr * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), math.sqrt(how.seeds))
            optimizer.step()
            step += 1
            decay = min(how.ema, step / (step + 10))
            with torch.no_grad():
                for name, value in network.state_dict().items():
                    average[name].lerp_(value, 1 - decay)
    network.load_state_dict(average)
    tensors = {
        "scores.mean": levels.scores[0],
        "scores.scale": levels.scores[1],
        "word_scores.mean": np.array(levels.words[:1]),
        "word_scores.scale": np.array(levels.words[1:]),
        "phone_scores.mean": np.array(levels.phones[:1]),
        "phone_scores.scale": np.array(levels.phones[1:]),
    }
    if not has_words:
        tensors = {name: tensors[name] for name in ("scores.mean", "scores.scale")}
    return network.eval(), {k: v.astype(np.float32) for k, v in tensors.items()}


def _loss(
    network: JudgeNetwork,
    rows: Rows,
    targets: Sequence[Targets],
    levels: Levels,
    batch: NDArray[np.int64],
    how: JudgeRecipe,
    has_words: bool,
) -> Tensor:
    said = network(*_batch(rows, batch))
    wanted = np.stack([(targets[i].scores - levels.scores[0]) / levels.scores[1] for i in batch])
    # Sums over seeds: each learns as if alone.
    error = (said.scores - torch.from_numpy(wanted.astype(np.float32))).square()
    loss: Tensor = how.score_weight * error.mean((1, 2)).sum()
    if not has_words:
        return loss
    for found, name, weight in (
        (said.words, "words", how.word_weight),
        (said.phones, "phones", how.phone_weight),
    ):
        mean, scale = getattr(levels, name)
        wanted = np.full(found.shape[1:], np.nan, np.float32)
        for row, i in zip(wanted, batch, strict=True):
            values = getattr(targets[i], name)
            row[: len(values)] = (values - mean) / scale
        told = torch.from_numpy(wanted)
        known = ~told.isnan()
        if known.any():
            loss = loss + weight * (found[:, known] - told[known]).square().mean(1).sum()
    return loss


def say(network: JudgeNetwork, rows: Rows, levels: dict[str, Array]) -> list[Targets]:
    """Return what the networks say of readings, on the experts' scales, mean of the seeds."""
    order = np.argsort([len(one) for one in rows.classes])
    found: dict[int, Targets] = {}
    with torch.inference_mode():
        for batch in np.array_split(order, max(1, len(order) // _EVALUATED)):
            said = network(*_batch(rows, batch))
            scores = said.scores.mean(0).numpy() * levels["scores.scale"] + levels["scores.mean"]
            for at, i in enumerate(batch.tolist()):
                words = phones = np.zeros(0, np.float32)
                if said.words is not None and rows.words is not None:
                    words = said.words[:, at, : len(rows.words[i])].mean(0).numpy()
                    words = words * levels["word_scores.scale"] + levels["word_scores.mean"]
                    phones = said.phones[:, at, : len(rows.classes[i])].mean(0).numpy()
                    phones = phones * levels["phone_scores.scale"] + levels["phone_scores.mean"]
                found[i] = Targets(scores[at], words, phones)
    return [found[i] for i in range(len(order))]


def _batch(
    rows: Rows, batch: NDArray[np.int64]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor]:
    most = max(len(rows.classes[i]) for i in batch)
    size = len(batch)
    x = np.zeros((size, most, rows.phones[0].shape[1]), np.float32)
    classes, owners = np.zeros((2, size, most), np.int64)
    mask = np.zeros((size, most), bool)
    for at, i in enumerate(batch):
        length = len(rows.classes[i])
        x[at, :length], classes[at, :length] = rows.phones[i], rows.classes[i]
        owners[at, :length], mask[at, :length] = rows.owners[i], True
    words = None
    if rows.words is not None:
        most = max(len(rows.words[i]) for i in batch)
        padded = np.zeros((size, most, rows.words[0].shape[1]), np.float32)
        for at, i in enumerate(batch):
            padded[at, : len(rows.words[i])] = rows.words[i]
        words = torch.from_numpy(padded)
    parts = [torch.from_numpy(part) for part in (x, classes, mask, owners)]
    return parts[0], parts[1], parts[2], parts[3], words, torch.from_numpy(rows.whole[batch])


def _levels(targets: Sequence[Targets]) -> Levels:
    scores = np.stack([t.scores for t in targets])
    pairs = []
    for name in ("words", "phones"):
        values = np.concatenate([getattr(t, name) for t in targets])
        values = values[~np.isnan(values)]
        pairs.append((float(values.mean()), float(values.std())) if len(values) else (0.0, 1.0))
    return Levels((scores.mean(0), np.maximum(scores.std(0), 1e-3)), pairs[0], pairs[1])


def _words(example: Example) -> Array:
    assert example.described.words is not None
    return example.described.words


def _standard(values: Array, mean: Array, scale: Array) -> Array:
    found: Array = np.clip((values - mean) / scale, -CLIP, CLIP).astype(np.float32)
    return found
