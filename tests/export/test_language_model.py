"""The language model's graphs compute what Hugging Face's models compute."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from language_models import LONG, PARTLY_ROTATED, save_model, tiny_model
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from asa_engine.errors import CheckpointError
from asa_engine.language_model.decoder import Decoder
from asa_engine.runtimes.onnxruntime import session
from asa_export.language_model import (
    TOKENS,
    DecoderLinears,
    FloatDecoder,
    decoder_model,
    decoder_tensors,
    split_fused,
    tokens_model,
    vocabulary_model,
)
from asa_export.language_model_calibrate import calibrate_decoder
from asa_export.language_model_config import DecoderConfig
from asa_export.language_model_quantize import (
    Int4Decoder,
    Int8Decoder,
    pack_int4,
    round_rows_to_int8,
)
from asa_export.weights import Weights

# Sums in another order through three layers, hidden states of magnitude 1 to 4.
FLOAT_TOLERANCE = 3e-5
LINEARS: dict[str, Callable[[Weights], DecoderLinears]] = {
    "fp32": lambda _: FloatDecoder(),
    "int8": Int8Decoder,
    "int4": lambda _: Int4Decoder(),
}


def as_exported(folder: Path, config: DecoderConfig) -> Weights:
    """Take fused matrices apart, as an exporter does."""
    file = folder / "model.safetensors"
    apart = split_fused(config, load_file(file))
    save_file({name: value.contiguous().clone() for name, value in apart.items()}, file)
    return Weights(file)


def embeddings(rows: int, width: int = 64, seed: int = 5) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 1, (rows, width)).astype(np.float32)


def export(model: Any, folder: Path, precision: str = "fp32") -> tuple[DecoderConfig, Decoder]:
    save_model(model, folder)
    config = DecoderConfig.from_hugging_face(json.loads((folder / "config.json").read_text()))
    weights = as_exported(folder, config)
    weights.check(decoder_tensors(config))
    graph = decoder_model(config, weights, LINEARS[precision](weights), positions=200)
    onnx.save(graph, folder / "decoder.onnx")
    return config, Decoder.open(folder / "decoder.onnx", threads=1)


def reference(model: Any, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        hidden = model.model(inputs_embeds=torch.from_numpy(rows)[None]).last_hidden_state
    found: NDArray[np.float32] = hidden[0].numpy()
    return found


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("llama", {"head_dim": 32}),
        ("llama", {"num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 16}),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}}),
        ("llama", {"rms_norm_eps": 0.1}),
        ("qwen2", {}),
        ("qwen2", {"num_key_value_heads": 1}),
        ("phi3", {}),
        ("phi3", {"head_dim": 32, "rope_parameters": PARTLY_ROTATED}),
        ("phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 160}),
    ],
)
def test_hidden_states_are_hugging_faces(
    tmp_path: Path, family: str, changes: dict[str, Any]
) -> None:
    model = tiny_model(family, **changes)
    _, decoder = export(model, tmp_path)
    rows = embeddings(150)
    found = decoder.start(150).extend(rows)
    np.testing.assert_allclose(found, reference(model, rows), atol=FLOAT_TOLERANCE, rtol=0)


def test_longrope_ends_with_its_first_regime(tmp_path: Path) -> None:
    model = tiny_model("phi3", rope_parameters=LONG, original_max_position_embeddings=160)
    config = DecoderConfig.from_hugging_face(model.config.to_dict())
    assert config.positions == 160
    wrong = {**model.config.to_dict(), "rope_parameters": {**LONG, "short_factor": [1.0]}}
    with pytest.raises(CheckpointError, match="short_factor"):
        DecoderConfig.from_hugging_face(wrong)


@pytest.mark.parametrize("tied", [False, True])
def test_tokens_and_vocabulary(tmp_path: Path, tied: bool) -> None:
    model = tiny_model(tie_word_embeddings=tied)
    config, decoder = export(model, tmp_path)
    weights, ids = Weights(tmp_path / "model.safetensors"), [3, 95, 0, 41]
    onnx.save(tokens_model(config, weights, FloatDecoder()), tmp_path / "tokens.onnx")
    onnx.save(vocabulary_model(config, weights, FloatDecoder()), tmp_path / "vocabulary.onnx")
    tokens = session(tmp_path / "tokens.onnx", 1)
    (rows,) = tokens.run(None, {"ids": np.array(ids)})
    hidden = decoder.start(len(ids)).extend(rows)
    vocabulary = session(tmp_path / "vocabulary.onnx", 1)
    (logits,) = vocabulary.run(None, {"hidden": hidden[-1:]})
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0, -1].numpy()
    np.testing.assert_allclose(logits[0], expected, atol=1e-4, rtol=0)


# The noise of rounding random matrices of 64 inputs, through three layers: at 8 bits about 1 % of
# the states, at 4 bits (16 steps a block) about 20 times that.
@pytest.mark.parametrize(("precision", "budget"), [("int8", 0.03), ("int4", 0.4)])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_rounded_models_stay_close(
    tmp_path: Path, family: str, precision: str, budget: float
) -> None:
    model = tiny_model(family)
    _, decoder = export(model, tmp_path, precision)
    rows = embeddings(60)
    # A first position far larger than the rest must not cost the others their precision.
    rows[0] *= 300
    found, expected = decoder.start(60).extend(rows), reference(model, rows)
    error = np.sqrt(np.square(found - expected).mean() / np.square(expected).mean())
    assert 1e-5 < error < budget


def test_calibration_halves_the_error(tmp_path: Path) -> None:
    model = tiny_model()
    with torch.no_grad():  # a few channels far larger than the rest, as trained models have
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            layer.input_layernorm.weight[:4] *= 30
            for following in (attention.q_proj, attention.k_proj, attention.v_proj):
                following.weight[:, :4] /= 30
            layer.post_attention_layernorm.weight[7:9] *= 30
            for following in (mlp.gate_proj, mlp.up_proj):
                following.weight[:, 7:9] /= 30
            mlp.up_proj.weight[5:8] *= 30
            mlp.down_proj.weight[:, 5:8] /= 30
    config, exact = export(model, tmp_path)
    weights = Weights(tmp_path / "model.safetensors")
    beginning, x = embeddings(20, seed=1), embeddings(60, seed=2)
    first = exact.start(20)
    first.extend(beginning)
    state = first.state()
    sequences = [embeddings(40, seed=seed) for seed in range(3, 9)]
    found = calibrate_decoder(config, weights, state, sequences)
    assert len(found) == 4 * config.layers
    expected = exact.resume(state).fork(80).extend(x)
    errors = []
    for linears in (Int8Decoder(weights), Int8Decoder(weights, found)):
        onnx.save(decoder_model(config, weights, linears, positions=80), tmp_path / "int8.onnx")
        decoder = Decoder.open(tmp_path / "int8.onnx", threads=1)
        hidden = decoder.resume(state).fork(80).extend(x)
        errors.append(np.linalg.norm(hidden - expected) / np.linalg.norm(expected))
    assert errors[1] < errors[0] / 2


def test_two_digits_leave_the_weights_rounding_alone(tmp_path: Path) -> None:
    model = tiny_model()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "_proj" in name:  # on the grid already: rounding the weights changes nothing
                steps, scale = round_rows_to_int8(weight.numpy())
                weight.copy_(torch.from_numpy(steps * scale[:, None]))
    config, _ = export(model, tmp_path)
    weights = Weights(tmp_path / "model.safetensors")
    rows = embeddings(60)
    rows[0] *= 300
    expected = reference(model, rows)
    errors = []
    for digits in (1, 2):
        linears = Int8Decoder(weights, digits=digits)
        onnx.save(decoder_model(config, weights, linears, positions=60), tmp_path / "int8.onnx")
        decoder = Decoder.open(tmp_path / "int8.onnx", threads=1)
        whole, parts = decoder.start(60).extend(rows), decoder.start(60)
        streamed = np.concatenate([parts.extend(rows[:7]), parts.extend(rows[7:])])
        np.testing.assert_allclose(streamed, whole, atol=1e-4, rtol=0)
        errors.append(np.linalg.norm(whole - expected) / np.linalg.norm(expected))
    # A second digit is worth 254 steps of the first; float32's own noise is left.
    assert errors[1] < errors[0] / 100


def test_digits_are_one_or_two(tmp_path: Path) -> None:
    export(tiny_model(), tmp_path)
    with pytest.raises(ValueError, match="digits"):
        Int8Decoder(Weights(tmp_path / "model.safetensors"), digits=3)


def test_exact_layers_stay_float32_in_a_graph_of_its_own(tmp_path: Path) -> None:
    model = tiny_model("qwen2")
    config, _ = export(model, tmp_path)
    weights = Weights(tmp_path / "model.safetensors")
    linears = Int8Decoder(weights, exact_layers=config.layers)
    alone = tmp_path / "alone"
    alone.mkdir()
    onnx.save(decoder_model(config, weights, linears, positions=60), alone / "int8.onnx")
    rows = embeddings(60)
    found = Decoder.open(alone / "int8.onnx", threads=1).start(60).extend(rows)
    np.testing.assert_allclose(found, reference(model, rows), atol=FLOAT_TOLERANCE, rtol=0)


def test_rounded_embeddings(tmp_path: Path) -> None:
    model = tiny_model()
    config, _ = export(model, tmp_path)
    weights = Weights(tmp_path / "model.safetensors")
    onnx.save(tokens_model(config, weights, Int8Decoder(weights)), tmp_path / "tokens.onnx")
    (rows,) = session(tmp_path / "tokens.onnx", 1).run(None, {"ids": np.arange(96)})
    table = model.model.embed_tokens.weight.detach().numpy()
    steps = np.abs(table).max(axis=1, keepdims=True) / 127
    assert (np.abs(rows - table) <= 0.501 * steps).all()
    save_file({TOKENS: torch.from_numpy(table).half()}, tmp_path / "halves.safetensors")
    halves = Weights(tmp_path / "halves.safetensors")
    finer = tokens_model(config, halves, Int8Decoder(weights, digits=2))
    onnx.save(finer, tmp_path / "tokens.onnx")
    assert (tmp_path / "tokens.onnx").stat().st_size < 1000  # the table stays in its file
    (rows,) = session(tmp_path / "tokens.onnx", 1).run(None, {"ids": np.arange(96)})
    np.testing.assert_array_equal(rows, table.astype(np.float16).astype(np.float32))


def test_rounding_to_int8_keeps_the_largest() -> None:
    weight = np.array([[0.5, -2.0, 1.0], [0.0, 0.0, 0.0]], np.float32)
    steps, scale = round_rows_to_int8(weight)
    np.testing.assert_array_equal(steps, [[32, -127, 64], [0, 0, 0]])
    np.testing.assert_allclose(scale[0], 2 / 127, rtol=1e-6)


def unpack_int4(
    packed: NDArray[np.uint8], scale: NDArray[np.float32], zero: NDArray[np.uint8], inputs: int
) -> NDArray[np.float32]:
    rows, blocks = scale.shape
    steps = np.stack([packed & 15, packed >> 4], axis=-1).reshape(rows, blocks, 32)
    zeros = np.stack([zero & 15, zero >> 4], axis=-1).reshape(rows, -1)[:, :blocks, None]
    found = (steps.astype(np.float32) - zeros) * scale[..., None]
    return found.reshape(rows, -1)[:, :inputs]


@pytest.mark.parametrize("inputs", [32, 64, 40])
def test_int4_with_a_moment_changes_outputs_less(inputs: int) -> None:
    rng = np.random.default_rng(3)
    weight = rng.normal(0.3, 1, (5, inputs)).astype(np.float32)
    # Correlated channels of uneven size, as activations are.
    x = rng.normal(0, 1, (200, inputs)) @ rng.normal(0, 1, (inputs, inputs))
    x *= np.exp(rng.normal(0, 1, inputs))
    errors = []
    for moment in (None, x.T @ x):
        packed, scale, zero = pack_int4(weight, moment=moment)
        errors.append(np.linalg.norm(x @ (unpack_int4(packed, scale, zero, inputs) - weight).T))
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize("inputs", [32, 64, 96, 40])
def test_int4_is_within_half_a_step(inputs: int) -> None:
    weight = np.random.default_rng(2).normal(0.3, 1, (5, inputs)).astype(np.float32)
    packed, scale, zero = pack_int4(weight)
    found = unpack_int4(packed, scale, zero, inputs)
    # Half a step for a value, half for the zero point.
    assert (np.abs(found - weight) <= 1.001 * np.repeat(scale, 32, axis=1)[:, :inputs]).all()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "gpt2"),
        ("hidden_act", "gelu"),
        ("mlp_bias", True),
        ("attention_bias", True),
        ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4}),
        ("rope_scaling", {"type": "linear", "factor": 2.0}),
        ("num_key_value_heads", 3),
        ("num_hidden_layers", None),
        ("head_dim", 15),
        ("rms_norm_eps", 0.0),
    ],
)
def test_other_architectures_are_refused(field: str, value: object) -> None:
    fields = {**tiny_model().config.to_dict(), field: value}
    if field == "rope_scaling":
        del fields["rope_parameters"]
    with pytest.raises(CheckpointError, match="config field"):
        DecoderConfig.from_hugging_face(fields)
