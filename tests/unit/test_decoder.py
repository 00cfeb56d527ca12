"""Sequences on a decoder: streamed is offline, prefixes are shared, limits are checked first."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from language_models import save_model, tiny_model
from numpy.typing import NDArray
from onnx import TensorProto, helper

from asa_engine.errors import BundleError, UsageError
from asa_engine.language_model.decoder import Decoder
from asa_engine.language_model.prefixes import Prefixes
from asa_export.language_model import FloatDecoder, decoder_model
from asa_export.language_model_config import DecoderConfig
from asa_export.language_model_quantize import Int8Decoder
from asa_export.weights import Weights

# float32 sums may be split differently where rows come one by one.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Decoder]:
    folder = save_model(tiny_model(), tmp_path_factory.mktemp("decoder"))
    config = DecoderConfig.from_hugging_face(json.loads((folder / "config.json").read_text()))
    weights = Weights(folder / "model.safetensors")
    found = {}
    for name, linears in (("fp32", FloatDecoder()), ("int8", Int8Decoder(weights))):
        onnx.save(decoder_model(config, weights, linears, positions=250), folder / f"{name}.onnx")
        found[name] = Decoder.open(folder / f"{name}.onnx", threads=1)
    return found


def rows(count: int, seed: int = 3) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 1, (count, 64)).astype(np.float32)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("cuts", [[1] * 12, [5, 0, 30], [129, 1], [200]])
def test_streamed_is_offline(decoders: dict[str, Decoder], precision: str, cuts: list[int]) -> None:
    x = rows(sum(cuts))
    offline = decoders[precision].start(len(x)).extend(x)
    sequence = decoders[precision].start(len(x))
    streamed = [sequence.extend(part) for part in np.split(x, np.cumsum(cuts)[:-1])]
    assert sequence.length == len(x)
    np.testing.assert_allclose(np.concatenate(streamed), offline, atol=TOLERANCE, rtol=0)


def test_rewound_positions_leave_nothing_behind(decoders: dict[str, Decoder]) -> None:
    x, other = rows(40), rows(25, seed=4)
    sequence = decoders["fp32"].start(60)
    sequence.extend(x[:30])
    sequence.extend(other)
    sequence.rewind(30)
    found = sequence.extend(x[30:])
    np.testing.assert_allclose(
        found, decoders["fp32"].start(40).extend(x)[30:], atol=TOLERANCE, rtol=0
    )
    with pytest.raises(ValueError, match="rewind"):
        sequence.rewind(41)


def test_forks_go_their_own_ways(decoders: dict[str, Decoder]) -> None:
    x = rows(30)
    trunk = decoders["fp32"].start(20)
    trunk.extend(x[:20])
    branches = [trunk.fork(40), trunk.fork(40)]
    branches[0].extend(rows(10, seed=9))
    found = branches[1].extend(x[20:])
    np.testing.assert_allclose(
        found, decoders["fp32"].start(30).extend(x)[20:], atol=TOLERANCE, rtol=0
    )
    assert trunk.length == 20


def test_a_state_is_resumed(decoders: dict[str, Decoder]) -> None:
    x = rows(30)
    first = decoders["fp32"].start(33)
    first.extend(x[:20])
    resumed = decoders["fp32"].resume(first.state())
    assert resumed.length == resumed.capacity == 20
    np.testing.assert_array_equal(resumed.fork(30).extend(x[20:]), first.extend(x[20:]))
    with pytest.raises(ValueError, match="not this decoder's"):
        decoders["fp32"].resume(first.state()[:, :2])
    empty = decoders["fp32"].resume(first.state()[:, :, :, :0])
    np.testing.assert_allclose(
        empty.fork(30).extend(x), decoders["fp32"].start(30).extend(x), atol=0, rtol=0
    )


def test_prefixes_are_prefilled_once_and_shared(decoders: dict[str, Decoder]) -> None:
    decoder = decoders["fp32"]
    prefixes = Prefixes(decoder, most=2)
    x = rows(50)

    def answer(seed: int) -> NDArray[np.float32]:
        return prefixes.start(x, 70).extend(rows(20, seed))

    expected = [decoder.start(70).extend(np.concatenate([x, rows(20, s)]))[50:] for s in range(6)]
    with ThreadPoolExecutor(3) as pool:
        for found, wanted in zip(pool.map(answer, range(6)), expected, strict=True):
            np.testing.assert_allclose(found, wanted, atol=TOLERANCE, rtol=0)
    assert len(prefixes) == 1
    for seed in (21, 22, 23):
        prefixes.start(rows(4, seed), 10)
    assert len(prefixes) == 2
    # One that was dropped is simply prefilled again.
    np.testing.assert_allclose(answer(0), expected[0], atol=TOLERANCE, rtol=0)


def test_limits_are_checked_before_anything_runs(decoders: dict[str, Decoder]) -> None:
    decoder = decoders["fp32"]
    assert decoder.bytes_per_position == 2 * 3 * 2 * 16 * 4
    with pytest.raises(UsageError, match="251 tokens does not fit the"):
        decoder.start(251)
    small = Decoder(decoder.graph, memory_limit_bytes=100 * decoder.bytes_per_position)
    small.start(100)
    with pytest.raises(UsageError, match="keys and values; the limit is"):
        small.start(101)
    with pytest.raises(UsageError, match="250 positions"):
        Prefixes(decoder).start(rows(3), 999)
    sequence = decoder.start(10)
    with pytest.raises(ValueError, match="do not fit 10 free positions"):
        sequence.extend(rows(11))
    with pytest.raises(ValueError, match="width 63"):
        sequence.extend(rows(3)[:, :63])
    assert sequence.length == 0


def test_another_graph_is_refused(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("hidden", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Neg", ["embeddings"], ["hidden"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(BundleError, match="no keys"):
        Decoder.open(tmp_path / "other.onnx", threads=1)
