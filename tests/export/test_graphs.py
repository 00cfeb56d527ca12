"""The ONNX graphs compute what the PyTorch grader computes, from the checkpoint's own bytes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_samples import make_checkpoint
from numpy.typing import NDArray

from asa_engine.graders.acoustic.backends.onnxruntime import OnnxRuntimeBackend
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.graders.acoustic.model import AcousticGrader
from asa_engine.nn.config import WhisperEncoderConfig
from asa_export.onnx import FloatLinears, encoder_model, head_model
from asa_export.weights import Weights

# Sums in another order: a few units in the last place of float32, grown by two layers.
RELATIVE = 2e-5


def mel(frames: int, bins: int = 80, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.5, (bins, frames)).astype(np.float32)


def build(checkpoint: Path, folder: Path) -> tuple[AcousticGrader, OnnxRuntimeBackend]:
    folder = Path(shutil.copytree(checkpoint, folder / "graphs"))
    config, weights = AcousticConfig.load(folder), Weights(folder / "weights.safetensors")
    onnx.save(encoder_model(config, weights, FloatLinears()), folder / "encoder.onnx")
    onnx.save(head_model(config, weights), folder / "head.onnx")
    onnx.checker.check_model(folder / "encoder.onnx")
    onnx.checker.check_model(folder / "head.onnx")
    backend = OnnxRuntimeBackend(
        folder / "encoder.onnx", folder / "head.onnx", precision="fp32", threads=1
    )
    return AcousticGrader.load(folder), backend


def assert_agrees(grader: AcousticGrader, backend: OnnxRuntimeBackend, x: Any) -> None:
    with torch.inference_mode():
        frames, stats = (part[0].numpy() for part in grader.encode_window(torch.tensor(x)[None]))
        head = grader.head(torch.tensor(stats)[None])
    ours = backend.encode(x, frames=True)
    assert ours.frames is not None
    assert ours.frames.shape == frames.shape
    np.testing.assert_allclose(ours.frames, frames, rtol=RELATIVE, atol=RELATIVE)
    scale = np.abs(stats).max()
    np.testing.assert_allclose(ours.stats, stats, rtol=RELATIVE, atol=RELATIVE * scale)
    output = backend.head(stats)
    np.testing.assert_allclose(output.scores, head.scores[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(output.prior, head.prior_probabilities[0].numpy(), atol=1e-6)


@pytest.mark.parametrize("frames", [1, 2, 3, 57, 99, 100])
def test_every_window_length(checkpoint: Path, tmp_path: Path, frames: int) -> None:
    assert_agrees(*build(checkpoint, tmp_path), mel(frames))


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder": WhisperEncoderConfig(128, 48, 1, 3, 40, 50)},
        {"encoder": WhisperEncoderConfig(80, 16, 5, 2, 96, 60), "attention_heads": 1},
        {"window_padding": "full", "window_s": 2.0},
        {"prior_levels": (1.0, 2.0, 3.0), "prior_embedding": 5},
        {"kernel_centres": 0},
        {"kernel_centres": 300, "kernel_width": 40},
    ],
)
def test_every_shape_of_grader(tmp_path: Path, changes: dict[str, Any]) -> None:
    checkpoint = make_checkpoint(tmp_path / "other", **changes)
    config = AcousticConfig.load(checkpoint)
    grader, backend = build(checkpoint, tmp_path)
    assert_agrees(grader, backend, mel(2 * config.window_frames, config.encoder.n_mels))


def test_a_batch_is_its_items(checkpoint: Path, tmp_path: Path) -> None:
    _, backend = build(checkpoint, tmp_path)
    windows = np.stack([mel(80, seed=seed) for seed in range(3)])
    stats, frames = backend._encoder.run(["stats", "frames"], {"mel": windows})
    for index, window in enumerate(windows):
        alone = backend.encode(window, frames=True)
        np.testing.assert_allclose(stats[index], alone.stats, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(frames[index], alone.frames, rtol=1e-5, atol=1e-5)


def test_graphs_hold_no_weights_of_their_own(checkpoint: Path) -> None:
    weights = Weights(checkpoint / "weights.safetensors")
    config = AcousticConfig.load(checkpoint)
    for model in (encoder_model(config, weights, FloatLinears()), head_model(config, weights)):
        inside = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
        outside = [t for t in model.graph.initializer if t.external_data]
        assert inside < 500
        assert len(outside) > 10
        for tensor in outside:
            facts = {entry.key: entry.value for entry in tensor.external_data}
            assert facts["location"] == "weights.safetensors"
            place = weights.place(tensor.name)
            assert int(facts["offset"]) == place.offset
            assert int(facts["length"]) <= place.size_bytes


def test_a_window_longer_than_the_graders_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    _, backend = build(checkpoint, tmp_path)
    with pytest.raises(Exception, match="Add"):
        backend.encode(mel(110))
