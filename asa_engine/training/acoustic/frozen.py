"""Outputs of a frozen encoder, computed once and kept in memory as float16."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.nn.whisper import WhisperEncoder, frames_of
from asa_engine.training.data import Batch, Corpus, make_batch

__all__ = ["FrozenFeatures"]

BATCH = 16


class FrozenFeatures:
    """Every layer's output for every recording of a corpus, unchanged by augmentation.

    Attributes:
        counts: Frames of each recording, float64 [n, 1].
        sums: Of every layer sum of h, then of every layer sum of h^2, over each recording's
            frames before they are rounded, float64 [n, 2 (layers + 1) D].

    Args:
        encoder: Used in evaluation mode.
        config: How recordings are cut into windows.
        corpus: The recordings.
        title: Of the progress bar.
    """

    def __init__(
        self, encoder: WhisperEncoder, config: AcousticConfig, corpus: Corpus, title: str
    ) -> None:
        self._windows: list[list[Tensor]] = [[] for _ in range(len(corpus))]
        order = np.argsort([len(audio) for audio in corpus.audio], kind="stable").tolist()
        self.counts = np.zeros((len(corpus), 1))
        shape = config.encoder
        self.sums = np.zeros((len(corpus), 2 * (shape.layers + 1) * shape.d_model))
        encoder.eval()
        with (
            torch.inference_mode(),
            tqdm(total=len(order), desc=title, unit="", leave=False) as bar,
        ):
            for start in range(0, len(order), BATCH):
                batch = make_batch(corpus, order[start : start + BATCH], config)
                layers = torch.stack(encoder(batch.mel, batch.lengths), 1)
                lengths = frames_of(batch.lengths).tolist()
                for window, owner in enumerate(batch.owner.tolist()):
                    item = batch.index[owner]
                    frames = layers[window, :, : lengths[window]]
                    self._windows[item].append(frames.half())
                    self.counts[item] += lengths[window]
                    self.sums[item] += np.concatenate(
                        (frames.sum(1).flatten().numpy(), frames.square().sum(1).flatten().numpy())
                    )
                bar.update(len(batch.index))

    def batch(self, index: list[int]) -> Batch:
        """Return a batch whose `mel` holds encoder outputs, float32 [B, layers + 1, T, D]."""
        windows = [window for item in index for window in self._windows[item]]
        owner = [at for at, item in enumerate(index) for _ in self._windows[item]]
        frames = torch.tensor([window.shape[1] for window in windows])
        layers, _, width = windows[0].shape
        padded = torch.zeros(len(windows), layers, int(frames.max()), width)
        for row, window in zip(padded, windows, strict=True):
            row[:, : window.shape[1]] = window
        return Batch(index, padded, frames * 2, torch.tensor(owner))
