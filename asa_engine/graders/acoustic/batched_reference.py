"""The PyTorch reference, as fast as it can be made: windows of equal length in one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asa_engine.bundle import Bundle
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.graders.entry import ScoreMany
from asa_engine.graders.windows import log_mel_windows

__all__ = ["BatchedReference", "open_many"]

Mel = NDArray[np.float32]


class BatchedReference:
    """The grader's own PyTorch module at fp32, with the engine's log-mel kernel.

    It is given every advantage: `inference_mode`, the native log-mel instead of the slower
    extractor it was trained with, no validity checks, and, with `batch` above one, windows of
    equal length encoded together, across recordings too.

    Args:
        bundle: Where config.json and weights.safetensors are.
        threads: PyTorch's threads.
        batch: Most windows a call of the encoder.
    """

    def __init__(self, bundle: Bundle, threads: int, batch: int) -> None:
        import torch

        from asa_engine.graders.acoustic.model import AcousticGrader

        torch.set_num_threads(threads)
        self._torch = torch
        self._config = AcousticConfig.from_dict(bundle.config)
        self._grader: Any = AcousticGrader.load(bundle.path).eval()
        self._batch = batch

    def __call__(self, recordings: Sequence[NDArray[np.float32]]) -> list[dict[str, float] | None]:
        """Score recordings together: windows of all of them, longest first, in batches."""
        windows = [(mel, i) for i, samples in enumerate(recordings) for mel in self._mels(samples)]
        # Batches hold windows of one length: the encoder sees no padding, as in the engine.
        windows.sort(key=lambda window: window[0].shape[1], reverse=True)
        totals: list[NDArray[np.float64] | None] = [None] * len(recordings)
        with self._torch.inference_mode():
            for _, same in groupby(windows, key=lambda window: window[0].shape[1]):
                for batch in _batches(list(same), self._batch):
                    stats = self._encode([mel for mel, _ in batch])
                    for (_, i), row in zip(batch, stats, strict=True):
                        total = totals[i]
                        totals[i] = row if total is None else total + row
            return [None if total is None else self._head(total) for total in totals]

    def _mels(self, samples: NDArray[np.float32]) -> Iterator[Mel]:
        config = self._config
        mel = log_mel_windows(config, padded=config.window_padding == "full")
        yield from mel.push(samples)
        if (last := mel.finish()) is not None:
            yield last

    def _encode(self, mels: Sequence[Mel]) -> NDArray[np.float64]:
        stacked = self._torch.from_numpy(np.stack(mels))
        _, stats = self._grader.encode_window(stacked)
        pooled: NDArray[np.float64] = stats.double().numpy()
        return pooled

    def _head(self, stats: NDArray[np.float64]) -> dict[str, float]:
        row = self._torch.from_numpy(stats.astype(np.float32)).unsqueeze(0)
        values = self._grader.head(row).scores[0].tolist()
        return {
            aspect.name: min(max(value, aspect.scale_min), aspect.scale_max)
            for aspect, value in zip(self._config.aspects, values, strict=True)
        }


def open_many(bundle: Bundle, threads: int, batch: int) -> ScoreMany:
    """Open it."""
    return BatchedReference(bundle, threads, batch)


def _batches(items: list[tuple[Mel, int]], size: int) -> Iterator[list[tuple[Mel, int]]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
