"""What the speech LLM's frozen parts give: a codebook of audio tokens, the lower layers' output."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from asa_engine.errors import AudioError
from asa_engine.graders.speech_llm.model import SpeechLLM
from asa_engine.training.comparison import WorkFolder
from asa_engine.training.data import Corpus

__all__ = ["cut_chunks", "fit_codebook", "keep_tokens", "through_layers"]

EVALUATION_BATCH = 32
LLOYD_STEPS = 20


@torch.inference_mode()
def keep_tokens(grader: SpeechLLM, train: Corpus, dev: Corpus, work: WorkFolder) -> None:
    """Write what an audio language model's own encoder and projector make of all recordings.

    Args:
        grader: Whose encoder it is.
        train: Training speakers.
        dev: Held-out speakers.
        work: Where `tokens-{train,dev}`, float16 like those of a warm start, go; what is there
            already is left.

    Raises:
        AudioError: A recording is too short to give a single token.
    """
    grader.eval()
    for name, corpus in (("train", train), ("dev", dev)):
        if work.has(f"tokens-{name}"):
            continue
        tokens = []
        for index, utterance in enumerate(
            tqdm(corpus.utterances, desc=f"encoder, {name}", unit="", leave=False)
        ):
            mels = grader.mels(corpus.samples(index))
            if not mels:
                raise AudioError(f"{utterance.id} is too short to give an audio token")
            tokens.append(torch.cat([grader.window(mel)[0] for mel in mels]).half())
        work.keep_list(f"tokens-{name}", tokens)


@torch.inference_mode()
def through_layers(
    grader: SpeechLLM, tokens: Sequence[Tensor], last: int, title: str
) -> list[Tensor]:
    """Run chunks through the language model's layers up to `last`.

    Args:
        grader: With a codebook it rounds the tokens first.
        tokens: Audio tokens [n, W] of each chunk.
        last: The layer to stop before.
        title: Of the progress bar.

    Returns:
        What leaves the last layer run, of tokens and the prompt's end, [n, W] each.
    """
    prefix = grader.prefix(0, last)
    order = np.argsort([len(item) for item in tokens], kind="stable")
    found: dict[int, Tensor] = {}
    for some in tqdm(
        np.array_split(order, math.ceil(len(order) / EVALUATION_BATCH)),
        desc=title,
        unit="",
        leave=False,
    ):
        chunks = [grader.rounded(tokens[i].float()) for i in some]
        hidden = grader.run(grader.sequences(chunks), 0, last, prefix)
        found.update((i, row.clone()) for i, row in zip(some.tolist(), hidden, strict=True))
    return [found[i] for i in range(len(tokens))]


def cut_chunks(grader: SpeechLLM, tokens: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Cut recordings' audio tokens [n, W] as the run time does.

    Returns:
        The chunks, and which recording each is of, int64 [C].
    """
    parts = [grader.chunks(item) for item in tokens]
    owners = [owner for owner, some in enumerate(parts) for _ in some]
    return [chunk for some in parts for chunk in some], torch.tensor(owners)


@torch.inference_mode()
def fit_codebook(tokens: Sequence[Tensor], units: int, seed: int) -> Tensor:
    """Cluster audio tokens (Lloyd's k-means, 20 steps from random tokens).

    Args:
        tokens: Audio tokens [n, W] of each recording.
        units: Entries K.
        seed: Of the first entries; an entry that loses all its tokens stays where it is.

    Returns:
        float32 [K, W], rounded to float16 as it is stored.
    """
    points = torch.cat([item.float() for item in tokens])
    chosen = np.random.default_rng(seed).choice(len(points), units, replace=len(points) < units)
    entries = points[torch.from_numpy(chosen)].clone()
    for _ in tqdm(range(LLOYD_STEPS), desc="codebook", unit="", leave=False):
        near = (points @ entries.T - entries.square().sum(1) / 2).argmax(1)
        counts = torch.bincount(near, minlength=units)
        sums = torch.zeros_like(entries).index_add_(0, near, points)
        entries = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], entries)
    return entries.half().float()
