"""Sequences on a decoder: streamed is offline, forks share, limits are checked first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from language_models import stored_model
from numpy.typing import NDArray
from onnx import TensorProto, helper

from asa_engine.errors import BundleError, UsageError
from asa_engine.language_model import limits
from asa_engine.language_model.decoder import Decoder
from asa_export.language_model import FloatDecoder, decoder_model
from asa_export.language_model_quantize import Int8Decoder

# float32 sums may be split differently where rows come one by one.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Decoder]:
    folder = tmp_path_factory.mktemp("decoder")
    config, weights = stored_model(folder)
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


def test_limits_are_checked_before_anything_runs(decoders: dict[str, Decoder]) -> None:
    decoder = decoders["fp32"]
    assert decoder.bytes_per_position == 2 * 3 * 2 * 16 * 4
    with pytest.raises(UsageError, match="251 tokens does not fit the"):
        decoder.start(251)
    small = Decoder(decoder.graph, memory_limit_bytes=100 * decoder.bytes_per_position)
    small.start(100)
    with pytest.raises(UsageError, match="keys and values; the limit is"):
        small.start(101)
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


def test_the_limit_of_keys_and_values_follows_memory_and_can_be_set(
    decoders: dict[str, Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(limits.LIMIT_VARIABLE, raising=False)
    for memory, limit in ((64 * 2**30, 16 * 2**30), (2**30, 512 * 2**20), (0, 512 * 2**20)):
        monkeypatch.setattr(limits, "memory_bytes", lambda memory=memory: memory)
        assert limits.key_value_limit() == limit
    # What Qwen2-Audio asks for 28 s of audio, 1 MiB a position, fits a machine of 16 GB.
    monkeypatch.setattr(limits, "memory_bytes", lambda: 16 * 2**30)
    large = Decoder(decoders["fp32"].graph)
    monkeypatch.setattr(Decoder, "bytes_per_position", 2**20)
    large.positions = 10_000
    large.check(710)
    with pytest.raises(UsageError, match="the limit is 4096 MiB"):
        large.check(4097)
    monkeypatch.setenv(limits.LIMIT_VARIABLE, "100")
    large.check(100)
    with pytest.raises(UsageError, match="the limit is 100 MiB") as refused:
        large.check(101)
    assert limits.LIMIT_VARIABLE in refused.value.hint
    for wrong in ("much", "0", "-5", "1e3"):
        monkeypatch.setenv(limits.LIMIT_VARIABLE, wrong)
        with pytest.raises(UsageError, match="ASA_KEY_VALUE_MIB is"):
            large.check(1)


def test_a_control_groups_memory_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = tmp_path / "memory.max"
    monkeypatch.setattr(limits, "_CGROUP", group)
    there = limits.memory_bytes()
    group.write_text("max\n")
    assert limits.memory_bytes() == there > 2**20
    group.write_text(f"{2**20}\n")
    assert limits.memory_bytes() == 2**20
