"""Language models on the project's kernels, against Hugging Face's; what must not change a bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("transformers", reason="needs the extra 'llm'")
pytest.importorskip("onnx", reason="needs the extra 'export'")

import torch
from language_models import LONG, PARTLY_ROTATED, save_model, tiny_model

from asa_engine.errors import BundleError, CheckpointError, UsageError
from asa_engine.language_model.native import NativeModel
from asa_engine.language_model.opening import open_model
from asa_export.language_model import split_fused
from asa_export.language_model_config import DecoderConfig
from asa_export.language_model_files import write_tensors
from asa_export.language_model_native import rotary, round_in_groups, rounded_tensors, stated
from asa_export.quantize import LinearInputs
from asa_export.weights import Weights

POSITIONS = 250
# Sums in another order through three layers, hidden states of magnitude 1 to 4.
EXACT = 3e-5
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama/wide heads": {"head_dim": 48, "rms_norm_eps": 0.1},
    "llama/no groups": {"num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 16},
    "qwen2": {},
    "qwen2/one group": {"num_key_value_heads": 1},
    "phi3": {},
    "phi3/partly rotated": {"head_dim": 32, "rope_parameters": PARTLY_ROTATED},
    "phi3/long": {"rope_parameters": LONG, "original_max_position_embeddings": 160},
}


def write(folder: Path, name: str = "llama", precision: str = "fp32") -> tuple[Any, Path]:
    """Return Hugging Face's model, and the file that the kernels take."""
    model = tiny_model(name.split("/")[0], **SHAPES[name])
    save_model(model, folder)
    config = DecoderConfig.from_hugging_face(json.loads((folder / "config.json").read_text()))
    state = split_fused(config, Weights(folder / "model.safetensors").everything())
    path = folder / f"{precision}.safetensors"
    tensors = {n: torch.from_numpy(np.ascontiguousarray(v)) for n, v in state.items()}
    positions = min(POSITIONS, config.positions)
    write_tensors(folder / "split.safetensors", tensors)
    if precision == "int8":
        weights = Weights(folder / "split.safetensors")
        tensors = rounded_tensors(config, weights, {}, positions=positions)
    else:
        tensors |= rotary(config, positions)
    write_tensors(path, tensors, stated(config))
    return model, path


def rows(count: int, width: int, seed: int = 3) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 1, (count, width)).astype(np.float32)


def expected(model: Any, x: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.no_grad():
        found = model.model(inputs_embeds=torch.from_numpy(x)[None]).last_hidden_state[0]
    result: NDArray[np.float32] = found.numpy()
    return result


@pytest.mark.parametrize("name", SHAPES)
def test_hidden_states_are_hugging_faces(name: str, tmp_path: Path) -> None:
    model, path = write(tmp_path, name)
    native = open_model(path, threads=2)
    x = rows(90, native.width)
    found = native.start(90).extend(x)
    np.testing.assert_allclose(found, expected(model, x), atol=EXACT, rtol=0)


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_eight_bits_stay_near(name: str, tmp_path: Path) -> None:
    model, path = write(tmp_path, name, "int8")
    native = NativeModel.open(path, threads=1)
    assert native.precision == "int8"
    x = rows(90, native.width)
    wanted = expected(model, x)
    error = np.linalg.norm(native.start(90).extend(x) - wanted) / np.linalg.norm(wanted)
    # Half a step in 127 of a group's largest weight and in 255 of its inputs' range, through
    # seven products a layer.
    assert error < 0.03


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("cuts", [[1] * 12, [5, 0, 30], [129, 1], [249]])
def test_streamed_is_offline_bit_for_bit(precision: str, cuts: list[int], tmp_path: Path) -> None:
    _, path = write(tmp_path, precision=precision)
    native, other = NativeModel.open(path, threads=1), NativeModel.open(path, threads=3)
    x = rows(sum(cuts), native.width)
    offline = native.start(len(x)).extend(x)
    for model in (native, other):
        sequence = model.start(len(x))
        streamed = [sequence.extend(part) for part in np.split(x, np.cumsum(cuts)[:-1])]
        np.testing.assert_array_equal(np.concatenate(streamed), offline)


def test_several_sequences_in_a_pass(tmp_path: Path) -> None:
    _, path = write(tmp_path, precision="int8")
    native = NativeModel.open(path, threads=2)
    x = rows(60, native.width)
    trunk = native.start(60)
    assert trunk.extend(x[:41], 0).shape == (0, native.width)
    branches = [trunk.fork(60), trunk.fork(50), native.start(7)]
    parts = [x[41:], x[50:55], x[:7]]
    found = native.extend_all(branches, parts, [19, 1, 7])
    whole = native.start(60).extend(x)
    np.testing.assert_array_equal(found[0], whole[41:])
    np.testing.assert_array_equal(found[2], whole[:7])
    np.testing.assert_array_equal(found[1], trunk.fork(60).extend(x[50:55])[-1:])
    with pytest.raises(ValueError, match="once in a batch"):
        native.extend_all([trunk, trunk], [x[:1], x[:1]], [1, 1])


def test_not_a_number_stays_in_its_sequence(tmp_path: Path) -> None:
    _, path = write(tmp_path, precision="int8")
    native = NativeModel.open(path, threads=1)
    x = rows(30, native.width)
    spoilt = np.full((4, native.width), np.nan, np.float32)
    bad, good = native.extend_all([native.start(4), native.start(30)], [spoilt, x], [4, 30])
    assert np.isnan(bad).all()
    np.testing.assert_array_equal(good, native.start(30).extend(x))
    sequence = native.start(30)
    sequence.extend(x[:10])
    sequence.extend(spoilt)
    sequence.rewind(10)
    np.testing.assert_array_equal(sequence.extend(x[10:]), good[10:])


def test_a_state_is_resumed(tmp_path: Path) -> None:
    _, path = write(tmp_path)
    native = NativeModel.open(path, threads=1)
    x = rows(30, native.width)
    first = native.start(33)
    first.extend(x[:20])
    state = first.state()
    resumed = native.resume(state)
    assert resumed.length == resumed.capacity == 20
    np.testing.assert_array_equal(resumed.state(), state)
    np.testing.assert_array_equal(resumed.fork(30).extend(x[20:]), first.extend(x[20:]))
    with pytest.raises(ValueError, match="not this decoder's"):
        native.resume(state[:, :2])


def test_limits_are_checked_before_anything_runs(tmp_path: Path) -> None:
    _, path = write(tmp_path)
    native = NativeModel.open(path, threads=1)
    with pytest.raises(UsageError, match="251 tokens does not fit the"):
        native.start(251)
    native.memory_limit_bytes = 100 * native.bytes_per_position
    native.start(100)
    with pytest.raises(UsageError, match="keys and values; the limit is"):
        native.start(101)
    sequence = native.start(10)
    with pytest.raises(ValueError, match="do not fit 10 free positions"):
        sequence.extend(rows(11, native.width))
    with pytest.raises(ValueError, match="width 63"):
        sequence.extend(rows(3, 63))
    with pytest.raises(ValueError, match="rewind"):
        sequence.rewind(1)
    assert sequence.length == 0


def test_another_file_is_refused(tmp_path: Path) -> None:
    _, path = write(tmp_path)
    tensors = {n: torch.from_numpy(v) for n, v in Weights(path).everything().items()}
    write_tensors(tmp_path / "bare.safetensors", tensors)
    with pytest.raises(BundleError, match="no language model"):
        NativeModel.open(tmp_path / "bare.safetensors", threads=1)
    metadata = Weights(path).metadata
    write_tensors(tmp_path / "odd.safetensors", tensors, {**metadata, "kv_heads": "3"})
    with pytest.raises(BundleError, match="not the shape of a language model"):
        NativeModel.open(tmp_path / "odd.safetensors", threads=1)
    del tensors["model.layers.2.mlp.up_proj.weight"]
    write_tensors(tmp_path / "less.safetensors", tensors, metadata)
    with pytest.raises(CheckpointError, match=r"lacks model.layers.2.mlp.up_proj"):
        NativeModel.open(tmp_path / "less.safetensors", threads=1)


def test_weights_are_rounded_so_that_outputs_stay() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(0, 1, (400, 6)) @ rng.normal(0, 1, (6, 300))  # inputs that are correlated
    weight = rng.normal(0, 1, (300, 8))
    nearest, scale = round_in_groups(weight, None)
    kept, same = round_in_groups(weight, LinearInputs(np.ones(300, np.float32), x.T @ x).moment)
    np.testing.assert_array_equal(scale, same)
    assert scale.shape == (3, 8)
    assert np.abs(nearest).max() == 127
    step = np.repeat(scale, 128, axis=0)[:300]
    assert np.abs(nearest * step - weight).max() <= 0.501 * scale.max()
    errors = [np.linalg.norm(x @ (steps * step - weight)) for steps in (nearest, kept)]
    assert errors[1] < 0.5 * errors[0]
