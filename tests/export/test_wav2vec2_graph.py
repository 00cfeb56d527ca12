"""wav2vec2's graph against Hugging Face's class, at a tiny random configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from safetensors.torch import save_file
from text_samples import SHAPE, make_bert

from asa_engine.errors import CheckpointError
from asa_engine.graders.multi_aspect.runtime import wave_encode
from asa_engine.nn.bert import load_bert
from asa_engine.runtimes.onnxruntime import session
from asa_export.bert import FloatBert, bert_model
from asa_export.wav2vec2 import wav2vec2_model
from asa_export.weights import Weights

# float32 sums in another order, through nine layers of outputs of size one.
TOLERANCE = 2e-5


def _model(**changes: Any) -> Any:
    torch.manual_seed(3)
    config = transformers.Wav2Vec2Config(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=changes.pop("places", 8),
        num_conv_pos_embedding_groups=2,
        **changes,
    )
    model = transformers.Wav2Vec2Model(config)
    with torch.no_grad():  # norms and biases away from one and zero
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def _weights(folder: Path) -> Weights:
    save_file({"none": torch.zeros(1)}, folder / "weights.safetensors")
    return Weights(folder / "weights.safetensors")


@pytest.mark.parametrize("seconds", [0.1, 0.73, 2.0])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("changes", [{}, {"places": 7}, {"conv_bias": True}])
def test_frames_are_hugging_faces(
    tmp_path: Path, seconds: float, mixed: bool, changes: dict[str, Any]
) -> None:
    model = _model(**changes)
    graph = wav2vec2_model(model, _weights(tmp_path), tmp_path / "fp32.data", mixed=mixed)
    onnx.save(graph, tmp_path / "fp32.onnx")
    samples = np.random.default_rng(1).normal(0, 1, int(16_000 * seconds)).astype(np.float32)
    found = wave_encode(tmp_path / "fp32.onnx", 1)(samples)
    with torch.inference_mode():
        layers = model(torch.from_numpy(samples)[None], output_hidden_states=True).hidden_states
    expected = torch.stack(layers).mean(0) if mixed else layers[-1]
    np.testing.assert_allclose(found, expected[0].numpy(), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    "changes", [{"feat_extract_norm": "layer"}, {"do_stable_layer_norm": True}]
)
def test_another_kind_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=next(iter(changes))):
        wav2vec2_model(_model(**changes), _weights(tmp_path), tmp_path / "d", mixed=False)


def test_bert_is_pooled_as_told(tmp_path: Path) -> None:
    bert = load_bert(make_bert(tmp_path / "bert"))
    save_file(dict(bert.state_dict()), tmp_path / "bert.safetensors")
    ids = np.array([[2, 4, 5, 6, 3]], np.int64)
    with torch.inference_mode():
        hidden = bert(input_ids=torch.from_numpy(ids)).last_hidden_state[0].numpy()
    for pooling, expected in (("cls", hidden[0]), ("mean", hidden.mean(0))):
        weights = Weights(tmp_path / "bert.safetensors")
        onnx.save(bert_model(SHAPE, weights, FloatBert(), pooling=pooling), tmp_path / "b.onnx")
        (found,) = session(tmp_path / "b.onnx", 1).run(["pooled"], {"ids": ids})
        np.testing.assert_allclose(found[0], expected, atol=TOLERANCE, rtol=0)
