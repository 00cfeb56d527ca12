"""The TensorRT backend against the CPU's, with a driver and a TensorRT that stand in for real ones.

Engines of the stand-in run the bundle's own graph in ONNX Runtime, so values agree to the order of
float32 sums. What only a GPU can show, speed and TensorRT's own arithmetic, is not tested here.
"""

from __future__ import annotations

import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
from export_samples import make_checkpoint
from gpu_fakes import FakeCuda, fake_tensorrt
from numpy.typing import NDArray

import asa_engine as asa
from asa_engine.audio import SAMPLE_RATE_HZ
from asa_engine.bundle import WEIGHTS_NAME, Bundle, write_manifest
from asa_engine.cli.main import main
from asa_engine.errors import BackendError
from asa_engine.gpu import device_memory as gpu
from asa_engine.gpu.tensorrt_engines import (
    EngineCache,
    EngineKey,
    engine_name,
    model_sha256,
    write_engine,
)
from asa_engine.graders.acoustic.backends.tensorrt import TensorRTBackend, profile_of
from asa_engine.graders.acoustic.runtime import AcousticRun
from asa_engine.profiling import StageClock
from asa_engine.runtimes import runtime
from asa_engine.selection import choose
from asa_export.exporter import export, plan
from asa_export.speech import synthetic_speech

# Encoders in half precision differ by roundings; the graph is the same on both sides, so what is
# left is the order of sums in float32, which shows in a half's last bit.
CLOSE = {"fp32": 1e-5, "fp16": 2e-3}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bundle with typed graphs; tests must not write to it."""
    folder = tmp_path_factory.mktemp("tensorrt")
    variants = plan(["onnx", "tensorrt"], ["fp32", "fp16"])
    export(make_checkpoint(folder / "checkpoint"), folder / "bundle", variants, synthetic_speech())
    return folder / "bundle"


class Machine:
    """A machine with a driver and TensorRT, as far as the engine can tell."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        self._patch = monkeypatch
        monkeypatch.setenv("ASA_ENGINES", str(cache))
        self.has(FakeCuda())

    def has(self, cuda: FakeCuda, *, version: str = "11.4.0", rtx: bool = False) -> None:
        """Put in a GPU and install TensorRT."""
        self.cuda = cuda
        self._patch.setattr(gpu.ctypes, "CDLL", lambda name: cuda)
        for name in ("tensorrt", "tensorrt_rtx"):
            self._patch.setitem(sys.modules, name, ModuleType("absent"))
        self.library = fake_tensorrt(cuda, version=version, rtx=rtx)
        name = self.library.__name__
        self.library.__spec__ = ModuleSpec(name, None)
        for other in {"tensorrt", "tensorrt_rtx"} - {name}:
            self._patch.delitem(sys.modules, other)
        self._patch.setitem(sys.modules, name, self.library)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """A machine with a GPU of compute capability 8.9 and TensorRT 11."""
    return Machine(monkeypatch, tmp_path / "engines")


def mels_of(lengths: tuple[int, ...], seed: int = 3) -> list[NDArray[np.float32]]:
    """Random windows of these lengths."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(80, length)).astype(np.float32) for length in lengths]


def opened(bundle: Path, precision: str = "fp32") -> TensorRTBackend:
    return TensorRTBackend.open(Bundle.open(bundle), precision=precision, threads=1)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("rtx", [False, True])
def test_a_recording_scores_as_on_the_cpu(
    bundle: Path, machine: Machine, precision: str, rtx: bool
) -> None:
    machine.has(FakeCuda(), rtx=rtx)
    # Two and a half windows: sums of earlier ones go up with the last.
    samples = np.random.default_rng(1).normal(size=5 * SAMPLE_RATE_HZ // 2).astype(np.float32)
    here = asa.load(bundle, backend="tensorrt", precision=precision)
    there = asa.load(bundle, backend="onnxruntime", precision="fp32")
    found, truth = (
        [score.value for score in _score(engine, 0.05 * samples).values()]
        for engine in (here, there)
    )
    # Half precision on a random network: its own budget is tested on the trained one.
    np.testing.assert_allclose(found, truth, atol=1e-4 if precision == "fp32" else 2e-2)


def _score(engine: asa.Engine, samples: NDArray[np.float32]) -> dict[str, asa.Score]:
    run = AcousticRun(engine.config, engine._stages, StageClock())
    run.push(samples)
    grade = run.finish()
    assert grade is not None
    return dict(grade.scores)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_ragged_batch_is_its_windows_one_by_one(
    bundle: Path, machine: Machine, precision: str
) -> None:
    backend = opened(bundle, precision)
    mels = mels_of((100, 37, 100, 2, 37, 100))
    width = profile_of(Bundle.open(bundle)).stats
    sums = np.abs(np.random.default_rng(5).normal(size=(len(mels), width))) + 1.0
    together = backend.encode_many(mels, sums, frames=True)
    assert together.frames is not None
    for row, mel in enumerate(mels):
        alone = backend.encode_many([mel], sums[row : row + 1], frames=True)
        assert alone.frames is not None
        for name in ("stats", "scores", "prior"):
            np.testing.assert_allclose(
                getattr(together, name)[row],
                getattr(alone, name)[0],
                rtol=CLOSE[precision],
                atol=CLOSE[precision],
            )
        assert together.frames[row].shape == (-(-mel.shape[1] // 2), 32)
        np.testing.assert_allclose(
            together.frames[row], alone.frames[0], atol=10 * CLOSE[precision]
        )


def test_nan_stays_in_its_own_window(bundle: Path, machine: Machine) -> None:
    backend = opened(bundle)
    mels = mels_of((100, 100, 100))
    clean = backend.encode_many(mels)
    mels[1] = np.full_like(mels[1], np.nan)
    hurt = backend.encode_many(mels)
    assert np.isnan(hurt.scores[1]).all()
    for row in (0, 2):
        np.testing.assert_array_equal(hurt.scores[row], clean.scores[row])


def test_full_windows_are_recorded_once_and_launched(bundle: Path, machine: Machine) -> None:
    backend = opened(bundle)
    first, second = (backend.encode_many(mels_of((100,), seed)) for seed in (1, 2))
    assert machine.cuda.launches == 1
    assert len(machine.cuda.recorded) == 1
    again = backend.encode_many(mels_of((100,), 1))
    assert machine.cuda.launches == 2
    np.testing.assert_array_equal(again.scores, first.scores)
    assert not np.array_equal(second.scores, first.scores)
    backend.encode_many(mels_of((60,)))
    assert len(machine.cuda.recorded) == 1


def test_tensorrt_rtx_records_by_itself(bundle: Path, machine: Machine) -> None:
    machine.has(FakeCuda(), rtx=True)
    backend = opened(bundle)
    backend.encode_many(mels_of((100,)))
    assert not machine.cuda.recorded


def test_only_results_come_down(bundle: Path, machine: Machine) -> None:
    backend = opened(bundle)
    before = machine.cuda.copied_down
    backend.encode_many(mels_of((60,)))
    # Statistics, scores, prior and frames: nothing between the stages.
    assert machine.cuda.copied_down - before == 4


def test_all_memory_is_given_back(bundle: Path, machine: Machine) -> None:
    backend = opened(bundle)
    backend.encode_many(mels_of((100, 60)))
    assert machine.cuda.held
    backend.close()
    assert not machine.cuda.held


def test_an_engine_is_built_once(bundle: Path, machine: Machine) -> None:
    assert "built now (there is none)" in opened(bundle).origin
    assert "kept from an earlier run" in opened(bundle).origin
    assert machine.library.built == 1


@pytest.mark.parametrize(
    ("cuda", "version", "why"),
    [
        (FakeCuda(), "11.5.0", "its version is 11.4.0, here it is 11.5.0"),
        (FakeCuda(version=13020), "11.4.0", "its driver is 13.0, here it is 13.2"),
        (FakeCuda(capability=(9, 0)), "11.4.0", "there is none"),
    ],
)
def test_a_stale_engine_is_built_anew_and_says_why(
    bundle: Path, machine: Machine, cuda: FakeCuda, version: str, why: str
) -> None:
    opened(bundle)
    machine.has(cuda, version=version)
    assert why in opened(bundle).origin
    assert machine.library.built == 1


@pytest.mark.parametrize("damage", ["cut", "changed", "key"])
def test_a_damaged_engine_is_built_anew(
    bundle: Path, machine: Machine, tmp_path: Path, damage: str
) -> None:
    opened(bundle)
    (engine,) = (tmp_path / "engines").glob("*.engine")
    if damage == "cut":
        engine.write_bytes(engine.read_bytes()[:-1])
    elif damage == "changed":
        engine.write_bytes(b"x" + engine.read_bytes()[1:])
    else:
        engine.with_suffix(".json").write_text("[]")
    assert "built now (it" in opened(bundle).origin


def test_a_cache_that_others_may_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(BackendError, match="can be written by others"):
        EngineCache(tmp_path)


@pytest.fixture
def with_engine(bundle: Path, machine: Machine, tmp_path: Path) -> Path:
    """The bundle with an engine of TensorRT-RTX for compute capability 8.9 in it."""
    machine.has(FakeCuda(), version="1.7", rtx=True)
    folder = tmp_path / "shipped"
    source = Bundle.open(bundle)
    for name in source.artifacts:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((bundle / name).read_bytes())
    graph = folder / "grader.fp32.onnx"
    profile = profile_of(source)
    key = EngineKey(
        "tensorrt-rtx", "1.7", "8.9", "any", model_sha256(graph, folder / WEIGHTS_NAME, profile)
    )
    made = {"path": str(graph), "capabilities": [89], "profiles": profile.ranges()}
    write_engine(folder / engine_name("fp32", "8.9"), json.dumps(made).encode(), key)
    write_manifest(
        folder,
        name="shipped",
        version="1",
        grader="acoustic",
        stages=source.stages,
        auto=source.auto,
        parity={},
    )
    return folder


def test_the_bundles_engine_is_used_where_it_fits(with_engine: Path, machine: Machine) -> None:
    assert opened(with_engine).origin == "the bundle's"
    assert machine.library.built == 0


def test_the_engine_of_another_gpu_is_refused(with_engine: Path, machine: Machine) -> None:
    machine.has(FakeCuda(capability=(12, 0)), version="1.7", rtx=True)
    origin = opened(with_engine).origin
    assert "the bundle's is not used: it holds fp32-sm89, and this is fp32-sm120" in origin
    assert machine.library.built == 1


def test_an_engine_of_another_version_is_refused(with_engine: Path, machine: Machine) -> None:
    machine.has(FakeCuda(), version="1.8", rtx=True)
    assert "not used: its version is 1.7, here it is 1.8" in opened(with_engine).origin


def test_where_nothing_can_be_built_both_reasons_are_said(
    with_engine: Path, machine: Machine
) -> None:
    machine.has(FakeCuda(capability=(9, 0)), version="1.7", rtx=True)
    with pytest.raises(BackendError) as caught:
        opened(with_engine)
    assert "builds no engine for compute capability 9.0" in str(caught.value)
    assert "it holds fp32-sm89" in str(caught.value)
    assert "SM120, SM86, SM89" in caught.value.hint


def test_a_library_that_fails_says_what_it_said(
    bundle: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = fake_tensorrt(machine.cuda, builds=False)
    monkeypatch.setattr(machine.library, "Builder", broken.Builder)
    with pytest.raises(BackendError, match="it built nothing; no kernel for this GPU"):
        opened(bundle)


@pytest.mark.parametrize(
    ("cuda", "said"),
    [
        (FakeCuda(version=12080), "runs CUDA up to 12.8; tensorrt needs CUDA 13"),
        (FakeCuda(fails={"cuInit": 100}), "no CUDA-capable device"),
        (FakeCuda(devices=0), "there is no GPU 0"),
        (FakeCuda(free_mib=1), "MiB free of 16000"),
        (FakeCuda(fails={"cuMemAlloc_v2": 2}), "out of memory"),
    ],
)
def test_what_is_wrong_with_a_gpu_is_said_in_one_line(
    bundle: Path,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    cuda: FakeCuda,
    said: str,
) -> None:
    machine.has(cuda)
    monkeypatch.setattr("asa_engine.gpu.tensorrt_engines._cuda_major", lambda module: 13)
    with pytest.raises(BackendError) as caught:
        opened(bundle)
    assert said in caught.value.message
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_too_little_memory_is_said_before_anything_is_allocated(
    bundle: Path, machine: Machine
) -> None:
    machine.has(FakeCuda(free_mib=1))
    with pytest.raises(BackendError, match="GPU memory"):
        opened(bundle)
    assert not machine.cuda.held


def test_an_old_gpu_is_not_chosen(bundle: Path, machine: Machine) -> None:
    machine.has(FakeCuda(capability=(6, 1)))
    found = runtime("tensorrt").availability()
    assert not found.usable
    assert "compute capability 6.1; TensorRT needs 7.5" in found.reason


def test_a_failing_launch_is_an_error_of_the_backend(bundle: Path, machine: Machine) -> None:
    backend = opened(bundle)
    machine.cuda.fails["cuLaunchKernel"] = 700
    with pytest.raises(BackendError, match="could not run the engine"):
        backend.encode_many(mels_of((60,)))


def test_a_window_longer_than_the_engines_is_refused(bundle: Path, machine: Machine) -> None:
    with pytest.raises(BackendError, match="takes no mel of shape"):
        opened(bundle).encode_many(mels_of((101,)))


def test_without_a_driver_the_reason_is_that(
    bundle: Path,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(gpu.ctypes, "CDLL", absent)
    with pytest.raises(BackendError, match="no NVIDIA driver"):
        choose(Bundle.open(bundle), "tensorrt")
    soundfile.write(tmp_path / "a.wav", np.zeros(SAMPLE_RATE_HZ, np.float32), SAMPLE_RATE_HZ)
    options = ("--bundle", str(bundle), "--backend", "tensorrt")
    assert main(["assess", str(tmp_path / "a.wav"), *options]) == 4
    said = capsys.readouterr().err
    assert said.count("no NVIDIA driver") == said.count("\n") == 1
    assert "--gpus all" in said


def test_the_doctor_describes_the_gpu(
    bundle: Path, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--bundle", str(bundle), "--backend", "tensorrt", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["gpu"] == (
        "Fake GPU, compute capability 8.9, 8000 of 16000 MiB free, driver for CUDA 13.0"
    )
    assert found["backends"]["tensorrt"]["usable"]
    assert found["choice"].startswith("tensorrt/")


def test_auto_takes_a_cpu_where_there_is_no_gpu(bundle: Path) -> None:
    assert choose(Bundle.open(bundle)).backend == "onnxruntime"
