"""The whole grader on the CUDA kernels: on a GPU, or on the emulation of `make cuda-tests`.

Without either, the stubs are tested: each says what is missing.
"""

from __future__ import annotations

from functools import cache

import gpu_checks as checks
import numpy as np
import pytest
from gpu_samples import PLAIN, SMALL, random_weights, reader, speech_like

from asa_engine.bundle import Bundle
from asa_engine.errors import BackendError
from asa_engine.evaluation.drift import BUDGETS
from asa_engine.gpu.cuda.device import CudaDevice, CudaModel
from asa_engine.gpu.device import Limits, Ragged
from asa_engine.graders.acoustic.backends.cuda import CudaBackend
from asa_engine.graders.acoustic.backends.native import NativeBackend
from asa_engine.kernels import log_mel
from asa_engine.nn.acoustic_tensors import GraderShape
from asa_engine.nn.config import WhisperEncoderConfig

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
    return CudaDevice().load(shape, reader(random_weights(shape)), precision, checks.LIMITS)


@pytest.mark.skipif(WHY_NOT is None, reason="there is a GPU, or its emulation")
def test_without_a_gpu_every_way_in_says_what_to_do() -> None:
    for way in (CudaDevice().machine, CudaDevice().versions):
        with pytest.raises(BackendError) as caught:
            way()
        assert caught.value.hint
    with pytest.raises(BackendError):
        CudaDevice().load(SMALL, reader(random_weights(SMALL)), "fp16", checks.LIMITS)


@needs_gpu
@pytest.mark.parametrize("precision", SCORES)
@pytest.mark.parametrize("shape", [SMALL, PLAIN], ids=["regressor", "plain"])
def test_agrees(shape: GraderShape, precision: str) -> None:
    ours = model(shape, precision)
    checks.check_agrees(ours, shape, scores=SCORES[precision], stats=STATS[precision])


@needs_gpu
def test_samples_give_what_their_log_mel_gives() -> None:
    checks.check_samples(model(), scores=SCORES["fp16"])


@needs_gpu
def test_a_window_gives_the_same_bits_in_any_company() -> None:
    checks.check_company(model(), frames=False)


@needs_gpu
@pytest.mark.parametrize("kind", ["mel", "samples"])
def test_nan_stays_in_its_window_and_batch(kind: str) -> None:
    checks.check_nan_stays(model(), kind)


@needs_gpu
def test_sums_on_the_gpu_are_those_of_the_host() -> None:
    checks.check_sums(model())


@needs_gpu
def test_the_head_takes_more_rows_than_a_batch_has() -> None:
    # Float32 sums of a score of size 6.
    checks.check_head(model(), scores=5e-6, prior=2e-6)


@needs_gpu
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("windows", "1 to 6 windows"),
        ("frames", "more than 100 frames"),
        ("a long window", "takes 1 to 80"),
        ("an empty window", "takes 1 to 80"),
        ("few samples", "more than 200 samples"),
        ("mel bins", "log-mel frames"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(wrong: str, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        model().encode(Ragged.of(checks.UNFIT[wrong]))


@needs_gpu
def test_a_grader_that_no_kernel_takes_is_refused() -> None:
    wide = GraderShape(
        WhisperEncoderConfig(80, 160, layers=1, heads=2, ffn=64, positions=40), 1, 8, 4, 4, 16, 2
    )
    with pytest.raises(BackendError, match="64 wide"):
        CudaDevice().need_bytes(wide, "fp16", checks.LIMITS)
    with pytest.raises(BackendError, match="bf16 and fp16"):
        CudaDevice().load(SMALL, reader(random_weights(SMALL)), "fp32", checks.LIMITS)


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
    closed = CudaDevice().load(PLAIN, reader(random_weights(PLAIN)), "bf16", checks.LIMITS)
    closed.close()
    with pytest.raises(BackendError, match="closed"):
        closed.encode(Ragged.of(checks.MELS))


@needs_gpu
def test_timing_leaves_results_as_they_were() -> None:
    batch = Ragged.of(checks.MELS)
    before = model().encode(batch)
    assert model().time(batch, 2) > 0
    np.testing.assert_array_equal(model().encode(batch).stats, before.stats)


@needs_gpu
def test_the_shipped_grader_keeps_its_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the budget that exports have for the RMS over many recordings, on a scale of ten."""
    budget = BUDGETS["bf16"].scaled(10).rms
    monkeypatch.setenv("ASA_GPU_KERNELS", "cuda")
    bundle = Bundle.open("acoustic")
    ours = CudaBackend.open(bundle, precision="bf16", threads=1)
    native = NativeBackend.open(bundle, precision="fp32", threads=1)
    mel = log_mel(speech_like(12_000))
    found, expected = ours.head(ours.encode(mel).stats), native.head(native.encode(mel).stats)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=budget)
    np.testing.assert_allclose(found.prior, expected.prior, rtol=0, atol=budget)
    assert ours.versions()["gpu_kernels"] == "cuda"
