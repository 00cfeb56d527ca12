"""ONNX Runtime's own operator events, on the time line of the stages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from audio_samples import encoded, speech

from asa_engine.bundle import write_manifest
from asa_engine.cli.main import main

MELS, ASPECTS, LEVELS = 80, 2, 8


def _save(path: Path, nodes: list[object], inputs: dict[str, list[object]], **outputs: int) -> None:
    """Write a model of float tensors."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, w]) for n, w in outputs.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def _constant(name: str, values: np.ndarray) -> object:
    tensor = onnx.numpy_helper.from_array(values.astype(np.float32), name)
    return onnx.helper.make_node("Constant", [], [name], value=tensor)


@pytest.fixture
def onnx_bundle(fake_bundle: Path) -> Path:
    """A bundle whose encoder is the mean over time and whose head is linear."""
    node = onnx.helper.make_node
    rng = np.random.default_rng(0)
    mean = node("ReduceMean", ["mel"], ["stats"], axes=[2], keepdims=0)
    _save(fake_bundle / "encoder.onnx", [mean], {"mel": [1, MELS, "T"]}, stats=MELS)
    head = [
        _constant("to_scores", rng.standard_normal((MELS, ASPECTS))),
        _constant("to_prior", rng.standard_normal((MELS, LEVELS))),
        node("MatMul", ["stats", "to_scores"], ["scores"]),
        node("MatMul", ["stats", "to_prior"], ["logits"]),
        node("Softmax", ["logits"], ["prior"], axis=1),
    ]
    head_outputs = {"scores": ASPECTS, "prior": LEVELS}
    _save(fake_bundle / "head.onnx", head, {"stats": [1, MELS]}, **head_outputs)
    files = {"encoder": "encoder.onnx", "head": "head.onnx"}
    write_manifest(
        fake_bundle,
        name="tiny",
        version="1",
        grader="acoustic",
        stages={stage: {"onnxruntime": {"fp32": name}} for stage, name in files.items()},
        auto=(("onnxruntime", "fp32"),),
        parity={},
    )
    return fake_bundle


def test_operators_lie_inside_their_stage(onnx_bundle: Path, tmp_path: Path) -> None:
    audio, path = tmp_path / "answer.wav", tmp_path / "trace.json"
    audio.write_bytes(encoded(speech(3.3, seed=3)))
    options = ["--bundle", str(onnx_bundle), "--threads", "1", "--trace", str(path)]
    assert main(["profile", str(audio), *options]) == 0
    events = [e for e in json.loads(path.read_text())["traceEvents"] if e["ph"] == "X"]
    for stage, runs in (("encoder", 8), ("head", 2)):
        spans = [e for e in events if e["cat"] == "stage" and e["name"] == stage]
        operators = [e for e in events if e["cat"] == f"{stage} operators"]
        assert len(spans) == runs
        assert len(operators) >= runs
        for each in operators:
            # ONNX Runtime counts whole microseconds.
            assert any(
                span["ts"] - 1 <= each["ts"]
                and each["ts"] + each["dur"] <= span["ts"] + span["dur"] + 1
                for span in spans
            )
    assert [e["args"]["frames"] for e in events if e["name"] == "encoder"] == [
        100,
        100,
        100,
        30,
    ] * 2
    assert {e["name"] for e in events if e["cat"] == "stage"} >= {"decode", "validity", "features"}
