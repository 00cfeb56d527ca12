"""The whole grader on the CUDA kernels: on a GPU, or on the emulation of `make cuda-tests`.

Without either, the stubs are tested: each says what is missing.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from gpu_samples import PLAIN, SMALL, random_mel, random_weights, reader, speech_like

from asa_engine.backends.cuda import CudaBackend
from asa_engine.backends.native import NativeBackend
from asa_engine.bench.drift import BUDGETS
from asa_engine.bundle import Bundle
from asa_engine.errors import BackendError
from asa_engine.kernels import log_mel
from asa_engine.kernels.cuda.device import CudaDevice, CudaModel
from asa_engine.kernels.device import GraderShape, Limits, Ragged
from asa_engine.kernels.numpy_device import NumpyDevice, NumpyModel
from asa_engine.nn.config import WhisperEncoderConfig

LIMITS = Limits(windows=6, frames=100)
MELS = [random_mel(length, seed) for seed, length in enumerate((1, 2, 33, 80, 7))]
# Scores are of size 6; 11 bits and 8 bits of every factor of the encoder's products.
SCORES = {"fp16": 1e-4, "bf16": 2e-3}
# Of a sum over frames, for each frame, of size 1 and more; squares double an error.
STATS = {"fp16": 2e-3, "bf16": 2e-2}


def _why_not() -> str | None:
    try:
        CudaDevice.find()
    except BackendError as error:
        return str(error)
    return None


WHY_NOT = _why_not()
needs_gpu = pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or "")


@cache
def model(shape: GraderShape = SMALL, precision: str = "fp16") -> CudaModel:
    return CudaDevice().load(shape, reader(random_weights(shape)), precision, LIMITS)


@cache
def truth(shape: GraderShape = SMALL) -> NumpyModel:
    return NumpyDevice().load(shape, reader(random_weights(shape)), "fp32", LIMITS)


def some_sums(count: int, shape: GraderShape = SMALL) -> np.ndarray:
    """What came before: a hundred frames of mean 0.1, with some spread."""
    rng = np.random.default_rng(3)
    sums = rng.uniform(0, 20, (count, shape.stats_width))
    sums[:, 0] = 100
    return sums


@pytest.mark.skipif(WHY_NOT is None, reason="there is a GPU, or its emulation")
def test_without_a_gpu_every_way_in_says_what_to_do() -> None:
    for way in (CudaDevice().machine, CudaDevice().versions):
        with pytest.raises(BackendError) as caught:
            way()
        assert caught.value.mend
    with pytest.raises(BackendError):
        CudaDevice().load(SMALL, reader(random_weights(SMALL)), "fp16", LIMITS)


@needs_gpu
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


@needs_gpu
def test_samples_give_what_their_log_mel_gives() -> None:
    batch = Ragged.of([speech_like(length) for length in (201, 12_000, 640)])
    found, expected = model().encode(batch), truth().encode(batch)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=SCORES["fp16"])


@needs_gpu
def test_a_window_gives_the_same_bits_in_any_company() -> None:
    ours, sums = model(), some_sums(len(MELS))
    together = ours.encode(Ragged.of(MELS), sums)
    order = [3, 0, 2]
    shuffled = ours.encode(Ragged.of([MELS[i] for i in order]), sums[order])
    for place, i in enumerate(order):
        alone = ours.encode(Ragged.of([MELS[i]]), sums[i : i + 1])
        for part in ("stats", "scores", "prior"):
            one = getattr(alone, part)[0]
            np.testing.assert_array_equal(one, getattr(together, part)[i])
            np.testing.assert_array_equal(one, getattr(shuffled, part)[place])


@needs_gpu
@pytest.mark.parametrize("kind", ["mel", "samples"])
def test_nan_stays_in_its_window_and_batch(kind: str) -> None:
    windows = MELS[1:4] if kind == "mel" else [speech_like(n) for n in (400, 5000, 900)]
    good = model().encode(Ragged.of(windows))
    broken = [window.copy() for window in windows]
    broken[1][..., 5] = np.nan
    found = model().encode(Ragged.of(broken))
    assert np.isnan(found.scores[1]).all()
    for i in (0, 2):
        np.testing.assert_array_equal(found.stats[i], good.stats[i])
        np.testing.assert_array_equal(found.scores[i], good.scores[i])
    np.testing.assert_array_equal(model().encode(Ragged.of(windows)).stats, good.stats)


@needs_gpu
def test_sums_on_the_gpu_are_those_of_the_host() -> None:
    """A recording's score does not depend on who adds its windows."""
    first, second = (model().encode(Ragged.of([mel])).stats for mel in MELS[2:4])
    on_gpu = model().encode(Ragged.of([MELS[3]]), first.astype(np.float64))
    total = first.astype(np.float64) + second
    scores, prior = model().head(total.astype(np.float32))
    np.testing.assert_array_equal(on_gpu.scores, scores)
    np.testing.assert_array_equal(on_gpu.prior, prior)


@needs_gpu
def test_the_head_takes_more_rows_than_a_batch_has() -> None:
    stats = some_sums(LIMITS.windows + 3).astype(np.float32)
    scores, prior = model().head(stats)
    expected = truth().head(stats)
    # Float32 sums of a score of size 6.
    np.testing.assert_allclose(scores, expected[0], rtol=0, atol=5e-6)
    np.testing.assert_allclose(prior, expected[1], rtol=0, atol=2e-6)


@needs_gpu
@pytest.mark.parametrize(
    ("windows", "what"),
    [
        ([random_mel(2)] * 7, "1 to 6 windows"),
        ([random_mel(80)] * 3, "more than 100 frames"),
        ([random_mel(82)], "takes 1 to 80"),
        ([np.zeros((80, 0), np.float32)], "takes 1 to 80"),
        ([np.zeros(200, np.float32)], "more than 200 samples"),
        ([random_mel(4, n_mels=79)], "log-mel frames"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(windows: list[np.ndarray], what: str) -> None:
    with pytest.raises(BackendError, match=what):
        model().encode(Ragged.of(windows))


@needs_gpu
def test_a_grader_that_no_kernel_takes_is_refused() -> None:
    wide = GraderShape(
        WhisperEncoderConfig(80, 160, layers=1, heads=2, ffn=64, positions=40), 1, 8, 4, 4, 16, 2
    )
    with pytest.raises(BackendError, match="64 wide"):
        CudaDevice().need_bytes(wide, "fp16", LIMITS)
    with pytest.raises(BackendError, match="bf16 and fp16"):
        CudaDevice().load(SMALL, reader(random_weights(SMALL)), "fp32", LIMITS)


@needs_gpu
def test_too_little_memory_is_known_before_any_is_taken() -> None:
    limits = Limits(windows=1 << 16, frames=1 << 22)
    device = CudaDevice()
    huge = GraderShape(WhisperEncoderConfig(128, 8192, 32, 128, 32768, 1500), 4, 8, 4, 4, 16, 2)
    need = device.need_bytes(huge, "bf16", limits)
    assert need > device.machine().free_bytes
    with pytest.raises(BackendError, match=r"MB are free.*lower the limits"):
        device.load(huge, reader({}), "bf16", limits)


@needs_gpu
def test_a_closed_model_says_so() -> None:
    closed = CudaDevice().load(PLAIN, reader(random_weights(PLAIN)), "bf16", LIMITS)
    closed.close()
    with pytest.raises(BackendError, match="closed"):
        closed.encode(Ragged.of(MELS))


@needs_gpu
def test_timing_leaves_results_as_they_were() -> None:
    batch = Ragged.of(MELS)
    before = model().encode(batch)
    assert model().time(batch, 2) > 0
    np.testing.assert_array_equal(model().encode(batch).stats, before.stats)


@needs_gpu
def test_the_shipped_grader_keeps_its_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the budget that exports have for the RMS over many recordings, on a scale of ten."""
    budget = BUDGETS["bf16"].scaled(10).rms
    monkeypatch.setenv("ASA_GPU_KERNELS", "cuda")
    bundle = Bundle.open()
    ours = CudaBackend.open(bundle, precision="bf16", threads=1)
    native = NativeBackend.open(bundle, precision="fp32", threads=1)
    mel = log_mel(speech_like(12_000))
    found, expected = ours.head(ours.encode(mel).stats), native.head(native.encode(mel).stats)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=budget)
    np.testing.assert_allclose(found.prior, expected.prior, rtol=0, atol=budget)
    assert ours.versions()["gpu_kernels"] == "cuda"
