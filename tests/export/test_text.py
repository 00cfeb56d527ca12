"""The text grader's exports: graphs and CTranslate2 files against Hugging Face's BERT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from text_samples import SHAPE, make_grader, make_tokenizer

from asa_engine.errors import CheckpointError, UsageError
from asa_engine.graders.text.encoders import (
    CTranslate2Encoder,
    OnnxEncoder,
    TorchEncoder,
)
from asa_export.bert import FloatBert, Int8Bert, bert_model, expected_tensors
from asa_export.exporter import exporter_of
from asa_export.text import write_ctranslate2, write_onnx
from asa_export.weights import Weights

TEXTS = [(2, 3), (2, 4, 3), (2, 4, 5, 6, 7, 4, 8, 3), (2, *([9, 10, 11] * 4), 3)]
# float32 reorders sums of a hundred terms of size one.
FLOAT = 2e-5
# Rounding to a 127th of 32 neighbours' largest moves a product by about 0.3 %, and outputs of size
# one by little more over three layers; a wrong scale or order moves them by tens of percent.
INT8 = 0.05


@pytest.fixture
def grader():
    return make_grader()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_tokenizer(tmp_path / "tokenizer.json")
    return tmp_path


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", FLOAT), ("int8", INT8)])
def test_the_graph_pools_what_bert_pools(grader, folder: Path, precision, tolerance) -> None:
    file = write_onnx(grader, folder, precision)
    encoder, reference = OnnxEncoder(folder / Path(file).name, 1), TorchEncoder(grader)
    for ids in TEXTS:
        wanted = reference.pool(ids)
        assert np.abs(encoder.pool(ids) - wanted).max() < tolerance * np.abs(wanted).max()


def test_an_int8_graph_stands_alone(grader, folder: Path) -> None:
    write_onnx(grader, folder, "int8")
    assert not (folder / "bert.safetensors").exists()
    write_onnx(grader, folder, "fp32")
    write_onnx(grader, folder, "int8")
    assert (folder / "bert.safetensors").exists()  # the float32 graph's weights lie there


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", FLOAT), ("int8", 2 * INT8)])
def test_ctranslate2_pools_what_bert_pools(grader, folder: Path, precision, tolerance) -> None:
    file = write_ctranslate2(grader, folder, precision)
    encoder = CTranslate2Encoder(folder / Path(file).parent.name, 1)
    reference = TorchEncoder(grader)
    for ids in TEXTS:
        wanted = reference.pool(ids)
        assert np.abs(encoder.pool(ids) - wanted).max() < tolerance * np.abs(wanted).max()


def test_a_tensor_that_is_missing_or_unknown_is_named(grader, folder: Path) -> None:
    from safetensors.torch import save_file

    state = {name: value.contiguous() for name, value in grader.bert.state_dict().items()}
    state["surplus"] = torch.zeros(1)
    save_file(state, folder / "w.safetensors")
    with pytest.raises(CheckpointError, match="surplus"):
        Weights(folder / "w.safetensors").check(expected_tensors(SHAPE))
    del state["surplus"], state["encoder.layer.1.output.dense.bias"]
    save_file(state, folder / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"encoder\.layer\.1\.output\.dense\.bias"):
        Weights(folder / "w.safetensors").check(expected_tensors(SHAPE))


def test_int8_says_which_shapes_it_cannot_have(folder: Path) -> None:
    from dataclasses import replace

    from safetensors.torch import save_file

    shape = replace(SHAPE, ffn=80)
    grader = make_grader(encoder=shape)
    save_file(grader.bert.state_dict(), folder / "w.safetensors")
    weights = Weights(folder / "w.safetensors")
    bert_model(shape, weights, FloatBert())
    with pytest.raises(UsageError, match="80 inputs"):
        bert_model(shape, weights, Int8Bert())


def test_every_target_is_planned() -> None:
    targets = exporter_of("text").targets
    assert {backend for backend, _ in targets.values()} == {"onnxruntime", "ctranslate2"}
