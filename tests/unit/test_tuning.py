"""Tuning: what fits the budget, in which order, and the bundle that comes of it. No times."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx.parser
import pytest
import soundfile
from audio_samples import RATE_HZ, speech
from bench_samples import tuning_of

from asa_engine.bundle import Bundle, write_manifest
from asa_engine.cli import tune as command
from asa_engine.cli.main import main
from asa_engine.engine import load
from asa_engine.errors import BackendError, BundleError, DriftError, UsageError
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.graders.aspects import AspectConfig
from asa_engine.selection import TUNING_NAME, Choice, choose_threads, default_threads
from asa_engine.tuning import tune as tuning_module
from asa_engine.tuning.tune import Trial, Tuning, tune, write_tuned

# The score is a constant + the mean log-mel + what stands for the drift of a precision.
DRIFTS = {"fp32": 0.0, "bf16": 0.01, "int8": 0.5}
ENCODER = """<ir_version: 8, opset_import: ["" : 17]>
encoder (float[1,80,T] mel) => (float[1,2] stats, float[1,T,1] frames) {
  level = ReduceMean <axes = [1], keepdims = 0> (mel)
  zeros = Sub (level, level)
  ones = Exp (zeros)
  both = Concat <axis = 0> (level, ones)
  time = Constant <value = int64[1] {1}> ()
  sums = ReduceSum <keepdims = 0> (both, time)
  first = Constant <value = int64[1] {0}> ()
  stats = Unsqueeze (sums, first)
  last = Constant <value = int64[1] {2}> ()
  frames = Unsqueeze (level, last)
}"""
HEAD = """<ir_version: 8, opset_import: ["" : 17]>
head (float[1,2] stats) => (float[1,2] scores, float[1,8] prior) {
  total, count = Split <axis = 1> (stats)
  mean = Div (total, count)
  base = Constant <value = float[1,2] {BASE}> ()
  scores = Add (base, mean)
  prior = Constant <value = float[1,8] {0.125, 0.125, 0.125, 0.125, 0.125, 0.125, 0.125, 0.125}> ()
}"""


def _make_bundle(folder: Path) -> Bundle:
    """A bundle whose graphs ONNX Runtime really runs, and a native variant without weights."""
    folder.mkdir()
    aspects = (AspectConfig("fluency"), AspectConfig("total"))
    config = AcousticConfig(aspects=aspects, window_s=1.0)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    onnx.save(onnx.parser.parse_model(ENCODER), folder / "encoder.onnx")
    for precision, drift in DRIFTS.items():
        head = HEAD.replace("BASE", f"{5 + drift}, {6 + drift}")
        onnx.save(onnx.parser.parse_model(head), folder / f"head.{precision}.onnx")
    write_manifest(
        folder,
        name="synthetic",
        version="7",
        grader="acoustic",
        stages={
            "encoder": {"onnxruntime": dict.fromkeys(DRIFTS, "encoder.onnx")},
            "head": {"onnxruntime": {p: f"head.{p}.onnx" for p in DRIFTS}},
            "grader": {"native": {"bf16": "encoder.onnx"}},
        },
        auto=(("onnxruntime", "int8"),),
        parity={"onnxruntime/fp32": {"recordings": 3}},
    )
    return Bundle.open(folder)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return _make_bundle(tmp_path / "bundle")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    lines = []
    for seed in range(3):
        soundfile.write(tmp_path / f"{seed}.wav", speech(1.5, seed=seed), RATE_HZ)
        lines.append(json.dumps({"id": str(seed), "audio": f"{seed}.wav", "scores": {"total": 5}}))
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(lines))
    return path


def _trial(name: str, threads: int, window_ms: float | None, drift: float) -> Trial:
    backend, precision = name.split("/")
    fits = window_ms is not None
    return Trial(backend, precision, threads, drift, 2 * drift, fits, window_ms, window_ms)


TRIALS = (
    _trial("native/int8", 2, 3.0, 0.01),
    _trial("native/bf16", 2, 4.0, 0.004),
    _trial("native/int8", 1, 5.0, 0.01),
    _trial("onnxruntime/fp32", 1, 12.0, 0.0),
    _trial("onnxruntime/int8", 1, None, 0.2),
)


def _tuning(bundle: Bundle, trials: tuple[Trial, ...] = TRIALS) -> Tuning:
    return tuning_of(bundle, trials, busy=True, skipped={"torch/bf16": "not installed"})


def test_the_fastest_come_first_each_variant_once(bundle: Bundle) -> None:
    tuning = _tuning(bundle)
    assert tuning.order == (("native", "int8"), ("native", "bf16"), ("onnxruntime", "fp32"))
    assert tuning.best == TRIALS[0]
    table = "\n".join(tuning.lines())
    assert "onnxruntime/int8" in table
    assert "the machine was busy" in table
    assert table.count("over the budget") == 1
    assert "skipped torch/bf16: not installed" in table


def test_nothing_within_the_budget_is_an_error(bundle: Bundle, tmp_path: Path) -> None:
    tuning = _tuning(bundle, TRIALS[-1:])
    with pytest.raises(DriftError, match=r"RMS 0\.033 points of torch/fp32; .* at 0\.2"):
        write_tuned(bundle, tuning, tmp_path / "tuned")
    assert not (tmp_path / "tuned").exists()


def test_a_tuned_copy_has_the_order_the_table_and_all_else(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.path / "stray.txt").write_text("no part of the bundle")
    tuning = _tuning(bundle)
    write_tuned(bundle, tuning, tmp_path / "tuned")
    tuned = Bundle.open(tmp_path / "tuned")  # checks every hash
    assert tuned.auto == tuning.order
    assert (tuned.name, tuned.version, tuned.stages) == ("synthetic", "7", bundle.stages)
    assert tuned.parity == bundle.parity
    assert set(tuned.artifacts) == {*bundle.artifacts, TUNING_NAME}
    table = json.loads((tuned.path / TUNING_NAME).read_text())
    assert table == json.loads(json.dumps(tuning.to_dict()))
    assert Bundle.open(bundle.path).auto == (("onnxruntime", "int8"),)


def test_in_place_and_again(bundle: Bundle) -> None:
    write_tuned(bundle, _tuning(bundle), bundle.path, overwrite=True)
    once = Bundle.open(bundle.path)
    assert once.auto[0] == ("native", "int8")
    with pytest.raises(BundleError, match="changed since it was tuned"):
        write_tuned(once, _tuning(bundle), bundle.path, overwrite=True)
    write_tuned(once, _tuning(once, TRIALS[3:]), bundle.path, overwrite=True)
    assert Bundle.open(bundle.path).auto == (("onnxruntime", "fp32"),)


def test_what_cannot_be_written_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists already"):
        write_tuned(bundle, _tuning(bundle), bundle.path)
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_bytes((bundle.path / "config.json").read_bytes())
    (checkpoint / "weights.safetensors").write_bytes(b"")
    opened = Bundle.open(checkpoint)
    with pytest.raises(BundleError, match="is a checkpoint"):
        write_tuned(opened, _tuning(opened), tmp_path / "tuned")


def test_tune_keeps_what_stays_within_the_budget(bundle: Bundle, manifest: Path) -> None:
    """Real processes: int8 drifts by half a point and is not timed, native cannot open."""
    recordings = sorted(manifest.parent.glob("*.wav"))
    tuning = tune(bundle, recordings, budget=0.02, threads=(1,), rounds=2)
    assert tuning.reference == "onnxruntime/fp32"
    assert tuning.budget_rms == pytest.approx(0.02 * 10 / 6)  # scales of width 10
    assert tuning.recordings == 3
    found = {trial.precision: trial for trial in tuning.trials}
    assert set(found) == set(DRIFTS)
    for precision, drift in DRIFTS.items():
        # float32 scores near 5 and 6 are spaced by 4.8e-7.
        assert found[precision].drift_rms == pytest.approx(drift, abs=2e-6)
        assert found[precision].fits is (precision != "int8")
        assert (found[precision].window_ms is None) is (precision == "int8")
        assert (found[precision].time_to_score_ms is None) is (precision == "int8")
    assert set(tuning.order) == {("onnxruntime", "fp32"), ("onnxruntime", "bf16")}
    assert [name for name in tuning.skipped if name.startswith("native/bf16")]
    write_tuned(bundle, tuning, bundle.path, overwrite=True)
    engine = load(bundle.path)
    assert (engine.choice.backend, engine.choice.precision) == tuning.order[0]


def _tuned(bundle: Bundle, *trials: Trial) -> Bundle:
    write_tuned(bundle, _tuning(bundle, trials), bundle.path, overwrite=True)
    return Bundle.open(bundle.path)


def test_an_engine_takes_the_tuned_thread_count(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(6)))
    fp32 = ("onnxruntime", "fp32")
    assert load(bundle, backend=fp32[0], precision=fp32[1]).threads == default_threads() == 4
    tuned = _tuned(
        bundle,
        _trial("onnxruntime/fp32", 3, 3.0, 0.0),
        _trial("onnxruntime/fp32", 1, 4.0, 0.0),
        _trial("onnxruntime/bf16", 1, 5.0, 0.01),
        _trial("onnxruntime/int8", 2, None, 0.5),
    )
    engine = load(tuned)
    assert (engine.choice.backend, engine.choice.precision, engine.threads) == (*fp32, 3)
    assert load(tuned, threads=2).threads == 2
    assert load(tuned, precision="bf16").threads == 1
    assert load(tuned, precision="int8").threads == 4  # over the budget: not tuned
    told = {p: choose_threads(tuned, Choice("onnxruntime", p, "")) for p in ("fp32", "int8")}
    assert told["fp32"] == (3, "tuned")
    assert "cores at hand" in told["int8"][1]
    assert main(["doctor", "--bundle", str(tuned.path)]) == 0
    assert "threads: 3 (tuned)" in capsys.readouterr().out
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    assert choose_threads(tuned, engine.choice) == (2, "tuned for 3, more than the cores at hand")


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"trials": 3},
        {"trials": [3]},
        {"trials": [{"backend": "onnxruntime", "precision": "fp32", "fits": True}]},
        {"trials": [{"backend": "onnxruntime", "precision": "fp32", "fits": True, "threads": 1e9}]},
    ],
)
def test_a_malformed_table_is_named(bundle: Bundle, table: dict[str, Any]) -> None:
    (bundle.path / TUNING_NAME).write_text(json.dumps(table))
    choice = Choice("onnxruntime", "fp32", "")
    assert choose_threads(bundle, choice)[0] == default_threads()  # no hash vouches for it
    write_manifest(
        bundle.path,
        name=bundle.name,
        version=bundle.version,
        grader=bundle.grader,
        stages=bundle.stages,
        auto=bundle.auto,
        parity=bundle.parity,
    )
    with pytest.raises(BundleError, match=r"tuning\.json is malformed"):
        choose_threads(Bundle.open(bundle.path), choice)


def test_without_a_reference_there_is_nothing_to_tune(fake_bundle: Path) -> None:
    opened = Bundle.open(fake_bundle)
    lossy = replace(opened, stages={"encoder": {"onnxruntime": {"int8": "weights.bin"}}})
    with pytest.raises(BackendError, match="nothing to compare with"):
        tune(lossy, [], budget=0.02, threads=(1,))


def _run(monkeypatch: pytest.MonkeyPatch, tuning: Tuning, *args: object) -> int:
    """Run the command with a scripted measurement."""
    monkeypatch.setattr(tuning_module, "tune", lambda *_, **__: tuning)
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers())
    parsed = parser.parse_args(["tune", *map(str, args)])
    code: int = parsed.run(parsed)
    return code


def test_the_command_prints_writes_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    bundle: Bundle,
    manifest: Path,
    tmp_path: Path,
) -> None:
    tuning = _tuning(bundle)
    args = (bundle.path, "--data", manifest)
    assert _run(monkeypatch, tuning, *args) == 0
    out = capsys.readouterr().out
    assert "fastest within the budget: native/int8, 2 threads" in out
    assert "nothing written" in out
    assert _run(monkeypatch, tuning, *args, "--json", "-o", tmp_path / "tuned") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["order"][0] == ["native", "int8"]
    assert Bundle.open(tmp_path / "tuned").auto == tuning.order
    with pytest.raises(UsageError, match="exists already"):
        _run(monkeypatch, tuning, *args, "-o", tmp_path / "tuned")
    assert _run(monkeypatch, tuning, *args, "--in-place") == 0
    assert Bundle.open(bundle.path).auto == tuning.order


def test_the_command_exits_5_where_nothing_fits(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    bundle: Bundle,
    manifest: Path,
) -> None:
    tuning = _tuning(bundle, TRIALS[-1:])
    args: tuple[Any, ...] = (bundle.path, "--data", manifest, "--in-place", "--json")
    assert _run(monkeypatch, tuning, *args) == 5
    captured = capsys.readouterr()
    printed = json.loads(captured.out)
    assert (printed["error"], printed["order"]) == ("DriftError", [])
    assert len(printed["trials"]) == 1
    assert captured.err.startswith("asa-engine: no variant's scores stay within")
    assert Bundle.open(bundle.path).auto == (("onnxruntime", "int8"),)


@pytest.mark.parametrize(("cores", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4])])
def test_thread_counts_go_as_far_as_the_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, counts: list[int]
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(cores)))
    assert command.default_counts() == counts


@pytest.mark.parametrize("threads", ["0", "1,many", ""])
def test_wrong_thread_counts_are_wrong_usage(threads: str) -> None:
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers())
    with pytest.raises(SystemExit) as exit_:
        parser.parse_args(["tune", "b", "--data", "d", "--threads", threads])
    assert exit_.value.code == 2
