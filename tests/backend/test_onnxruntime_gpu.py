"""ONNX Runtime's GPU backends, with the CPU provider in the place of the GPU's.

The binding, the batching and the order of results are the same code there; what a GPU computes is
not tested here.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from export_samples import make_checkpoint
from gpu_fakes import FakeCuda
from numpy.typing import NDArray

from asa_engine.bundle import Bundle
from asa_engine.errors import BackendError
from asa_engine.gpu import device_memory as gpu
from asa_engine.graders.acoustic.backends import onnxruntime_gpu
from asa_engine.graders.acoustic.backends.onnxruntime_gpu import (
    Bound,
    OnnxRuntimeCudaBackend,
    OnnxRuntimeTensorRTBackend,
    gpu_session,
)
from asa_engine.graders.acoustic.backends.tensorrt import profile_of
from asa_engine.runtimes import onnxruntime_gpu as onnxruntime_gpu_runtime
from asa_engine.runtimes import runtime
from asa_engine.runtimes.onnxruntime import session
from asa_export.exporter import export, plan
from asa_export.speech import synthetic_speech
from asa_export.typed import on_cpu


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small bundle with a typed graph; tests must not write to it."""
    folder = tmp_path_factory.mktemp("onnxruntime-gpu")
    variants = plan(["onnx", "onnx-cuda", "onnx-tensorrt"], ["fp32"])
    export(make_checkpoint(folder / "checkpoint"), folder / "bundle", variants, synthetic_speech())
    return Bundle.open(folder / "bundle")


def on_this_cpu(bundle: Bundle) -> OnnxRuntimeCudaBackend:
    """The backend with its buffers on the CPU."""
    graph = session(bundle.file("grader", "onnxruntime-cuda", "fp32"), 1)
    head = session(bundle.file("head", "onnxruntime-cuda", "fp32"), 1)
    return OnnxRuntimeCudaBackend(graph, head, precision="fp32", device="cpu", full=100)


def mels_of(lengths: tuple[int, ...], seed: int = 3) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(80, length)).astype(np.float32) for length in lengths]


def test_a_ragged_batch_is_what_encoder_and_head_compute(bundle: Bundle) -> None:
    backend = on_this_cpu(bundle)
    encoder = session(bundle.file("encoder", "onnxruntime", "fp32"), 1)
    head = session(bundle.file("head", "onnxruntime", "fp32"), 1)
    mels = mels_of((100, 37, 100, 2))
    sums = np.abs(np.random.default_rng(5).normal(size=(4, profile_of(bundle).stats))) + 1.0
    found = backend.encode_many(mels, sums, frames=True)
    assert found.frames is not None
    for row, mel in enumerate(mels):
        stats, frames = encoder.run(None, {"mel": mel[np.newaxis]})
        scores, prior = head.run(None, {"stats": (stats + sums[row]).astype(np.float32)})
        # One graph or two, one window or four: the order of float32 sums.
        np.testing.assert_allclose(found.stats[row], stats[0], rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(found.scores[row], scores[0], atol=1e-4)
        np.testing.assert_allclose(found.prior[row], prior[0], atol=1e-5)
        np.testing.assert_allclose(found.frames[row], frames[0], rtol=1e-4, atol=1e-4)


def test_results_do_not_change_with_the_next_batch(bundle: Bundle) -> None:
    backend = on_this_cpu(bundle)
    first = backend.encode_many(mels_of((100,), 1), frames=True)
    assert first.frames is not None
    kept, frames = first.scores.copy(), first.frames[0].copy()
    backend.encode_many(mels_of((100,), 2))
    np.testing.assert_array_equal(first.scores, kept)
    np.testing.assert_array_equal(first.frames[0], frames)


def test_only_full_windows_are_recorded(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[tuple[int, ...], int]] = []

    def bind(graph: Any, shape: tuple[int, ...], device: str, recording: int) -> Bound:
        made.append((shape, recording))
        return Bound(graph, shape, device, recording)

    monkeypatch.setattr(onnxruntime_gpu, "Bound", bind)
    backend = on_this_cpu(bundle)
    for _ in range(2):
        backend.encode_many(mels_of((100, 60, 100)))
    assert made == [((2, 80, 100), 2), ((1, 80, 60), -1)]


def test_buffers_of_shapes_are_bounded(bundle: Bundle) -> None:
    backend = on_this_cpu(bundle)
    for length in range(4, 44):
        backend.encode_many(mels_of((length,)))
    assert len(backend._bound) == 16


def test_recorded_buffers_are_never_given_back(bundle: Bundle) -> None:
    """A recording holds addresses: other buffers of its shape would be read in vain."""
    backend = on_this_cpu(bundle)
    first = backend._bind((1, 80, 100))
    for count in range(2, 40):
        backend._bind((count, 80, 100))
    assert backend._bind((1, 80, 100)) is first
    assert len(backend._recorded) == len(backend._bound) == 16


def test_large_batches_are_cut(bundle: Bundle) -> None:
    backend = on_this_cpu(bundle)
    mels = mels_of((4,) * 70)
    found = backend.encode_many(mels)
    assert [shape[0] for shape in backend._bound] == [64, 6]
    alone = backend.encode_many(mels[69:])
    np.testing.assert_allclose(found.scores[69], alone.scores[0], atol=1e-4)


def test_a_package_for_the_cpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", version)
    for name in ("onnxruntime-cuda", "onnxruntime-tensorrt"):
        found = runtime(name).availability()
        assert not found.usable
        assert "onnxruntime-gpu is not installed (pip install 'asa-engine[gpu]')" in found.reason


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """onnxruntime-gpu for CUDA 13, and a GPU."""
    monkeypatch.setattr(metadata, "version", lambda package: "1.31.1")
    monkeypatch.setattr(onnxruntime_gpu_runtime, "_cuda_major", lambda: 13)
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: FakeCuda())
    providers = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: providers)
    return monkeypatch


def test_the_package_for_the_cpu_over_the_other_is_named(
    installed: pytest.MonkeyPatch,
) -> None:
    installed.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert "lies over the one for GPUs" in runtime("onnxruntime-cuda").availability().reason


def test_a_gpu_is_described(installed: pytest.MonkeyPatch) -> None:
    found = runtime("onnxruntime-cuda").availability()
    assert found.usable
    assert found.reason == "Fake GPU, 8000 MiB free, CUDA 13.0"
    assert found.versions == {"onnxruntime-gpu": "1.31.1", "cuda_driver": "13.0"}


def test_a_driver_older_than_the_package_is_named(installed: pytest.MonkeyPatch) -> None:
    installed.setattr(gpu.ctypes, "CDLL", lambda name: FakeCuda(version=12090))
    found = runtime("onnxruntime-tensorrt").availability()
    assert "runs CUDA up to 12.9; onnxruntime-gpu needs CUDA 13" in found.reason


def test_memory_is_looked_at_first(bundle: Bundle, installed: pytest.MonkeyPatch) -> None:
    installed.setattr(gpu.ctypes, "CDLL", lambda name: FakeCuda(free_mib=100))
    with pytest.raises(BackendError, match=r"the model takes .* MiB of GPU memory"):
        OnnxRuntimeCudaBackend.open(bundle, precision="fp32", threads=1)


def test_the_cpu_is_never_a_silent_substitute(
    bundle: Bundle, installed: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The CPU's package is told that it has CUDA; like the real one it then takes the CPU."""
    made = ort.InferenceSession

    def without_cuda(path: str, options: Any, providers: list[Any]) -> Any:
        print("Failed to load libcublas.so.13: cannot open shared object file")
        return made(path, options, providers=["CPUExecutionProvider"])

    installed.setattr(ort, "InferenceSession", without_cuda)
    installed.setattr(ort, "preload_dlls", lambda: None, raising=False)
    path = bundle.file("grader", "onnxruntime-cuda", "fp32")
    with pytest.raises(BackendError, match="used the CPU: it lacks libcublas") as caught:
        gpu_session(path, "CUDAExecutionProvider", {"device_id": "0"})
    assert "cuDNN" in caught.value.hint
    assert not capsys.readouterr().out


def test_the_tensorrt_provider_gets_the_shapes_of_the_windows(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASA_ENGINES", str(tmp_path / "engines"))
    profile = profile_of(bundle)
    options = OnnxRuntimeTensorRTBackend._options("fp16", profile)
    assert options["trt_profile_min_shapes"] == f"mel:1x80x2,sums:1x{profile.stats}"
    assert options["trt_profile_max_shapes"] == f"mel:64x80x100,sums:64x{profile.stats}"
    assert options["trt_fp16_enable"] == "1"
    assert "trt_fp16_enable" not in OnnxRuntimeTensorRTBackend._options("fp32", profile)


def test_a_graph_that_cannot_be_loaded_is_an_error_of_the_backend(
    tmp_path: Path, installed: pytest.MonkeyPatch
) -> None:
    installed.setattr(ort, "preload_dlls", lambda: None, raising=False)
    (tmp_path / "grader.onnx").write_bytes(b"no graph")
    with pytest.raises(BackendError, match=r"cannot load grader\.onnx on the GPU"):
        gpu_session(tmp_path / "grader.onnx", "CUDAExecutionProvider", {"device_id": "0"})


def test_a_failing_device_is_an_error_of_the_backend(bundle: Bundle) -> None:
    backend = on_this_cpu(bundle)
    bound = backend._bind((1, 80, 100))

    class Broken:
        def run_with_iobinding(self, binding: Any, options: Any) -> None:
            raise RuntimeError("CUDA failure 2: out of memory")

    bound._graph = Broken()
    with pytest.raises(BackendError, match="out of memory"):
        backend.encode_many(mels_of((100,)))


def test_plain_graphs_need_no_form_for_the_cpu(bundle: Bundle) -> None:
    model = onnx.load(bundle.file("grader", "onnxruntime-cuda", "fp32"), load_external_data=False)
    assert on_cpu(model) == model
