"""Typed graphs, and the engines that TensorRT-RTX builds of them without a GPU."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from asa_engine.bundle import Bundle
from asa_engine.cli.main import main
from asa_engine.errors import BackendError, BundleError, UsageError
from asa_engine.gpu.tensorrt_engines import (
    EngineKey,
    Library,
    Profile,
    build,
    engine_name,
    load_library,
    model_sha256,
    read_engine,
    write_engine,
)
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_export.acoustic import windows_of
from asa_export.exporter import export, plan
from asa_export.onnx import FloatLinears, encoder_model, head_model
from asa_export.parity import REFERENCE, Scorer, compare
from asa_export.quantize import calibrate
from asa_export.speech import Speech, manifest_speech, synthetic_recordings
from asa_export.tensorrt import build_engines, parse_capability
from asa_export.typed import TYPED, OnCpu, on_cpu, typed_model
from asa_export.weights import Weights

HALVES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
ROUNDING = {"fp16": 2.0**-11, "bf16": 2.0**-8}
"""Half the distance of neighbouring numbers, relative."""


def short_speech() -> Speech:
    return Speech("short", synthetic_recordings(seed=1)[:2], synthetic_recordings()[:2])


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small bundle with every typed graph and their twins for the CPU; not to be written to."""
    folder = tmp_path_factory.mktemp("typed") / "tiny"
    variants = plan(["onnx", "tensorrt"], ["fp32", "fp16", "bf16"])
    export(checkpoint, folder, variants, short_speech())
    return Bundle.open(folder)


def model_of(bundle: Bundle, precision: str) -> onnx.ModelProto:
    path = bundle.file("grader", "tensorrt", precision)
    return onnx.load(path, load_external_data=False)


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """Infer the type of every value."""
    found = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    return {
        **{tensor.name: tensor.data_type for tensor in found.initializer},
        **{
            item.name: item.type.tensor_type.elem_type
            for item in (*found.value_info, *found.input, *found.output)
        },
    }


@pytest.mark.parametrize("precision", HALVES)
def test_only_products_are_in_half_precision(bundle: Bundle, precision: str) -> None:
    model = model_of(bundle, precision)
    types = types_of(model)
    computed = Counter(
        node.op_type
        for node in model.graph.node
        if HALVES[precision] in {types[name] for name in node.input if name}
    )
    # Two layers: q, k, v, out, fc1, fc2 each, and two convolutions; two products of attention.
    assert computed.pop("Gemm") == 2 * 6 + 2
    assert computed.pop("MatMul") == 2 * 2
    # The rest moves values and computes none.
    assert set(computed) <= {"Cast", "Transpose", "Reshape"}
    norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    assert all(types[norm.input[0]] == TensorProto.FLOAT for norm in norms)
    assert len(norms) > 2 * 2


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_typed_graph_is_plain_onnx(bundle: Bundle, precision: str) -> None:
    model = model_of(bundle, precision)
    assert {node.domain for node in model.graph.node} == {""}
    (opset,) = (item.version for item in model.opset_import if not item.domain)
    assert opset >= 17  # LayerNormalization as one operator
    # Weights stay in the checkpoint: the graph is small.
    assert len(model.SerializeToString()) < 100_000


def test_the_float32_graph_is_encoder_and_head(bundle: Bundle) -> None:
    session = ort.InferenceSession(str(bundle.file("grader", "tensorrt", "fp32")))
    encoder, head = (
        ort.InferenceSession(str(bundle.file(stage, "onnxruntime", "fp32")))
        for stage in ("encoder", "head")
    )
    rng = np.random.default_rng(3)
    mel = rng.normal(size=(3, 80, 75)).astype(np.float32)
    stats, frames = encoder.run(None, {"mel": mel})
    sums = np.abs(rng.normal(size=stats.shape)).astype(np.float32) + 1
    scores, prior = head.run(None, {"stats": stats + sums})
    found = session.run(None, {"mel": mel, "sums": sums})
    # The same sums in another order: attention is one operator there and four here.
    for value, truth in zip(found, (stats, scores, prior, frames), strict=True):
        np.testing.assert_allclose(value, truth, rtol=1e-4, atol=1e-4 * np.abs(truth).max())


@pytest.mark.parametrize("precision", HALVES)
def test_the_form_for_the_cpu_is_the_graph_itself(bundle: Bundle, precision: str) -> None:
    """ONNX's own evaluator runs half-precision products as they stand; the form must agree.

    It adds them up in float32 as well, or in float16 where NumPy does: a rounding for each product,
    which the layers carry on.
    """
    if precision == "bf16" and int(np.__version__.split(".")[0]) < 2:
        pytest.skip("NumPy 1 multiplies bfloat16 to float32, which ONNX's evaluator refuses")
    mel = np.random.default_rng(4).normal(size=(1, 80, 40)).astype(np.float32)
    path = bundle.file("grader", "tensorrt", precision)
    width = model_of(bundle, precision).graph.input[1].type.tensor_type.shape.dim[1].dim_value
    inputs = {"mel": mel, "sums": np.zeros((1, width), np.float32)}
    truth = ReferenceEvaluator(str(path)).run(["frames"], inputs)[0]
    here = path.with_name(f"cpu.{precision}.onnx")
    onnx.save(on_cpu(model_of(bundle, precision)), here)
    frames = ort.InferenceSession(str(here)).run(["frames"], inputs)[0]
    error = np.linalg.norm(frames - truth) / np.linalg.norm(truth)
    assert error < 4 * ROUNDING[precision]


@pytest.mark.parametrize("precision", HALVES)
def test_half_precision_errs_as_its_roundings_do(bundle: Bundle, precision: str) -> None:
    rng = np.random.default_rng(5)
    mel = rng.normal(size=(80, 100)).astype(np.float32)
    frames = {}
    for level in ("fp32", precision):
        encoded = OnCpu(bundle, "tensorrt", level).encode(mel, frames=True)
        assert encoded.frames is not None
        frames[level] = encoded.frames
    error = np.linalg.norm(frames[precision] - frames["fp32"]) / np.linalg.norm(frames["fp32"])
    # Not nothing, or nothing was rounded; and two layers add up a few roundings.
    assert ROUNDING[precision] / 20 < error < 10 * ROUNDING[precision]


def test_large_values_do_not_overflow_half_precision(bundle: Bundle) -> None:
    """Residual sums and norms are float32: what overflows float16 passes through them."""
    mel = np.full((80, 100), 3e3, np.float32)
    encoded = OnCpu(bundle, "tensorrt", "fp16").encode(mel, frames=True)
    assert encoded.frames is not None
    assert np.isfinite(encoded.frames).all()


@pytest.fixture(scope="module")
def int8_model(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    folder = tmp_path_factory.mktemp("int8")
    source = Bundle.open(checkpoint)
    (folder / "weights.safetensors").write_bytes((checkpoint / "weights.safetensors").read_bytes())
    config = AcousticConfig.from_dict(source.config)
    weights = Weights(folder / "weights.safetensors")
    windows = windows_of(config, synthetic_recordings(seed=1)[:2])
    return typed_model(config, weights, "int8", calibrate(config, weights, windows))


def test_int8_is_symmetric_with_one_scale_an_input(int8_model: onnx.ModelProto) -> None:
    constants = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in int8_model.graph.initializer
        if tensor.data_location != TensorProto.EXTERNAL
    }
    rounded = [node for node in int8_model.graph.node if node.op_type == "QuantizeLinear"]
    assert len(rounded) == 2 * 3  # q k v share one; the attention's output; fc1
    for node in rounded:
        assert constants[node.input[1]].shape == ()
        assert constants[node.input[2]].dtype == np.int8
        assert constants[node.input[2]] == 0
    weights = [
        node
        for node in int8_model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    ]
    assert len(weights) == 2 * 5
    for node in weights:
        values, scales = (constants[name] for name in node.input)
        assert values.dtype == np.int8
        assert scales.shape == (values.shape[1],)
        assert helper.get_node_attr_value(node, "axis") == 1


def test_int8_without_a_calibration_is_a_mistake(checkpoint: Path) -> None:
    config = AcousticConfig.from_dict(Bundle.open(checkpoint).config)
    with pytest.raises(ValueError, match="calibration"):
        typed_model(config, Weights(checkpoint / "weights.safetensors"), "int8")


def test_variants_of_other_devices_are_judged_and_not_timed(bundle: Bundle) -> None:
    assert bundle.auto == (("onnxruntime", "fp32"),)
    report = bundle.parity["tensorrt/fp16"]
    assert report["recordings"] == 2
    assert "cpu_ms" not in report
    assert report["measured_with"]["provider"] == "CPU, in the place of a GPU"


def test_the_graphs_of_the_cpu_are_what_they_were(checkpoint: Path) -> None:
    """Encoder and head are two graphs, and the fused attention is the encoder's."""
    config = AcousticConfig.from_dict(Bundle.open(checkpoint).config)
    weights = Weights(checkpoint / "weights.safetensors")
    encoder = encoder_model(config, weights, FloatLinears())
    kinds = Counter(node.op_type for node in encoder.graph.node)
    assert kinds["MultiHeadAttention"] == 2
    assert [item.name for item in encoder.graph.output] == ["stats", "frames"]
    assert [item.name for item in head_model(config, weights).graph.output] == ["scores", "prior"]


@pytest.mark.parametrize("precision", TYPED)
def test_the_shipped_grader_keeps_its_scores_on_real_speech(
    precision: str, corpus: Path, tmp_path: Path
) -> None:
    """Ten recordings, within the budgets that stand for hundreds."""
    from asa_engine.bundle import write_manifest

    shipped = Bundle.open("acoustic")
    for name in ("config.json", "weights.safetensors", "head.onnx"):
        (tmp_path / name).write_bytes((shipped.path / name).read_bytes())
    config = AcousticConfig.from_dict(shipped.config)
    weights = Weights(tmp_path / "weights.safetensors")
    speech = manifest_speech(corpus / "train.jsonl", calibrate=16, limit=10)
    calibration = None
    if precision == "int8":
        calibration = calibrate(config, weights, windows_of(config, speech.calibration))
    graph = f"grader.{precision}.onnx"
    onnx.save(typed_model(config, weights, precision, calibration), tmp_path / graph)
    stages = {
        "grader": {"tensorrt": {precision: graph}},
        "head": {"tensorrt": {precision: "head.onnx"}},
    }
    write_manifest(
        tmp_path, name="x", version="1", grader="acoustic", stages=stages, auto=(), parity={}
    )
    opened = Bundle.open(tmp_path)
    candidate = Scorer(opened, "tensorrt", precision, stages=OnCpu(opened, "tensorrt", precision))
    (found,) = compare(Scorer(shipped, *REFERENCE), [candidate], speech.judging, "real speech")
    found.check()
    assert max(aspect.rms for aspect in found.aspects.values()) > 0


PROFILE = Profile(batch=4, mels=80, mel_frames=100, stats=500)


OTHERS = {
    "library": "tensorrt",
    "version": "1.6",
    "compute_capability": "8.6",
    "driver": "12.9",
    "model_sha256": "cd",
}


@pytest.mark.parametrize("field", OTHERS)
def test_an_engine_of_anything_else_is_not_read(tmp_path: Path, field: str) -> None:
    wanted = EngineKey("tensorrt-rtx", "1.7", "8.9", "13.0", "ab")
    path = tmp_path / "some.engine"
    write_engine(path, b"engine", dataclasses.replace(wanted, **{field: OTHERS[field]}))
    name = field.replace("_", " ")
    why = f"its {name} is {OTHERS[field]}, here it is {getattr(wanted, field)}"
    if field == "model_sha256":
        why = "it is of another model or other shapes"
    assert read_engine(path, wanted) == (None, why)
    write_engine(path, b"engine", dataclasses.replace(wanted, driver="any"))
    assert read_engine(path, wanted) == (b"engine", "")


def test_a_key_names_all_that_an_engine_is_made_of(tmp_path: Path) -> None:
    graph, weights = tmp_path / "a.onnx", tmp_path / "weights"
    graph.write_bytes(b"graph")
    weights.write_bytes(b"weights")
    first = model_sha256(graph, weights, PROFILE)
    assert model_sha256(graph, weights, dataclasses.replace(PROFILE, batch=5)) != first
    weights.write_bytes(b"other")
    assert model_sha256(graph, weights, PROFILE) != first


@pytest.mark.parametrize(
    ("text", "capability"),
    [("89", "8.9"), ("8.9", "8.9"), ("sm_120", "12.0"), ("SM86", "8.6"), (" 12.0 ", "12.0")],
)
def test_compute_capabilities_are_written_in_many_ways(text: str, capability: str) -> None:
    assert parse_capability(text) == capability


@pytest.mark.parametrize("text", ["", "8", "8.99", "ada", "8,9", "-89"])
def test_what_is_no_compute_capability_is_said(text: str) -> None:
    with pytest.raises(UsageError, match="is no compute capability"):
        parse_capability(text)


@pytest.fixture(scope="module")
def rtx() -> Library:
    """TensorRT-RTX; `make gpu-engines` installs it."""
    pytest.importorskip("tensorrt_rtx", reason="needs the extra 'tensorrt-rtx'")
    return load_library()


@pytest.mark.parametrize("capability", ["8.6", "8.9", "12.0"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_engines_are_built_without_a_gpu(
    rtx: Library, bundle: Bundle, capability: str, precision: str
) -> None:
    stats = AcousticConfig.from_dict(bundle.config).stats_width
    profile = dataclasses.replace(PROFILE, stats=stats)
    graph = bundle.file("grader", "tensorrt", precision)
    engine = build(rtx, graph, profile, [capability])
    assert len(engine) > 10_000


def test_an_int8_engine_is_built_without_a_gpu(
    rtx: Library, int8_model: onnx.ModelProto, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "weights.safetensors").write_bytes(
        (checkpoint / "weights.safetensors").read_bytes()
    )
    onnx.save(int8_model, tmp_path / "grader.onnx")
    stats = int8_model.graph.input[1].type.tensor_type.shape.dim[1].dim_value
    profile = dataclasses.replace(PROFILE, stats=stats)
    assert build(rtx, tmp_path / "grader.onnx", profile, ["8.9"])


def test_a_gpu_that_the_library_does_not_know_is_named(rtx: Library, bundle: Bundle) -> None:
    graph = bundle.file("grader", "tensorrt", "fp32")
    with pytest.raises(BackendError, match=r"compute capability 6\.1") as caught:
        build(rtx, graph, PROFILE, ["6.1"])
    assert "SM89" in caught.value.hint


def test_a_graph_that_the_library_does_not_read_is_named(rtx: Library, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(BackendError, match=r"cannot build broken\.onnx: it does not read"):
        build(rtx, tmp_path / "broken.onnx", PROFILE, ["8.9"])


def test_the_command_line_builds_engines_into_the_bundle(
    rtx: Library, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = ("--target", "tensorrt", "--precision", "fp16", "--compute-capability", "89")
    assert main(["export", str(checkpoint), "-o", str(tmp_path / "b"), *target]) == 0
    assert "engines/fp16-sm89.engine" in capsys.readouterr().out
    made = Bundle.open(tmp_path / "b")
    name = engine_name("fp16", "8.9")
    assert name in made.artifacts
    key = json.loads((made.path / name).with_suffix(".json").read_text())
    assert key["compute_capability"] == "8.9"
    assert key["library"] == "tensorrt-rtx"
    # Its manifest vouches for it like for every other file.
    (made.path / name).write_bytes(b"another engine")
    with pytest.raises(BundleError, match="not the file"):
        Bundle.open(made.path)


@pytest.mark.parametrize(
    ("target", "capability", "said"),
    [("onnx", "89", "--target tensorrt"), ("tensorrt", "x", "no compute capability")],
)
def test_a_wrong_compute_capability_is_exit_2(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    target: str,
    capability: str,
    said: str,
) -> None:
    options = ("--target", target, "--compute-capability", capability)
    assert main(["export", str(checkpoint), "-o", str(tmp_path / "b"), *options]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_a_bundle_without_graphs_has_no_engines(checkpoint: Path) -> None:
    with pytest.raises(BundleError, match="no graphs for TensorRT"):
        build_engines(Bundle.open(checkpoint), ["8.9"])


def test_a_grader_of_words_is_not_exported_to_tensorrt() -> None:
    with pytest.raises(UsageError, match="cannot be exported to 'tensorrt'"):
        plan(["tensorrt"], [], "text")
