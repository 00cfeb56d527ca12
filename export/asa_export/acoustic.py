"""Export of the acoustic grader: ONNX graphs for CPU and GPU, weights for the kernels."""

from __future__ import annotations

import shutil
from collections.abc import Iterable

import numpy as np
import onnx
from numpy.typing import NDArray

from asa_engine.bundle import CONFIG_NAME, WEIGHTS_NAME, Bundle, Stages
from asa_engine.features.log_mel import WindowedLogMel
from asa_engine.graders.acoustic.backends.base import Backend
from asa_engine.graders.acoustic.backends.cuda import CudaBackend
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_export.exporter import Exporter, Job, whole
from asa_export.onnx import FloatLinears, encoder_model, head_model
from asa_export.parity import REFERENCE, Scorer
from asa_export.quantize import Calibration, Int8Linears, calibrate
from asa_export.speech import Recording
from asa_export.tensors import expected_tensors
from asa_export.typed import TYPED, OnCpu, typed_model
from asa_export.weights import Weights

__all__ = ["EXPORTER", "windows_of"]

HEAD_NAME = "head.onnx"
ON_GPU = ("tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt")
"""Backends that run a typed graph."""


def _validate(opened: Bundle) -> AcousticConfig:
    """Check that the source holds a whole, finite acoustic grader."""
    config = AcousticConfig.from_dict(opened.config)
    return whole(opened, config, expected_tensors(config))


def _optimise(job: Job[AcousticConfig]) -> Stages:
    """Write every artifact; return the stages that they serve."""
    opened, config, work, variants = job.opened, job.config, job.work, job.variants
    for file in (CONFIG_NAME, WEIGHTS_NAME):
        shutil.copyfile(opened.path / file, work / file)
    stages: Stages = {"grader": {REFERENCE[0]: {REFERENCE[1]: WEIGHTS_NAME}}}
    weights = Weights(work / WEIGHTS_NAME)
    calibration: Calibration | None = None
    if any(precision == "int8" and backend != "native" for backend, precision in variants):
        calibration = calibrate(config, weights, windows_of(config, job.speech.calibration))
    for backend, precision in variants:
        if backend in ("native", "cuda"):
            # The kernels pack the checkpoint's own weights when they load them.
            stages["grader"].setdefault(backend, {})[precision] = WEIGHTS_NAME
            continue
        onnx.save(head_model(config, weights), work / HEAD_NAME)
        stages.setdefault("head", {}).setdefault(backend, {})[precision] = HEAD_NAME
        if backend in ON_GPU:
            grader = f"grader.{precision}.onnx"
            if not (work / grader).exists():
                onnx.save(typed_model(config, weights, precision, calibration), work / grader)
            stages["grader"].setdefault(backend, {})[precision] = grader
            continue
        linears: FloatLinears | Int8Linears = FloatLinears()
        if precision == "int8" and calibration is not None:
            linears = Int8Linears(config, weights, calibration)
        encoder = f"encoder.{precision}.onnx"
        onnx.save(encoder_model(config, weights, linears), work / encoder)
        stages.setdefault("encoder", {}).setdefault(backend, {})[precision] = encoder
    return stages


def windows_of(
    config: AcousticConfig, recordings: Iterable[Recording]
) -> Iterable[NDArray[np.float32]]:
    """Yield the log-mel of every window of the recordings, as the engine would cut them."""
    for recording in recordings:
        windows = WindowedLogMel(
            config.encoder.n_mels,
            config.window_samples,
            pad_to_window=config.window_padding == "full",
            min_samples=config.min_window_samples,
        )
        yield from windows.push(recording.samples())
        if (rest := windows.finish()) is not None:
            yield rest


def _judge(bundle: Bundle, backend: str, precision: str) -> Backend | None:
    """Run a GPU's graph, or a GPU kernels' arithmetic, on the CPU, where scores are compared."""
    if backend == "cuda":
        from asa_engine.gpu.triton.emulation import EmulatedDevice

        return CudaBackend(EmulatedDevice(), bundle, precision=precision, threads=1)
    return OnCpu(bundle, backend, precision) if backend in ON_GPU else None


def _encode_window(scorer: Scorer, samples: NDArray[np.float32]) -> None:
    """Encode one full window of the samples."""
    config: AcousticConfig = scorer.config
    cut = np.resize(samples, config.window_samples)
    (mel,) = windows_of(config, [Recording("timing", cut)])
    scorer.stages.encode(mel)


EXPORTER = Exporter(
    targets={
        "onnx": ("onnxruntime", ("fp32", "int8")),
        "native": ("native", ("fp32", "bf16", "int8")),
        "cuda": ("cuda", ("fp32", "fp16", "bf16")),
        "tensorrt": ("tensorrt", TYPED),
        "onnx-cuda": ("onnxruntime-cuda", ("fp32", "fp16", "bf16")),
        "onnx-tensorrt": ("onnxruntime-tensorrt", TYPED),
    },
    preferred=(("native", "int8"),),
    validate=_validate,
    build=_optimise,
    judge=_judge,
    timed="one window",
    timed_pass=_encode_window,
)
