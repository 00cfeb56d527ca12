"""The graph of the multi-aspect grader's trained parts against PyTorch, in score points."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from multi_aspect_samples import tiny_config

from asa_engine.errors import CheckpointError
from asa_engine.features.linguistic import inventory
from asa_engine.graders.multi_aspect.model import Inputs, MultiAspectGrader
from asa_export.aspects import aspects_model, expected_tensors
from asa_export.weights import Weights


@pytest.mark.parametrize("form", ["paper", "lab"])
@pytest.mark.parametrize("sizes", [{}, {"content_width": 0, "delivery_width": 0, "layers": 2}])
@pytest.mark.parametrize(("frames", "words"), [(1, 1), (13, 4)])
def test_the_graph_says_what_pytorch_says(tmp_path, form, sizes, frames, words):
    torch.manual_seed(11)
    # A content width that is odd leaves one channel that does not turn.
    config = tiny_config(form=form, **{"content_width": 9, **sizes})
    grader = MultiAspectGrader(config).eval()
    with torch.no_grad():
        for buffer in grader.buffers():
            buffer.uniform_(0.5, 1.5)
        for parameter in grader.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        grader.round_halves()
    grader.save(tmp_path / "grader")
    weights = Weights(tmp_path / "grader" / "weights.safetensors")
    weights.check(expected_tensors(config))
    path = tmp_path / "grader" / "aspects.onnx"
    onnx.save(aspects_model(config, weights), path)
    onnx.checker.check_model(str(path))
    rng = np.random.default_rng(3)
    given = {
        "frames": rng.normal(0, 1, (1, frames, config.frame_width)).astype(np.float32),
        "prompt": rng.normal(0, 1, (1, config.prompt_width)).astype(np.float32),
        "delivery": rng.normal(0, 1, (1, words, 16)).astype(np.float32),
        "language": (rng.random((1, words, len(inventory()))) < 0.1).astype(np.float32),
    }
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(["probabilities"], given)
    tensors = {name: torch.from_numpy(value) for name, value in given.items()}
    with torch.inference_mode():
        logits = grader(
            Inputs(
                frame_counts=torch.tensor([frames]), word_counts=torch.tensor([words]), **tensors
            )
        )
    # float32 sums in another order, in points of a scale of 10: the budget of an fp32 export.
    scores = np.array(config.class_scores)
    assert np.abs((found - logits.softmax(-1).numpy()) @ scores).max() < 1e-4


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    MultiAspectGrader(tiny_config()).save(tmp_path / "grader")
    weights = Weights(tmp_path / "grader" / "weights.safetensors")
    with pytest.raises(CheckpointError):
        weights.check(expected_tensors(tiny_config(projection=10)))
    with pytest.raises(CheckpointError):
        weights.check(expected_tensors(tiny_config(form="lab")))
