"""The phone layer: frames to phones, learnt from read texts that lie over their frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from asa_engine.features.phone_alignment import SILENCE
from asa_engine.graders.pronunciation.judge import phone_log_probabilities
from asa_engine.text.phones import PHONES
from asa_engine.training.pronunciation.recipe import PhonesRecipe

__all__ = [
    "CLASSES",
    "Lesson",
    "align_many",
    "learn_fold",
    "learn_targets",
    "spans_of",
    "usual_lengths",
]

CLASSES = 1 + len(PHONES)
_LEFT_OUT = -100
_TOGETHER = 64
_NO_FIT = -20.0
_FLOOR = 20
Frames = NDArray[np.float16]
Weights = dict[str, NDArray[np.float32]]


class Lesson(NamedTuple):
    """A reading to learn from.

    Attributes:
        frames: Of the last two layers side by side, float16 [T, 2 D].
        classes: Class of each phone of the text.
        owners: Word of each.
        scores: The experts' accuracy of each, 0 to 2.
    """

    frames: Frames
    classes: NDArray[np.int64]
    owners: NDArray[np.int64]
    scores: NDArray[np.float64]


def learn_targets(
    lessons: Sequence[Lesson], how: PhonesRecipe, seed: int
) -> list[NDArray[np.int64]]:
    """Return the class of every frame: lay the texts over the frames, learn that, and again.

    In the first round the phones have equal lengths, between a tenth of silence on either side
    (flat start).
    """
    chance = np.random.default_rng(seed)
    torch.manual_seed(seed)
    width = lessons[0].frames.shape[1]
    layer = PhoneLayer(width, how)
    for turn in tqdm(range(how.rounds), desc="phones", unit="", leave=False):
        last = turn == how.rounds - 1
        count = len(lessons) if last else max(1, round(how.share * len(lessons)))
        some = [lessons[i] for i in np.sort(chance.permutation(len(lessons))[:count])]
        weights = layer.weights() if turn else None
        targets = _classes(weights, some, how.least_accuracy)
        epochs = how.epochs if last else max(1, how.epochs - 1)
        _train(layer, [lesson.frames for lesson in some], targets, how, epochs, chance)
    return _classes(layer.weights(), lessons, how.least_accuracy)


def learn_fold(
    frames: Sequence[Frames], targets: Sequence[NDArray[np.int64]], how: PhonesRecipe, seed: int
) -> Weights:
    """Train a layer on frames whose classes are known; return its tensors."""
    torch.manual_seed(seed)
    layer = PhoneLayer(frames[0].shape[1], how)
    _train(layer, frames, targets, how, how.epochs, np.random.default_rng(seed))
    return layer.weights()


def spans_of(weights: Weights, lessons: Sequence[Lesson]) -> list[tuple[NDArray[np.int64], float]]:
    """Lay texts over their frames; return spans [P, 2] and the fit of each.

    A text with more phones than the recording has frames gets single frames and no fit.
    """
    found: list[tuple[NDArray[np.int64], float]] = []
    for start in range(0, len(lessons), _TOGETHER):
        some = lessons[start : start + _TOGETHER]
        heard = [phone_log_probabilities(weights, x.frames.astype(np.float32)) for x in some]
        for lesson, laid in zip(some, align_many(heard, some), strict=True):
            if laid is None:
                at = np.arange(len(lesson.classes)) * len(lesson.frames) // len(lesson.classes)
                laid = np.stack((at, at + 1), 1), _NO_FIT
            found.append(laid)
    return found


def align_many(
    heard: Sequence[NDArray[np.float32]], lessons: Sequence[Lesson]
) -> list[tuple[NDArray[np.int64], float] | None]:
    """Lay many texts over their frames at once: the paths of `phone_alignment.align`."""
    graphs = []
    for lesson in lessons:
        breaks = np.flatnonzero(np.diff(lesson.owners)) + 1
        classes = np.insert(lesson.classes, breaks, SILENCE)
        owners = np.insert(np.arange(len(lesson.classes)), breaks, -1)
        graphs.append((np.concatenate(([0], classes, [0])), np.concatenate(([-1], owners, [-1]))))
    length = max(map(len, heard))
    width = max(len(classes) for classes, _ in graphs)
    count = len(lessons)
    emitted = np.full((length, count, width), -np.inf)
    skips = np.full((count, width), -np.inf)
    for i, (rows, (classes, owners)) in enumerate(zip(heard, graphs, strict=True)):
        emitted[: len(rows), i, : len(classes)] = rows[:, classes]
        skips[i, 2 : len(owners)][owners[1:-1] < 0] = 0.0
    best = np.full((count, width), -np.inf)
    best[:, :2] = emitted[0, :, :2]
    steps = np.zeros((length, count, width), np.int8)
    at_end: list[NDArray[np.float64] | None] = [None] * count
    ends = [len(rows) - 1 for rows in heard]
    one, two = (np.full((count, width), -np.inf) for _ in range(2))
    for frame in range(length):
        if frame:
            one[:, 1:] = best[:, :-1]
            two[:, 2:] = best[:, :-2] + skips[:, 2:]
            moved = np.maximum(best, one)
            step = (one > best).astype(np.int8)
            step[two > moved] = 2
            steps[frame] = step
            best = np.maximum(moved, two) + emitted[frame]
        for i in [i for i, end in enumerate(ends) if end == frame]:
            at_end[i] = best[i].copy()
    found: list[tuple[NDArray[np.int64], float] | None] = []
    for i, (rows, (classes, owners)) in enumerate(zip(heard, graphs, strict=True)):
        last = at_end[i]
        assert last is not None
        state = (
            len(classes) - 1
            if last[len(classes) - 1] >= last[len(classes) - 2]
            else len(classes) - 2
        )
        if len(rows) < len(lessons[i].classes) or not np.isfinite(last[state]):
            found.append(None)
            continue
        path = np.empty(len(rows), np.int64)
        for frame in range(len(rows) - 1, -1, -1):
            path[frame] = state
            state -= int(steps[frame, i, state])
        spoken = np.flatnonzero(owners >= 0)
        spans = np.stack(
            (np.searchsorted(path, spoken, "left"), np.searchsorted(path, spoken, "right")), 1
        )
        inside = owners[path] >= 0
        lost = rows[inside, classes[path[inside]]] - rows[inside].max(1)
        found.append((spans, float(lost.mean())))
    return found


def usual_lengths(
    classes: Sequence[NDArray[np.int64]], spans: Sequence[NDArray[np.int64]]
) -> NDArray[np.float32]:
    """Return mean and deviation of each class's log length in frames, [C, 2]."""
    every = np.concatenate(classes)
    lengths = np.log(np.concatenate([span[:, 1] - span[:, 0] for span in spans]))
    found = np.tile([lengths.mean(), lengths.std()], (CLASSES, 1))
    for index in range(CLASSES):
        own = lengths[every == index]
        if len(own) >= _FLOOR:
            found[index] = own.mean(), own.std() + 0.1
    return found.astype(np.float32)


class PhoneLayer(nn.Module):
    """LayerNorm, one hidden layer, log-probabilities of silence and the phones."""

    def __init__(self, inputs: int, how: PhonesRecipe) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(inputs)
        self.fc1 = nn.Linear(inputs, how.width)
        self.fc2 = nn.Linear(how.width, CLASSES)
        self.dropout = nn.Dropout(how.dropout)

    def forward(self, frames: Tensor) -> Tensor:
        """Map [N, 2 D] to log-probabilities [N, C]."""
        hidden = self.dropout(F.silu(self.fc1(self.norm(frames))))
        return F.log_softmax(self.fc2(hidden), -1)

    def weights(self) -> Weights:
        """Return the tensors by the names that the checkpoint has them under."""
        return {f"phones.{name}": value.detach().numpy().copy() for name, value in
                self.state_dict().items()}  # fmt: skip


def _train(
    layer: PhoneLayer,
    frames: Sequence[Frames],
    targets: Sequence[NDArray[np.int64]],
    how: PhonesRecipe,
    epochs: int,
    chance: np.random.Generator,
) -> None:
    x, y = np.concatenate(frames), np.concatenate(targets)
    kept = np.flatnonzero(y != _LEFT_OUT)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=how.lr, weight_decay=0.01)
    batches = [
        batch
        for _ in range(epochs)
        for batch in np.array_split(chance.permutation(kept), max(1, len(kept) // how.batch_size))
    ]
    layer.train()
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = how.lr * (1 - step / len(batches))
        said = layer(torch.from_numpy(x[batch].astype(np.float32)))
        loss = F.nll_loss(said, torch.from_numpy(y[batch]))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    layer.eval()


def _classes(
    weights: Weights | None, lessons: Sequence[Lesson], least: float
) -> list[NDArray[np.int64]]:
    """Return the class of every frame, by a layer or by equal lengths; poor phones left out."""
    if weights is None:
        laid = [_equal_lengths(lesson) for lesson in lessons]
    else:
        laid = [spans for spans, _ in spans_of(weights, lessons)]
    targets = []
    for lesson, spans in zip(lessons, laid, strict=True):
        found = np.full(len(lesson.frames), SILENCE)
        for (first, end), phone, score in zip(
            spans.tolist(), lesson.classes.tolist(), lesson.scores.tolist(), strict=True
        ):
            # A phone without a score counts as well said.
            found[first:end] = _LEFT_OUT if score < least else phone
        targets.append(found)
    return targets


def _equal_lengths(lesson: Lesson) -> NDArray[np.int64]:
    length = len(lesson.frames)
    edges = np.linspace(0.1 * length, 0.9 * length, len(lesson.classes) + 1)
    return np.stack((edges[:-1], edges[1:]), 1).astype(np.int64)
