"""The whole grader on Triton's kernels against NumPy in float64, and one window among others."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from gpu_samples import PLAIN, SMALL, random_mel, random_weights, reader, speech_like

from asa_engine.errors import BackendError
from asa_engine.kernels.device import GraderShape, Limits, Model, Ragged
from asa_engine.kernels.numpy_device import NumpyDevice

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
triton = pytest.importorskip("triton", reason="needs the extra 'cuda'")

from asa_engine.kernels.triton.buffers import buffer_shapes  # noqa: E402  # where triton is
from asa_engine.kernels.triton.device import TritonDevice  # noqa: E402
from asa_engine.kernels.triton.emulation import EmulatedDevice  # noqa: E402
from asa_engine.kernels.triton.model import TritonModel  # noqa: E402
from asa_engine.kernels.triton.weights import DTYPES, Weights, weight_bytes  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LIMITS = Limits(windows=6, frames=100)
MELS = [random_mel(length, seed) for seed, length in enumerate((1, 2, 33, 80, 7))]
# Scores are of size 6: float32 everywhere; 11 bits and 8 bits of every operand.
SCORES = {"fp32": 2e-6, "fp16": 1e-4, "bf16": 2e-3}
# Of a sum over frames, for each frame, of size 1 and more; squares double an error.
STATS = {"fp32": 2e-6, "fp16": 2e-3, "bf16": 2e-2}

# A sum in another order falls on another side of a rounding now and then.
EMULATED = {"fp32": 2e-6, "fp16": 2e-5, "bf16": 3e-4}


@cache
def model(shape: GraderShape = SMALL, precision: str = "fp32") -> Model:
    return TritonModel(shape, reader(random_weights(shape)), precision, LIMITS, DEVICE)


@cache
def truth(shape: GraderShape = SMALL) -> Model:
    return NumpyDevice().load(shape, reader(random_weights(shape)), "fp32", LIMITS)


def some_sums(count: int, shape: GraderShape = SMALL) -> np.ndarray:
    """What came before: a hundred frames of mean 0.1, with some spread."""
    rng = np.random.default_rng(3)
    sums = rng.uniform(0, 20, (count, shape.stats_width))
    sums[:, 0] = 100
    return sums


@pytest.mark.parametrize("precision", SCORES)
@pytest.mark.parametrize("shape", [SMALL, PLAIN], ids=["regressor", "plain"])
def test_agrees(shape: GraderShape, precision: str) -> None:
    batch, sums = Ragged.of(MELS), some_sums(len(MELS), shape)
    found = model(shape, precision).encode(batch, sums, frames=True)
    expected = truth(shape).encode(batch, sums, frames=True)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=SCORES[precision])
    np.testing.assert_allclose(found.prior, expected.prior, rtol=0, atol=SCORES[precision])
    scale = expected.stats[:, :1] + np.abs(expected.stats)
    np.testing.assert_allclose(found.stats / scale, expected.stats / scale, atol=STATS[precision])
    assert found.frames is not None
    assert expected.frames is not None
    for ours, theirs in zip(found.frames, expected.frames, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=STATS[precision])


def test_samples_give_what_their_log_mel_gives() -> None:
    batch = Ragged.of([speech_like(length) for length in (201, 12_000, 640)])
    found, expected = model().encode(batch), truth().encode(batch)
    # The log-mel's weakest bins differ by up to 3e-4.
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=2e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_window_gives_the_same_bits_in_any_company(precision: str) -> None:
    ours, sums = model(SMALL, precision), some_sums(len(MELS))
    together = ours.encode(Ragged.of(MELS), sums, frames=True)
    order = [3, 0, 2]
    shuffled = ours.encode(Ragged.of([MELS[i] for i in order]), sums[order])
    for place, i in enumerate(order):
        alone = ours.encode(Ragged.of([MELS[i]]), sums[i : i + 1], frames=True)
        for part in ("stats", "scores", "prior"):
            one = getattr(alone, part)[0]
            np.testing.assert_array_equal(one, getattr(together, part)[i])
            np.testing.assert_array_equal(one, getattr(shuffled, part)[place])
        assert alone.frames is not None
        assert together.frames is not None
        np.testing.assert_array_equal(alone.frames[0], together.frames[i])


@pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning")  # of the interpreter
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("kind", ["mel", "samples"])
def test_nan_stays_in_its_window(kind: str) -> None:
    windows = MELS[1:4] if kind == "mel" else [speech_like(n) for n in (400, 5000, 900)]
    good = model().encode(Ragged.of(windows))
    broken = [window.copy() for window in windows]
    broken[1][..., 5] = np.nan
    found = model().encode(Ragged.of(broken))
    assert np.isnan(found.stats[1, 1:]).any()
    assert np.isnan(found.scores[1]).all()
    for i in (0, 2):
        np.testing.assert_array_equal(found.stats[i], good.stats[i])
        np.testing.assert_array_equal(found.scores[i], good.scores[i])


@pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning")  # of the interpreter
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_after_nan_the_next_batch_is_clean() -> None:
    good = model().encode(Ragged.of(MELS[:3]))
    model().encode(Ragged.of([np.full((80, 80), np.nan, np.float32)] * 2))
    again = model().encode(Ragged.of(MELS[:3]))
    np.testing.assert_array_equal(again.stats, good.stats)


def test_sums_on_the_gpu_are_those_of_the_host() -> None:
    """A recording's score does not depend on who adds its windows."""
    first, second = (model().encode(Ragged.of([mel])).stats for mel in MELS[2:4])
    on_gpu = model().encode(Ragged.of([MELS[3]]), first.astype(np.float64))
    total = first.astype(np.float64) + second
    scores, prior = model().head(total.astype(np.float32))
    np.testing.assert_array_equal(on_gpu.scores, scores)
    np.testing.assert_array_equal(on_gpu.prior, prior)


def test_the_head_takes_more_rows_than_a_batch_has() -> None:
    stats = some_sums(LIMITS.windows + 3).astype(np.float32)
    scores, prior = model().head(stats)
    expected = truth().head(stats)
    np.testing.assert_allclose(scores, expected[0], rtol=0, atol=SCORES["fp32"])
    np.testing.assert_allclose(prior, expected[1], rtol=0, atol=SCORES["fp32"])


@pytest.mark.parametrize(
    ("windows", "what"),
    [
        ([random_mel(2)] * 7, "larger than"),
        ([random_mel(80)] * 3, "larger than"),
        ([random_mel(82)], "1 to 40 frames"),
        ([np.zeros((80, 0), np.float32)], "1 to 40 frames"),
        ([np.zeros(200, np.float32)], "more than 200"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(windows: list[np.ndarray], what: str) -> None:
    with pytest.raises(BackendError, match=what):
        model().encode(Ragged.of(windows))


@pytest.mark.parametrize("precision", DTYPES)
def test_memory_is_counted_to_the_byte(precision: str) -> None:
    shape = SMALL
    weights = Weights(shape, reader(random_weights(shape)), DTYPES[precision], DEVICE)
    held = sum(tensor.nbytes for tensor in weights.tensors())
    assert held == weight_bytes(shape, precision)
    buffers = buffer_shapes(shape, precision, LIMITS).values()
    held += sum(math.prod(size) * dtype.itemsize for size, dtype in buffers)
    assert TritonDevice("cpu").need_bytes(shape, precision, LIMITS) == held


@pytest.mark.parametrize("precision", SCORES)
def test_the_emulation_rounds_where_the_kernels_round(precision: str) -> None:
    """Nearer to the kernels than these are to the truth, by far: it can stand for them."""
    read = reader(random_weights(SMALL))
    emulated = EmulatedDevice().load(SMALL, read, precision, LIMITS)
    batch, sums = Ragged.of(MELS), some_sums(len(MELS))
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
    monkeypatch.setattr("asa_engine.kernels.triton.device.find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"torch and triton not installed \(pip install"):
        TritonDevice.find()
