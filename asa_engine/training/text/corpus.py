"""Transcripts and classes to train on, and BERT's frozen lower layers computed once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from transformers import BertModel

from asa_engine.errors import ManifestError
from asa_engine.evaluation.manifest import Utterance
from asa_engine.evaluation.splits import Sides
from asa_engine.features.word_pieces import WordPieces, clean
from asa_engine.training.targets import target_of
from asa_engine.training.text.recipe import DataRecipe

__all__ = [
    "MANIFEST_TRANSCRIPTS",
    "Side",
    "attention_bias",
    "frozen_outputs",
    "given_transcripts",
    "load_sides",
    "padded",
    "read_transcripts",
]

MANIFEST_TRANSCRIPTS = "manifest"
"""Where a recipe names this, transcripts are the manifest's own."""
MAX_LINE_CHARACTERS = 2**20
FROZEN_BATCH = 64


@dataclass(frozen=True)
class Side:
    """Transcripts of one side of the split.

    Attributes:
        utterances: Manifest entries, n of them.
        pieces: Word pieces of each.
        scores: The experts' score, float64 [n].
        labels: Its class, int64 [n].
        empty: Ids left out: nothing was heard, or nothing that could be scored.
    """

    utterances: list[Utterance]
    pieces: list[tuple[int, ...]]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    empty: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.utterances)

    def counts(self, classes: int) -> list[int]:
        """Return the examples of each class."""
        return [int(count) for count in np.bincount(self.labels, minlength=classes)]

    def batches(self, size: int, rng: Generator | None = None) -> Iterator[list[int]]:
        """Yield batches of transcripts of like length; in random order if given chance."""
        lengths = np.array([len(item) for item in self.pieces], dtype=np.float64)
        if rng is not None:
            lengths += rng.uniform(-2.0, 2.0, len(lengths))
        order = np.argsort(lengths, kind="stable").tolist()
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        turn = range(len(parts)) if rng is None else rng.permutation(len(parts))
        yield from (parts[i] for i in turn)


def load_sides(
    sides: Sides,
    data: DataRecipe,
    cuts: Sequence[float],
    transcripts: Callable[[], dict[str, str]],
    pieces: WordPieces,
) -> tuple[Side, Side]:
    """Return (train, dev).

    Args:
        sides: The corpus.
        data: Which score is cut, and whose.
        cuts: Scores at which the next class begins.
        transcripts: Returns id -> what was heard, "" for nothing that could be scored.
        pieces: Cuts transcripts.

    Raises:
        ManifestError: A line lacks the score or a transcript, or a side has too little.
    """
    scores = {u.id: target_of(u, data.score, data.targets) for u in sides.all}
    heard = transcripts()
    if missing := [u.id for u in sides.all if u.id not in heard]:
        raise ManifestError(f"{len(missing)} recordings have no transcript, {missing[0]} first")
    train, dev = (_side(side, scores, cuts, heard, pieces) for side in (sides.train, sides.dev))
    if not len(dev) or min(train.counts(len(cuts) + 1)) < 1:
        raise ManifestError(
            "nothing was said on the dev side, or a class has no example to train on",
            hint="cut the classes elsewhere",
        )
    return train, dev


def read_transcripts(path: Path) -> dict[str, str]:
    """Read JSON Lines of `id` and `text`.

    Raises:
        ManifestError: A line cannot be used; the message names file and line.
    """
    transcripts: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path} cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        try:
            item = json.loads(line[:MAX_LINE_CHARACTERS])
            transcripts[str(item["id"])] = str(item["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise ManifestError(f"{path}, line {number}: {error!r}") from None
    return transcripts


def given_transcripts(utterances: Sequence[Utterance]) -> dict[str, str]:
    """Return id -> what people heard, of the lines that say it."""
    return {u.id: str(u.extra["transcript"]) for u in utterances if u.extra.get("transcript")}


def _side(
    utterances: list[Utterance],
    targets: Mapping[str, float],
    cuts: Sequence[float],
    heard: dict[str, str],
    pieces: WordPieces,
) -> Side:
    texts = {u.id: clean(heard[u.id]) for u in utterances}
    kept = [u for u in utterances if texts[u.id]]
    scores = np.array([targets[u.id] for u in kept])
    return Side(
        utterances=kept,
        pieces=[pieces.encode(texts[u.id]).ids for u in kept],
        scores=scores,
        labels=np.searchsorted(np.asarray(cuts), scores, side="right").astype(np.int64),
        empty=tuple(u.id for u in utterances if not texts[u.id]),
    )


def attention_bias(mask: Tensor) -> Tensor:
    """Return what BERT's layers add to attention logits, float32 [B, 1, 1, T]."""
    return (1.0 - mask.float())[:, None, None, :] * torch.finfo(torch.float32).min


@torch.no_grad()  # inference tensors could not be trained on
def frozen_outputs(bert: BertModel, side: Side, layers: int) -> list[Tensor]:
    """Return the output of the lowest `layers` layers for every transcript, each [T, D].

    BERT must be in evaluation mode, as `load_bert` leaves it.
    """
    outputs: list[Tensor] = [torch.empty(0)] * len(side)
    for batch in side.batches(FROZEN_BATCH):
        ids, mask = padded([torch.tensor(side.pieces[i]) for i in batch])
        hidden = bert.embeddings(input_ids=ids)
        bias = attention_bias(mask)
        for layer in bert.encoder.layer[:layers]:
            hidden = layer(hidden, bias)
        for row, index in enumerate(batch):
            outputs[index] = hidden[row, : len(side.pieces[index])].clone()
    return outputs


def padded(items: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return items of different lengths as one batch, and the mask of what is not padding."""
    lengths = torch.tensor([len(item) for item in items])
    mask = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
    return torch.nn.utils.rnn.pad_sequence(list(items), batch_first=True), mask.long()
