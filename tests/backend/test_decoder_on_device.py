"""A decoder whose keys and values stay on a device, with the CPU in the place of the GPU.

The same binding, memory and copies run as with "cuda"; only ONNX Runtime's provider differs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from language_models import stored_model
from numpy.typing import NDArray

from asa_engine.errors import BackendError, UsageError
from asa_engine.language_model.decoder import Decoder
from asa_engine.language_model.memory import KEPT_TYPES, DeviceMemory, HostMemory
from asa_engine.runtimes import onnxruntime_gpu
from asa_engine.runtimes.onnxruntime import session
from asa_export.language_model import FloatDecoder, decoder_model
from asa_export.language_model_half import HALVES, HalfDecoder
from asa_export.typed import on_cpu

PRECISIONS = ("fp32", "fp16", "bf16")
ROUNDING = {"fp16": 2.0**-11, "bf16": 2.0**-8}
"""Half the distance of neighbouring numbers, relative."""


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny model at each precision, halves in the form for the CPU."""
    folder = tmp_path_factory.mktemp("decoder")
    config, weights = stored_model(folder)
    found = {}
    for precision in PRECISIONS:
        linears = FloatDecoder() if precision == "fp32" else HalfDecoder(precision)
        model = decoder_model(config, weights, linears, positions=250)
        onnx.save(model, folder / f"{precision}.onnx")
        found[precision] = folder / f"cpu.{precision}.onnx"
        onnx.save(on_cpu(model), found[precision])
    return found


def pair(graphs: dict[str, Path], precision: str) -> tuple[Decoder, Decoder]:
    """The decoder with its memory on the host, and on the device."""
    graph = session(graphs[precision], 1)
    return Decoder(graph), Decoder(graph, device="cpu")


def rows(count: int, seed: int = 3) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 1, (count, 64)).astype(np.float32)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_on_a_device_a_stream_is_what_it_is_on_the_host(
    graphs: dict[str, Path], precision: str
) -> None:
    plain, bound = (decoder.start(60) for decoder in pair(graphs, precision))
    for part in (rows(30, 1), rows(1, 2), rows(20, 3)):
        np.testing.assert_array_equal(bound.extend(part), plain.extend(part))
    for sequence in (plain, bound):
        sequence.rewind(35)
    np.testing.assert_array_equal(bound.extend(rows(9, 4)), plain.extend(rows(9, 4)))
    assert bound.length == plain.length == 44
    np.testing.assert_array_equal(bound.state(), plain.state())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_forks_share_a_beginning_on_the_device(graphs: dict[str, Path], precision: str) -> None:
    plain, bound = pair(graphs, precision)
    trunks = plain.start(20), bound.start(20)
    for trunk in trunks:
        trunk.extend(rows(20, 1))
    branches = [(a, b) for a, b in ((trunks[0].fork(40), trunks[1].fork(40)) for _ in range(2))]
    for seed, (a, b) in enumerate(branches):
        np.testing.assert_array_equal(b.extend(rows(10, seed)), a.extend(rows(10, seed)))
    assert not np.array_equal(branches[0][1].state(), branches[1][1].state())
    assert trunks[1].length == 20


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_state_goes_from_any_decoder_to_a_device(graphs: dict[str, Path], precision: str) -> None:
    plain, bound = pair(graphs, precision)
    first = plain.start(20)
    first.extend(rows(20, 1))
    resumed = bound.resume(first.state()).fork(30)
    np.testing.assert_array_equal(resumed.extend(rows(10, 2)), first.fork(30).extend(rows(10, 2)))


@pytest.mark.parametrize("precision", HALVES)
def test_half_precision_errs_as_its_roundings_do(graphs: dict[str, Path], precision: str) -> None:
    truth = pair(graphs, "fp32")[0].start(50).extend(rows(50))
    found = pair(graphs, precision)[1].start(50).extend(rows(50))
    error = np.linalg.norm(found - truth) / np.linalg.norm(truth)
    # Not nothing, or nothing was rounded; a handful of roundings a layer add up.
    assert ROUNDING[precision] / 10 < error < 10 * ROUNDING[precision]


@pytest.mark.parametrize("precision", HALVES)
def test_keys_and_values_are_kept_in_half_precision(
    graphs: dict[str, Path], precision: str
) -> None:
    whole, half = (pair(graphs, level)[1] for level in ("fp32", precision))
    assert 2 * half.bytes_per_position == whole.bytes_per_position
    model = onnx.load(graphs[precision].with_name(f"{precision}.onnx"), load_external_data=False)
    kinds = {item.name: item.type.tensor_type.elem_type for item in model.graph.input}
    assert kinds["key_0"] == kinds["value_1"] == HALVES[precision]
    norms = [node for node in model.graph.node if "LayerNormalization" in node.op_type]
    casts = {node.output[0] for node in model.graph.node if node.op_type == "Cast"}
    # A norm reads the residual sum, which nothing has rounded.
    assert not any(norm.input[0] in casts for norm in norms)


def test_on_a_device_the_limit_counts_all_positions(graphs: dict[str, Path]) -> None:
    graph = session(graphs["fp32"], 1)
    limit = 100 * Decoder(graph).bytes_per_position
    Decoder(graph, memory_limit_bytes=limit).check(90)
    with pytest.raises(UsageError, match="MiB of keys and values"):
        Decoder(graph, memory_limit_bytes=limit, device="cpu").check(90)


@pytest.mark.parametrize("kind", KEPT_TYPES)
def test_both_memories_keep_what_is_put_in(kind: str) -> None:
    found = KEPT_TYPES[kind]
    values = np.random.default_rng(1).normal(size=(2, 5, 8)).astype(np.float32)
    kept = found.widen(found.narrow(values))
    for memory in (
        HostMemory(found, ["key_0"], (1, 2, 9, 8)),
        DeviceMemory(found, ["key_0"], (1, 2, 9, 8), "cpu"),
    ):
        memory.write("key_0", values)
        np.testing.assert_array_equal(memory.read("key_0", 5), kept)


def test_bfloat16_is_rounded_to_the_nearest_and_to_even() -> None:
    torch = pytest.importorskip("torch", reason="needs the extra 'train'")
    kind = KEPT_TYPES["tensor(bfloat16)"]
    ties = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8, -1 - 2.0**-8, 0.0, 3e38], np.float32)
    values = np.concatenate([ties, np.random.default_rng(2).normal(size=500).astype(np.float32)])
    truth = torch.from_numpy(values).bfloat16().float().numpy()
    np.testing.assert_array_equal(kind.widen(kind.narrow(values)), truth)


def test_without_a_gpu_the_reason_is_said(
    graphs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(provider: str) -> str:
        raise BackendError("onnxruntime-gpu is not installed", hint="install it")

    monkeypatch.setattr(onnxruntime_gpu, "_check", missing)
    with pytest.raises(BackendError, match="onnxruntime-gpu is not installed"):
        Decoder.open(graphs["bf16"], threads=1, device="cuda")
