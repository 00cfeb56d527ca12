"""The kernel regressor: one formula in PyTorch, ONNX and our own kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from asa_engine.bundle import Bundle
from asa_engine.graders import grader_entry
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.graders.acoustic.model import AcousticGrader
from asa_engine.graders.aspects import AspectConfig
from asa_engine.nn.config import WhisperEncoderConfig

MEL_FRAMES = 171


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = AcousticConfig(
        aspects=(AspectConfig("fluency"), AspectConfig("total")),
        encoder=WhisperEncoderConfig(d_model=64, layers=2, heads=2, ffn=128, positions=100),
        window_s=2.0,
        kernel_centres=7,
        kernel_width=5,
    )
    grader = AcousticGrader(config).eval()
    for name, tensor in grader.named_buffers():
        if name.startswith("kernel_"):
            tensor.copy_(0.1 * torch.randn_like(tensor))
    grader.kernel_weights.mul_(20)
    grader.blend.copy_(torch.tensor([0.0, 0.3]))
    folder = tmp_path_factory.mktemp("kernel") / "checkpoint"
    grader.save(folder)
    return folder


@pytest.fixture(scope="module")
def mel() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((80, MEL_FRAMES)).astype(np.float32)


def test_the_formula(checkpoint: Path, mel: np.ndarray) -> None:
    """Aspect `fluency` has no share of the network: it is the kernel alone."""
    grader = AcousticGrader.load(checkpoint)
    with torch.inference_mode():
        layers = grader.encoder(torch.from_numpy(mel)[None])
        frames, stats = grader.encode_window(torch.from_numpy(mel)[None])
        score = float(grader.head(stats).scores[0, 0])
    outputs = [layer[0].double().numpy() for layer in layers]
    profile = np.concatenate([x.mean(0) for x in outputs] + [x.std(0) for x in outputs])
    weights = {name: value.double().numpy() for name, value in grader.named_buffers()}
    log_frames = np.log(frames.shape[1] / 175) / 0.5
    place = np.append(
        weights["kernel_projection"] @ profile + weights["kernel_bias"],
        np.clip(log_frames, -2.0, 3.5) * weights["kernel_duration"],
    )
    near = np.exp(-((weights["kernel_centres"] - place) ** 2).sum(1))
    expected = weights["kernel_weights"][0] @ near + weights["kernel_mean"][0]
    # float32 against float64: means of a hundred frames, then a sum of seven terms.
    assert score == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("batch", [1, 3])
def test_padding_does_not_count(checkpoint: Path, mel: np.ndarray, batch: int) -> None:
    grader = AcousticGrader.load(checkpoint)
    padded = torch.zeros(batch, 80, MEL_FRAMES + 20)
    padded[:, :, :MEL_FRAMES] = torch.from_numpy(mel)
    with torch.inference_mode():
        alone = grader.encode_window(torch.from_numpy(mel)[None])[1]
        stats = grader.encode_window(padded, torch.full((batch,), MEL_FRAMES))[1]
    torch.testing.assert_close(stats, alone.expand(batch, -1), rtol=1e-4, atol=1e-3)


def test_native_agrees(checkpoint: Path, mel: np.ndarray) -> None:
    bundle = Bundle.open(checkpoint)
    expected = grader_entry("acoustic").open(bundle, "torch", "fp32", 1)
    found = grader_entry("acoustic").open(bundle, "native", "fp32", 2)
    stats = expected.encode(mel).stats
    # Sums of up to 86 frames in another order: a few units in the last place of float32.
    np.testing.assert_allclose(found.encode(mel).stats, stats, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found.head(stats).scores, expected.head(stats).scores, atol=1e-5)


def test_onnx_agrees(checkpoint: Path, mel: np.ndarray) -> None:
    import onnxruntime

    from asa_export.onnx import FloatLinears, encoder_model, head_model
    from asa_export.weights import Weights

    config, weights = AcousticConfig.load(checkpoint), Weights(checkpoint / "weights.safetensors")
    onnx.save(encoder_model(config, weights, FloatLinears()), checkpoint / "encoder.onnx")
    onnx.save(head_model(config, weights), checkpoint / "head.onnx")
    encoder = onnxruntime.InferenceSession(str(checkpoint / "encoder.onnx"))
    head = onnxruntime.InferenceSession(str(checkpoint / "head.onnx"))
    reference = grader_entry("acoustic").open(Bundle.open(checkpoint), "torch", "fp32", 1)
    stats = reference.encode(mel).stats
    (found,) = encoder.run(["stats"], {"mel": mel[None]})
    np.testing.assert_allclose(found[0], stats, rtol=1e-4, atol=1e-3)
    (scores,) = head.run(["scores"], {"stats": stats[None]})
    np.testing.assert_allclose(scores[0], reference.head(stats).scores, atol=1e-5)
