"""A precision for each layer of the acoustic grader's native encoder: what a search needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from asa_engine.artifacts.safetensors import Tensors
from asa_engine.bundle import WEIGHTS_NAME, Bundle
from asa_engine.graders.acoustic.backends.native import NativeBackend
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.graders.acoustic.runtime import AcousticRun
from asa_engine.graders.entry import MIXED, Layers
from asa_engine.profiling import StageClock

__all__ = ["layers_of", "pack", "scorer"]


def layers_of(bundle: Bundle) -> int:
    """Return the layers that can be searched: none where the native int8 encoder is missing."""
    if WEIGHTS_NAME not in bundle.artifacts or ("native", "int8") not in bundle.variants():
        return 0
    return AcousticConfig.from_dict(bundle.config).encoder.layers


def scorer(
    bundle: Bundle, threads: int
) -> Callable[[Layers, Sequence[NDArray[np.float32]]], NDArray[np.float64]]:
    """Return what scores recordings with the checkpoint's weights packed at given precisions."""
    config = AcousticConfig.from_dict(bundle.config)
    tensors = Tensors(bundle.path / WEIGHTS_NAME)

    def scores(layers: Layers, recordings: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
        backend = NativeBackend(config, tensors, precision=MIXED, threads=threads, layers=layers)
        rows = []
        for samples in recordings:
            run = AcousticRun(config, backend, StageClock())
            run.push(samples)
            if (grade := run.finish()) is not None:
                rows.append([score.value for score in grade.scores.values()])
        return np.array(rows, np.float64)

    return scores


def pack(bundle: Bundle, precision: str, folder: Path) -> None:
    """Write the weights into a bundle that is being made, as this CPU's kernels read them."""
    NativeBackend.open(bundle, precision=precision, threads=1).write_packed(folder)
