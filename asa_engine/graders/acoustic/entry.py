"""What the engine knows of the acoustic grader; its backends are imported when one is opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from asa_engine.bundle import Bundle
from asa_engine.graders.acoustic.backends.base import Backend
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.graders.acoustic.runtime import AcousticRun
from asa_engine.graders.entry import (
    GraderEntry,
    Layers,
    MixedPrecision,
    Opener,
    ScoreMany,
    load_attribute,
)
from asa_engine.kernels.encoder import dense_precision
from asa_engine.profiling import StageClock

__all__ = ["ENTRY"]

_BACKENDS: Final = "asa_engine.graders.acoustic.backends"


def _opener(module: str, attribute: str) -> Opener[Backend]:
    def opened(bundle: Bundle, precision: str, threads: int) -> Backend:
        kind: type[Backend] = load_attribute(f"{_BACKENDS}.{module}:{attribute}")
        return kind.open(bundle, precision=precision, threads=threads)

    return opened


def _embed(config: AcousticConfig, backend: Backend, clock: StageClock) -> AcousticRun:
    return AcousticRun(config, backend, clock, keep_frames=True)


def _reference_many(bundle: Bundle, threads: int, batch: int) -> ScoreMany:
    from asa_engine.graders.acoustic.batched_reference import open_many

    return open_many(bundle, threads, batch)


def _layers_of(bundle: Bundle) -> int:
    from asa_engine.graders.acoustic.mixed import layers_of

    return layers_of(bundle)


def _scorer(
    bundle: Bundle, threads: int
) -> Callable[[Layers, Sequence[NDArray[np.float32]]], NDArray[np.float64]]:
    from asa_engine.graders.acoustic.mixed import scorer

    return scorer(bundle, threads)


def _pack(bundle: Bundle, precision: str, folder: Path) -> None:
    from asa_engine.graders.acoustic.mixed import pack

    pack(bundle, precision, folder)


ENTRY = GraderEntry(
    name="acoustic",
    summary="S4's acoustic half: Whisper encoder, proficiency prior, multi-target regression",
    exact_when="a window's frames are final when it closes; the scores when the speech ends",
    config=AcousticConfig.from_dict,
    backends={
        "native": _opener("native", "NativeBackend"),
        "onnxruntime": _opener("onnxruntime", "OnnxRuntimeBackend"),
        "onnxruntime-cuda": _opener("onnxruntime_gpu", "OnnxRuntimeCudaBackend"),
        "onnxruntime-tensorrt": _opener("onnxruntime_gpu", "OnnxRuntimeTensorRTBackend"),
        "tensorrt": _opener("tensorrt", "TensorRTBackend"),
        "cuda": _opener("cuda", "CudaBackend"),
        "torch": _opener("torch", "TorchBackend"),
        "fake": _opener("fake", "FakeBackend"),
    },
    run=AcousticRun,
    embed=_embed,
    reference_many=_reference_many,
    mixed=MixedPrecision(_layers_of, dense_precision, _scorer, _pack, "packed"),
    trainer="asa_engine.training.acoustic.trainer:train",
    recipe="asa_engine.training.acoustic.recipe:AcousticRecipe",
    exporter="asa_export.acoustic:EXPORTER",
    device="asa_export.device:acoustic_file",
)
