"""What the native encoder says of its kernels: counts are exact, times fit into one another."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from asa_engine import _kernels
from asa_engine.kernels import isa
from asa_engine.kernels.encoder import PRECISIONS, Encoder
from asa_engine.kernels.laps import TASK, Lap, Roofs, measure_roofs, summarise_laps
from asa_engine.nn.config import WhisperEncoderConfig

# A width that fills no panel, heads that are padded, an inner width that fills no group.
CONFIG = WhisperEncoderConfig(n_mels=20, d_model=60, layers=3, heads=3, ffn=100, positions=700)
FRAMES = (1357, 1, 26, 800)


def _encoder(precision: str, threads: int) -> Encoder:
    rng = np.random.default_rng(0)

    def read(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return (0.1 * rng.standard_normal(shape)).astype(np.float32)

    return Encoder(CONFIG, read, precision=precision, threads=threads)


def _mels(frames: Sequence[int]) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(1)
    return [rng.uniform(-1, 1, (CONFIG.n_mels, count)).astype(np.float32) for count in frames]


def _operations(frames: int) -> dict[str, int]:
    """Two a multiply-add, all layers together; LayerNorm and sums are left out."""
    rows, width, inner, layers = (frames + 1) // 2, CONFIG.d_model, CONFIG.ffn, CONFIG.layers
    square = 2 * rows * width * width * layers
    return {
        "conv1": 2 * frames * 3 * CONFIG.n_mels * width,
        "conv2": 2 * rows * 3 * width * width,
        "queries": square,
        "keys": square,
        "values": square,
        "attention": 4 * rows * rows * width * layers,
        "output projection": square,
        "feed-forward in": 2 * rows * width * inner * layers,
        "feed-forward out": 2 * rows * inner * width * layers,
    }


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("threads", [1, 3])
def test_operations_are_those_of_the_windows(precision: str, threads: int) -> None:
    encoder = _encoder(precision, threads)
    encoder.record(True)
    encoder.encode(_mels(FRAMES), [0.25] * 4)
    found: Counter[str] = Counter()
    for lap in encoder.take_laps():
        found[lap.step] += int(lap.operations)
    expected = sum((Counter(_operations(frames)) for frames in FRAMES), Counter())
    assert {step: found[step] for step in expected} == dict(expected)
    beside_bytes = {"avx_vnni": "int16", "avx2": "int16"}
    beside_bytes |= dict.fromkeys(("avx512_bf16", "amx", "neon_bf16"), "bf16")
    dense = precision if precision != "int8" else beside_bytes.get(isa(), "fp32")
    encoder.encode(_mels([26]))
    told = {lap.step: lap.precision for lap in encoder.take_laps()}
    assert (told["attention"], told["keys"], told["conv1"]) == (dense, dense, dense)
    assert (told["feed-forward in"], told["feed-forward out"]) == (precision, precision)


@pytest.mark.parametrize("threads", [1, 2])
def test_kernels_lie_inside_their_layers_and_the_call(threads: int) -> None:
    encoder = _encoder("fp32", threads)
    encoder.record(True)
    start = time.perf_counter()
    encoder.encode_with_moments(_mels(FRAMES), [0.25] * 4)
    end = time.perf_counter()
    laps = encoder.take_laps()
    assert {lap.layer for lap in laps} == {-1, 0, 1, 2}
    assert {lap.thread for lap in laps} <= set(range(threads))
    kernels = [lap for lap in laps if lap.step != TASK]
    for thread in range(threads):
        tasks = [lap for lap in laps if lap.step == TASK and lap.thread == thread]
        for before, after in itertools.pairwise(tasks):
            assert before.end_s <= after.start_s
        for lap in kernels:
            if lap.thread == thread:
                assert any(t.start_s <= lap.start_s <= lap.end_s <= t.end_s for t in tasks)
    # Both clocks are the system's monotonic one.
    assert start <= min(lap.start_s for lap in laps)
    assert max(lap.end_s for lap in laps) <= end
    assert sum(lap.end_s - lap.start_s for lap in kernels) <= threads * (end - start)


def test_watching_changes_no_bit_and_stops() -> None:
    encoder = _encoder("int8", 2)
    mels = _mels(FRAMES)
    expected = encoder.encode(mels)
    assert encoder.take_laps() == []
    encoder.record(True)
    for found, wanted in zip(encoder.encode(mels), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert encoder.take_laps()
    assert encoder.take_laps() == []
    encoder.record(False)
    encoder.encode(mels)
    assert encoder.take_laps() == []


def test_laps_add_up_to_rows() -> None:
    laps = [
        Lap(TASK, 0, "fp32", 0, 0.0, 9.0, 0.0, 0.0),
        Lap("keys", 0, "bf16", 0, 0.0, 1.0, 6e9, 1e9),
        Lap("keys", 1, "bf16", 1, 4.0, 6.0, 6e9, 2e9),
        Lap("pack", 1, "fp32", 1, 6.0, 7.0, 0.0, 3e9),
    ]
    roofs = Roofs("generic", 2, {"fp32": 1e10, "bf16": 1.6e10}, {"memory": 1e10})
    keys, pack = summarise_laps(laps, roofs)
    assert (keys["kernel"], keys["calls"], keys["ms"], keys["share"]) == ("keys", 2, 3000, 0.75)
    assert (keys["gflops"], keys["gb_per_s"], keys["of_peak"]) == (4.0, 1.0, 0.5)
    assert (pack["kernel"], pack["gb_per_s"], pack["of_peak"]) == ("pack", 3.0, None)


def test_roofs_are_measured() -> None:
    roofs = measure_roofs(threads=2, seconds=0.005)
    assert (roofs.isa, roofs.threads) == (isa(), 2)
    assert set(roofs.operations_per_s) == {*PRECISIONS, "int16"}
    # A kernel that computed nothing would seem infinitely fast: 1e14 a core is beyond any CPU.
    assert all(1e6 < rate < 2e14 for rate in roofs.operations_per_s.values())
    assert all(1e6 < rate < 2e13 for rate in roofs.bytes_per_s.values())


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), 11.0])
def test_bad_durations(seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds"):
        _kernels.matrix_rate("fp32", seconds)
    with pytest.raises(ValueError, match="seconds"):
        _kernels.copy_rate(4096, seconds)


def test_bad_sizes_and_precisions() -> None:
    with pytest.raises(ValueError, match="bytes"):
        _kernels.copy_rate(2**31, 0.01)
    with pytest.raises(ValueError, match="precision"):
        _kernels.matrix_rate("fp64", 0.01)
