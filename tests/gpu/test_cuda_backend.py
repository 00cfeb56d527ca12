"""The `cuda` backend without a GPU: NumPy stands in for one."""

from __future__ import annotations

import dataclasses
import gc
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from children import held
from gpu_samples import random_mel, speech_like

import asa_engine
from asa_engine.bundle import Bundle
from asa_engine.cli.main import main
from asa_engine.errors import AudioError, BackendError, CheckpointError
from asa_engine.gpu import families as cuda_families
from asa_engine.gpu.device import Limits, Machine
from asa_engine.gpu.numpy_device import NumpyDevice, NumpyModel
from asa_engine.graders import grader_entry
from asa_engine.graders.acoustic.backends import cuda
from asa_engine.graders.acoustic.backends.cuda import CudaBackend, limits_of
from asa_engine.graders.acoustic.backends.native import NativeBackend
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.nn.acoustic_tensors import GraderShape
from asa_engine.nn.config import WhisperEncoderConfig
from asa_engine.runtimes import cuda as cuda_runtime
from asa_engine.runtimes import runtime

# float32 on the CPU's kernels against float64: scores of size 5.
SCORES = 2e-4


class Gpu(NumpyDevice):
    """Remembers what it loaded, and for whom."""

    def __init__(self, total_bytes: int = 2**34, held_bytes: int = 0) -> None:
        super().__init__(total_bytes, held_bytes)
        self.models: list[NumpyModel] = []
        self.limits: list[Limits] = []

    def load(self, shape: GraderShape, read: object, precision: str, limits: Limits) -> NumpyModel:
        model = super().load(shape, read, precision, limits)  # type: ignore[arg-type]
        self.models.append(model)
        self.limits.append(limits)
        return model


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    device = Gpu()
    monkeypatch.setattr(cuda, "find_device", lambda: device)
    yield device
    gc.collect()
    assert not cuda._shared, "a model outlived its backends"


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return Bundle.open("acoustic")


def test_agrees_with_the_cpu(gpu: Gpu, shipped: Bundle) -> None:
    ours = CudaBackend.open(shipped, precision="fp32", threads=1)
    native = NativeBackend.open(shipped, precision="fp32", threads=1)
    mels = [random_mel(30, 1), random_mel(7, 2)]
    first = native.encode(mels[0])
    found = ours.encode_next(mels[1], first.stats.astype(np.float64), frames=True)
    second = native.encode(mels[1], frames=True)
    expected = native.head(first.stats + second.stats)
    assert found.output is not None
    np.testing.assert_allclose(found.output.scores, expected.scores, rtol=0, atol=SCORES)
    np.testing.assert_allclose(found.output.prior, expected.prior, rtol=0, atol=SCORES)
    assert found.frames is not None
    np.testing.assert_allclose(found.frames, second.frames, rtol=0, atol=1e-3)
    again = ours.head((first.stats + found.stats).astype(np.float32))
    np.testing.assert_allclose(again.scores, expected.scores, rtol=0, atol=SCORES)


def test_samples_are_windows_too(gpu: Gpu, shipped: Bundle) -> None:
    ours = CudaBackend.open(shipped, precision="fp32", threads=1)
    samples = speech_like(4000)
    mel = asa_engine.kernels.log_mel(samples)
    found = ours.encode_many([samples])
    np.testing.assert_allclose(found.scores, ours.encode_many([mel]).scores, rtol=0, atol=SCORES)


def test_engines_share_a_model_and_its_batches(
    gpu: Gpu, shipped: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What two engines ask for while the GPU works for a third is one batch."""
    backends = [CudaBackend.open(shipped, precision="fp32", threads=1) for _ in range(3)]
    other = CudaBackend.open(shipped, precision="bf16", threads=1)
    assert other.precision == "bf16"
    assert len(gpu.models) == 2
    mels = [random_mel(4 + 2 * i, i) for i in range(3)]
    alone = [backends[0].encode(mel).stats for mel in mels]

    reached, free = held(monkeypatch, NumpyModel, "encode")
    with ThreadPoolExecutor(3) as pool:
        found = [pool.submit(backends[0].encode, mels[0])]
        assert reached.wait(60)
        found += [pool.submit(backends[i].encode, mels[i]) for i in (1, 2)]
        waiting = backends[0]._held.batcher._schedule
        while len(waiting) < 2:
            time.sleep(0.001)
        free.set()
        for result, expected in zip(found, alone, strict=True):
            np.testing.assert_array_equal(result.result(60).stats, expected)
    assert gpu.models[0].batches[3:] in ([[2], [3, 4]], [[2], [4, 3]])


def test_an_engine_streams_on_the_gpu(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        cuda_runtime.CudaRuntime, "availability", classmethod(lambda cls: _usable())
    )
    speech = speech_like(16_000)
    on_cpu = asa_engine.load("acoustic", backend="native", precision="fp32").assess(
        (speech, 16_000)
    )
    engine = asa_engine.load("acoustic", backend="cuda", precision="fp32")
    on_gpu = engine.assess((speech, 16_000))
    for name, score in on_cpu.scores.items():
        assert on_gpu.scores[name].value == pytest.approx(score.value, abs=SCORES)
    assert on_gpu.receipt["backend"] == "cuda"
    assert on_gpu.receipt["versions"]["gpu_kernels"] == "numpy"
    del engine


def _usable() -> cuda_runtime.Availability:
    return cuda_runtime.Availability(True, "a GPU of NumPy")


def test_nan_is_the_streams_own_error(gpu: Gpu, shipped: Bundle) -> None:
    ours = CudaBackend.open(shipped, precision="fp32", threads=1)
    broken = random_mel(6)
    broken[0, 0] = np.nan
    with pytest.raises(AudioError, match="NaN"):
        ours.encode(broken)
    assert np.isfinite(ours.encode(random_mel(6)).stats).all()


def test_a_precision_it_lacks_is_named(gpu: Gpu, shipped: Bundle) -> None:
    with pytest.raises(BackendError, match="fp32, bf16, fp16, not int8"):
        CudaBackend.open(shipped, precision="int8", threads=1)


SHAPE = GraderShape(WhisperEncoderConfig(), 4, 128, 8, 32, 256, 4)


def test_the_largest_batch_is_halved_until_it_fits() -> None:
    device = NumpyDevice(2**40)
    free = limits_of(device, SHAPE, "fp32", 200)
    assert free == Limits(240, 48_000)
    need = device.need_bytes(SHAPE, "fp32", Limits(60, 12_000))
    # Another process holds the rest of the memory.
    crowded = NumpyDevice(2**40, held_bytes=2**40 - need)
    assert limits_of(crowded, SHAPE, "fp32", 200) == Limits(60, 12_000)


def test_too_little_memory_is_said_before_work_starts(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch, shipped: Bundle
) -> None:
    small = Gpu(total_bytes=2**27, held_bytes=2**26)
    monkeypatch.setattr(cuda, "find_device", lambda: small)
    with pytest.raises(BackendError) as caught:
        CudaBackend.open(shipped, precision="fp32", threads=1)
    assert "MiB of GPU memory at fp32 for one window" in caught.value.message
    assert "64 MiB free of 128 MiB" in caught.value.message
    assert "nvidia-smi" in caught.value.hint
    assert not small.models


def test_weights_of_another_model_are_refused(
    gpu: Gpu, shipped: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = AcousticConfig.from_dict(shipped.config)
    fewer = dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, layers=3))
    other = dataclasses.replace(shipped, config=fewer.to_dict(), sha256="of another")
    with pytest.raises(CheckpointError):
        CudaBackend.open(other, precision="fp32", threads=1)


def test_the_shape_is_that_of_the_configuration(shipped: Bundle) -> None:
    """Every tensor of the checkpoint has a place in it, and no other."""
    shape = AcousticConfig.from_dict(shipped.config).shape
    names = set(cuda.Tensors(shipped.path / "weights.safetensors").names())
    assert names == {*shape.encoder_shapes(), *shape.head_shapes()}
    assert shape.stats_width == AcousticConfig.from_dict(shipped.config).stats_width


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    found = runtime("cuda").availability()
    assert not found.usable
    assert "NVIDIA" in found.reason
    with pytest.raises(BackendError, match="NVIDIA"):
        asa_engine.load("acoustic", backend="cuda", precision="bf16")
    assert main(["doctor", "--json"]) == 0
    doctor = json.loads(capsys.readouterr().out)
    assert doctor["backends"]["cuda"] == {
        "usable": False,
        "reason": found.reason,
        "versions": {},
    }
    assert not doctor["choice"].startswith("cuda")


class Driver:
    """A driver that knows one GPU."""

    capability = (7, 5)

    @classmethod
    def open(cls) -> Driver:
        return cls()


class OldGpu:
    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def machine(self) -> Machine:
        return Machine("Quadro", self._driver.capability, "CUDA 13.0", 2**34, 2**33)

    def close(self) -> None:
        """Nothing to give back."""


@pytest.mark.parametrize(
    ("capability", "kernels", "usable", "what"),
    [
        ((7, 5), None, False, "compute capability 7.5; cuda needs 8.0"),
        ((9, 0), None, False, "no family of GPU kernels"),
        ((9, 0), "numpy", True, "8192 MiB free of 16384 MiB"),
    ],
)
def test_availability_tells_what_it_found(
    capability: tuple[int, int],
    kernels: str | None,
    usable: bool,
    what: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Driver, "capability", capability)
    monkeypatch.setattr(cuda_runtime, "CudaDriver", Driver)
    monkeypatch.setattr(cuda_runtime, "Gpu", OldGpu)
    families = {} if kernels is None else {"numpy": f"{__name__}:Found"}
    monkeypatch.setattr(cuda_families, "FAMILIES", families)
    if kernels is not None:
        monkeypatch.setattr(cuda_runtime, "find_device", NumpyDevice)
    found = runtime("cuda").availability()
    assert found.usable is usable
    assert what in found.reason


def test_the_family_of_kernels_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASA_GPU_KERNELS", "opencl")
    with pytest.raises(BackendError, match=r"opencl.*triton, cuda"):
        cuda_families.find_device()


def test_it_is_a_backend(gpu: Gpu, shipped: Bundle) -> None:
    opened = grader_entry("acoustic").open(shipped, "cuda", "fp32", 1)
    assert isinstance(opened, CudaBackend)
    assert opened.name == runtime("cuda").name == "cuda"


def test_an_export_judges_whole_recordings(gpu: Gpu, shipped: Bundle) -> None:
    """Two windows: scores that came with the last one alone must not be taken for theirs."""
    parity = pytest.importorskip("asa_export.parity", reason="needs the extra 'export'")
    speech = speech_like(4 * 16_000 + 9_000)
    ours = CudaBackend.open(shipped, precision="fp32", threads=1)
    judged = parity.Scorer(shipped, "cuda", "fp32", stages=ours).score(speech)
    native = parity.Scorer(shipped, "native", "fp32").score(speech)
    np.testing.assert_allclose(judged, native, rtol=0, atol=SCORES)


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a GPU")
def test_verify_leaves_out_what_needs_a_gpu(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("asa_export.parity", reason="needs the extra 'export'")
    data = ["--data", str(corpus / "train.jsonl"), "--limit", "2"]
    assert main(["verify", "acoustic", *data, "--precision", "fp16"]) == 4
    captured = capsys.readouterr()
    assert "cuda/fp16 left out: this machine has no NVIDIA driver" in captured.err
    assert "no variant of acoustic can run here" in captured.err
    assert main(["verify", "acoustic", *data, "--precision", "fp32"]) == 0
    captured = capsys.readouterr()
    assert "native/fp32 against torch/fp32" in captured.out
    assert "cuda/fp32 left out" in captured.err
