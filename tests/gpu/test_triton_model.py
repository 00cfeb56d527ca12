"""The whole grader on Triton's kernels against NumPy in float64, and one window among others."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from functools import cache

import gpu_checks as checks
import numpy as np
import pytest
import torch
import triton
from gpu_samples import PLAIN, SMALL, random_weights, reader

from asa_engine.errors import BackendError
from asa_engine.gpu.device import Model, Ragged
from asa_engine.gpu.triton.buffers import buffer_shapes  # where triton is
from asa_engine.gpu.triton.device import TritonDevice
from asa_engine.gpu.triton.emulation import EmulatedDevice
from asa_engine.gpu.triton.model import TritonModel
from asa_engine.gpu.triton.weights import DTYPES, Weights, weight_bytes
from asa_engine.nn.acoustic_tensors import GraderShape

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Scores are of size 6: float32 everywhere; 11 bits and 8 bits of every operand.
SCORES = {"fp32": 2e-6, "fp16": 1e-4, "bf16": 2e-3}
# Of a sum over frames, for each frame, of size 1 and more; squares double an error.
STATS = {"fp32": 2e-6, "fp16": 2e-3, "bf16": 2e-2}

# A sum in another order falls on another side of a rounding now and then.
EMULATED = {"fp32": 2e-6, "fp16": 2e-5, "bf16": 3e-4}


@cache
def model(shape: GraderShape = SMALL, precision: str = "fp32") -> Model:
    return TritonModel(shape, reader(random_weights(shape)), precision, checks.LIMITS, DEVICE)


@pytest.mark.parametrize("precision", SCORES)
@pytest.mark.parametrize("shape", [SMALL, PLAIN], ids=["regressor", "plain"])
def test_agrees(shape: GraderShape, precision: str) -> None:
    ours = model(shape, precision)
    checks.check_agrees(ours, shape, scores=SCORES[precision], stats=STATS[precision])


def test_samples_give_what_their_log_mel_gives() -> None:
    # The log-mel's weakest bins differ by up to 3e-4.
    checks.check_samples(model(), scores=2e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_window_gives_the_same_bits_in_any_company(precision: str) -> None:
    # The interpreter multiplies in NumPy. OpenBLAS's products for Haswell and Zen give a row other
    # bits in another place; those for Sandy Bridge do not. It is chosen as NumPy is loaded.
    environment = {"OPENBLAS_CORETYPE": "Sandybridge", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(
        [sys.executable, __file__, precision], env={**os.environ, **environment}, check=True
    )


@pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning")  # of the interpreter
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("kind", ["mel", "samples"])
def test_nan_stays_in_its_window_and_batch(kind: str) -> None:
    checks.check_nan_stays(model(), kind)


@pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning")  # of the interpreter
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_after_nan_the_next_batch_is_clean() -> None:
    good = model().encode(Ragged.of(checks.MELS[:3]))
    model().encode(Ragged.of([np.full((80, 80), np.nan, np.float32)] * 2))
    again = model().encode(Ragged.of(checks.MELS[:3]))
    np.testing.assert_array_equal(again.stats, good.stats)


def test_sums_on_the_gpu_are_those_of_the_host() -> None:
    checks.check_sums(model())


def test_the_head_takes_more_rows_than_a_batch_has() -> None:
    checks.check_head(model(), scores=SCORES["fp32"], prior=SCORES["fp32"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("windows", "larger than"),
        ("frames", "larger than"),
        ("a long window", "1 to 40 frames"),
        ("an empty window", "1 to 40 frames"),
        ("few samples", "more than 200"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(wrong: str, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        model().encode(Ragged.of(checks.UNFIT[wrong]))


@pytest.mark.parametrize("precision", DTYPES)
def test_memory_is_counted_to_the_byte(precision: str) -> None:
    shape = SMALL
    weights = Weights(shape, reader(random_weights(shape)), DTYPES[precision], DEVICE)
    held = sum(tensor.nbytes for tensor in weights.tensors())
    assert held == weight_bytes(shape, precision)
    buffers = buffer_shapes(shape, precision, checks.LIMITS).values()
    held += sum(math.prod(size) * dtype.itemsize for size, dtype in buffers)
    assert TritonDevice("cpu").need_bytes(shape, precision, checks.LIMITS) == held


@pytest.mark.parametrize("precision", SCORES)
def test_the_emulation_rounds_where_the_kernels_round(precision: str) -> None:
    """Nearer to the kernels than these are to the truth, by far: it can stand for them."""
    read = reader(random_weights(SMALL))
    emulated = EmulatedDevice().load(SMALL, read, precision, checks.LIMITS)
    batch, sums = Ragged.of(checks.MELS), checks.some_sums(len(checks.MELS))
    found, ours = emulated.encode(batch, sums), model(SMALL, precision).encode(batch, sums)
    np.testing.assert_allclose(found.scores, ours.scores, rtol=0, atol=EMULATED[precision])
    np.testing.assert_allclose(found.prior, ours.prior, rtol=0, atol=EMULATED[precision])


def test_a_device_is_found_or_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    if DEVICE == "cuda":
        assert TritonDevice.find().machine().total_bytes > 0
        return
    assert TritonDevice.find().machine().name == "Triton's interpreter"
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    with pytest.raises(BackendError, match=r"without CUDA|finds no GPU"):
        TritonDevice.find()
    monkeypatch.setattr("asa_engine.gpu.triton.device.find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"torch and triton not installed \(pip install"):
        TritonDevice.find()


if __name__ == "__main__":
    checks.check_company(model(SMALL, sys.argv[1]), frames=True)
