"""Spans of stages, the profile made of them, and the trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from audio_samples import encoded, speech

import asa_engine as asa
from asa_engine.cli import profile
from asa_engine.cli.main import main
from asa_engine.cli.trace import Pass, kernel_events, operator_events, stage_events
from asa_engine.kernels.laps import TASK, Lap, Roofs
from asa_engine.profiling import Span, StageClock, operator_trace_folder, recording


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    path = tmp_path / "answer.wav"
    path.write_bytes(encoded(speech(3.3, seed=3)))
    return path


def _profile(audio: Path, bundle: Path, *options: str) -> int:
    engine = ["--bundle", str(bundle), "--backend", "fake", "--threads", "1"]
    return main(["profile", str(audio), *engine, *options])


def test_inner_scopes_are_taken_off_the_outer_one() -> None:
    spans: list[Span] = []
    with recording(spans.append):
        clock = StageClock()
    with clock.scope("outer"):
        with clock.scope("inner", frames=7):
            pass
        with clock.scope("inner"):
            pass
    assert [span.stage for span in spans] == ["inner", "inner", "outer"]
    assert [dict(span.args) for span in spans] == [{"frames": 7}, {}, {}]
    first, second, outer = spans
    assert outer.start_s <= first.start_s <= first.end_s <= second.start_s <= outer.end_s
    # One subtraction in another order: the last bits of a time in ms may differ.
    inner_ms = first.own_ms + second.own_ms
    assert outer.own_ms == pytest.approx(1e3 * (outer.end_s - outer.start_s) - inner_ms)
    assert clock.total_ms("inner") == pytest.approx(inner_ms)
    assert clock.total_ms("outer") == outer.own_ms
    assert sum(clock.totals_ms().values()) == pytest.approx(1e3 * (outer.end_s - outer.start_s))


def test_only_clocks_made_in_the_block_report(tmp_path: Path) -> None:
    spans: list[Span] = []
    before = StageClock()
    with recording(spans.append, operator_traces=tmp_path):
        assert operator_trace_folder() == tmp_path
        with before.scope("before"):
            pass
    assert operator_trace_folder() is None
    with StageClock().scope("after"):
        pass
    assert spans == []


def test_recording_changes_no_score(fake_bundle: Path, recorded: Path) -> None:
    engine = asa.load(fake_bundle, backend="fake", threads=1)
    spans: list[Span] = []
    with recording(spans.append):
        watched = engine.assess(recorded)
    assert watched.scores == engine.assess(recorded).scores
    assert [span.stage for span in spans].count("encoder") == 4


def test_the_profile_adds_up(
    fake_bundle: Path, recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _profile(recorded, fake_bundle, "--repeat", "3", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    stages = {row["stage"]: row for row in told["stages"]}
    assert next(iter(stages)) == "decode"
    assert list(stages)[-3:] == ["encoder", "head", "rest"]
    assert stages["encoder"]["calls"] == 4
    assert stages["head"]["calls"] == 1
    # Sums of the same numbers in another order.
    assert sum(row["share"] for row in told["stages"]) == pytest.approx(1.0)
    for kind in ("cold_ms", "warm_ms"):
        assert sum(row[kind] for row in told["stages"]) == pytest.approx(told[kind])
    windows = told["windows"]
    assert [row["window"] for row in windows] == [0, 1, 2, 3]
    assert sum(row["encoder_ms"] for row in windows) == pytest.approx(stages["encoder"]["warm_ms"])
    assert sum(row["features_ms"] for row in windows) == pytest.approx(
        stages["features"]["warm_ms"]
    )


def test_the_warm_run_is_the_one_of_median_length() -> None:
    def run(name: str, length_s: float) -> Pass:
        span = Span("encoder", 0.0, length_s / 2, 500 * length_s, {})
        return Pass(name, 0.0, length_s, [span])

    found = profile.summarise([run("cold", 9.0), run("a", 3.0), run("b", 1.0), run("c", 2.0)])
    assert found["cold_ms"] == 9000
    assert found["warm_ms"] == 2000
    assert [row["warm_ms"] for row in found["stages"]] == [1000, 1000]
    assert found["stages"][0]["median_call_ms"] == 1000


def test_the_table_names_stages_and_windows(
    fake_bundle: Path, recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _profile(recorded, fake_bundle) == 0
    printed = capsys.readouterr().out
    for word in ("decode", "features", "encoder", "head", "rest", "total", "load", "window"):
        assert word in printed


def test_no_table_of_windows_where_there_are_none(
    fake_bundle: Path, recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _profile(recorded, fake_bundle, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert "frames" in profile.table(told)
    assert "frames" not in profile.table({**told, "windows": []})


def test_a_trace_holds_every_span(fake_bundle: Path, recorded: Path, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    assert _profile(recorded, fake_bundle, "--trace", str(path)) == 0
    events = json.loads(path.read_text())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert min(event["ts"] for event in spans) == 0
    passes = {event["name"]: event for event in spans if event["cat"] == "pass"}
    assert list(passes) == ["cold", "warm 1"]
    assert passes["cold"]["ts"] + passes["cold"]["dur"] <= passes["warm 1"]["ts"]
    encoders = [event for event in spans if event["name"] == "encoder"]
    assert [event["args"]["window"] for event in encoders] == [0, 1, 2, 3] * 2
    for event in spans:
        assert any(
            each["ts"] <= event["ts"] and event["ts"] + event["dur"] <= each["ts"] + each["dur"]
            for each in passes.values()
        )


def test_operators_are_moved_onto_the_clock_of_the_spans(tmp_path: Path) -> None:
    def event(name: str, category: str, ts: int, dur: int) -> dict[str, Any]:
        return {"name": name, "cat": category, "ph": "X", "ts": ts, "dur": dur, "tid": 5}

    # ONNX Runtime's clock began at 99.999 s of the spans' clock; only the second pair is tight.
    path = tmp_path / "encoder_1.json"
    loaded = event("session_initialization", "Session", 10, 90)
    path.write_text(
        json.dumps(
            [
                {"name": "process", "ph": "M"},
                loaded,
                event("model_run", "Session", 2000, 1000),
                event("MatMul_kernel_time", "Node", 2100, 500),
                event("model_run", "Session", 11_010, 980),
            ]
        )
    )
    spans = [
        Span("encoder", 100.0005, 100.0035, 3.0, {}),
        Span("head", 100.004, 100.005, 1.0, {}),
        Span("encoder", 100.010, 100.011, 1.0, {}),
    ]
    moved = {
        (each["name"], index): each
        for index, each in enumerate(operator_events({"encoder": path}, spans))
    }
    # Times near 1e8 us in float64: good to 1e-7 us and better.
    assert moved["model_run", 1]["ts"] == pytest.approx(100_001_000, abs=1e-3)
    assert moved["MatMul_kernel_time", 2]["ts"] == pytest.approx(100_001_100, abs=1e-3)
    assert moved["MatMul_kernel_time", 2]["cat"] == "encoder operators"
    assert moved["thread_name", 4]["args"]["name"] == "onnxruntime encoder, thread 0"
    assert list(operator_events({"encoder": path}, spans[:1])) == []


def test_windows_are_numbered_anew_in_every_pass() -> None:
    spans = [
        Span("encoder", 0.1, 0.2, 100.0, {"frames": 400}),
        Span("encoder", 0.3, 0.4, 100.0, {}),
    ]
    events = list(stage_events([Pass("cold", 0.0, 1.0, spans), Pass("warm 1", 1.0, 2.0, spans)]))
    args = [event["args"] for event in events if event["name"] == "encoder"]
    assert args == [{"frames": 400, "window": 0}, {"window": 1}] * 2


def test_kernels_become_events_with_their_rates() -> None:
    roofs = Roofs("generic", 2, {"fp32": 4e9, "bf16": 8e9}, {"memory": 4e9})
    laps = [
        Lap(TASK, -1, "fp32", 0, 1.0, 2.0, 0.0, 0.0),
        Lap("conv1", -1, "bf16", 0, 1.0, 1.5, 1e9, 0.5e9),
        Lap(TASK, 3, "fp32", 1, 1.0, 2.0, 0.0, 0.0),
    ]
    stem, conv1, layer, *tracks = kernel_events(laps, roofs)
    assert (stem["name"], stem["cat"], layer["name"]) == ("stem", "layer", "layer 3")
    assert (stem["ts"], stem["dur"], conv1["dur"]) == (1e6, 1e6, 0.5e6)
    assert stem["tid"] == conv1["tid"] != layer["tid"]
    assert conv1["args"] == {
        "layer": -1,
        "precision": "bf16",
        "gflops": 2.0,
        "of_peak": 0.5,
        "gb_per_s": 1.0,
        "of_memory": 0.5,
    }
    assert [event["args"]["name"][-8:] for event in tracks] == ["thread 0", "thread 1"]


def test_the_native_backend_tells_its_kernels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The acoustic bundle: kernels lie inside layers, layers inside the encoder's stage."""
    audio, path = tmp_path / "answer.wav", tmp_path / "trace.json"
    audio.write_bytes(encoded(speech(5.0, seed=3)))
    options = ["--bundle", "acoustic", "--threads", "2", "--repeat", "2", "--trace", str(path)]
    assert main(["profile", str(audio), *options, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    rows = told["kernels"]
    assert {row["precision"] for row in rows} >= {"int8", "fp32"}
    assert sum(row["share"] for row in rows) == pytest.approx(1.0)
    assert told["roofs"]["threads"] == 2
    events = [e for e in json.loads(path.read_text())["traceEvents"] if e["ph"] == "X"]
    kinds = {kind: [e for e in events if e["cat"] == kind] for kind in ("kernel", "layer", "stage")}
    encoders = [event for event in kinds["stage"] if event["name"] == "encoder"]
    assert len(encoders) == 4  # two windows, cold and warm

    def inside(inner: dict[str, Any], outer: dict[str, Any]) -> bool:
        # Times are in us: rounding to float64 moves them by less than 1e-3.
        ends = inner["ts"] + inner["dur"], outer["ts"] + outer["dur"]
        return bool(outer["ts"] <= inner["ts"] + 1e-3 and ends[0] <= ends[1] + 1e-3)

    stages = {"log-mel": "features", "pooling": "encoder"}  # the others are in a layer
    for kernel in kinds["kernel"]:
        if kernel["name"] in stages:
            within = [e for e in kinds["stage"] if e["name"] == stages[kernel["name"]]]
        else:
            within = [e for e in kinds["layer"] if e["tid"] == kernel["tid"]]
        assert any(inside(kernel, outer) for outer in within)
    assert sum(kernel["name"] == "pooling" for kernel in kinds["kernel"]) == 4
    assert {row["kernel"] for row in rows} >= {"log-mel", "pooling"}
    for layer in kinds["layer"]:
        assert any(inside(layer, encoder) for encoder in encoders)
    for encoder in encoders:
        busy = sum(kernel["dur"] for kernel in kinds["kernel"] if inside(kernel, encoder))
        assert 0 < busy <= 2 * encoder["dur"]
    assert main(["profile", str(audio), *options[:-2]]) == 0
    printed = capsys.readouterr().out
    for word in ("attention", "feed-forward in", "of peak", "peaks of 2 thread(s)"):
        assert word in printed


def test_mistakes_are_named(
    fake_bundle: Path, recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _profile(tmp_path / "absent.wav", fake_bundle) == 3
    assert "does not exist" in capsys.readouterr().err
    assert _profile(recorded, fake_bundle, "--trace", str(tmp_path / "absent" / "t.json")) == 2
    assert "there is no folder" in capsys.readouterr().err
