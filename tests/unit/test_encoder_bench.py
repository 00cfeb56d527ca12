"""The encoder benchmark without its peers: what is refused, how turns fall, what tables say."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks are not installed

from asa_engine.errors import BackendError
from benchmarks.encoders import probe, run, worker
from benchmarks.encoders.peers import NOT_TIMED, PEERS, REFERENCE, Files, Peer
from benchmarks.encoders.table import check_targets, render, summary_lines

WINDOWS = np.random.default_rng(0).standard_normal((4, 80, 11)).astype(np.float32)


class _Doubling(Peer):
    """Stands in for a runtime: every second frame, doubled; remembers the batches it saw."""

    package, label, precision = "numpy", "doubling", "fp32"

    def __init__(self, files: Files, threads: int) -> None:
        super().__init__(files, threads)
        self.seen: list[int] = []

    def encode(self, mel: np.ndarray[Any, np.dtype[np.float32]]) -> Any:
        self.seen.append(len(mel))
        return 2 * mel[:, :, ::2].transpose(0, 2, 1)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path, tmp_path, tmp_path)


def _row(peer: str, ms: float, error: float = 0.0, **changes: Any) -> dict[str, Any]:
    task = run.Task(
        changes.pop("model", "tiny.en"),
        changes.pop("seconds", 30.0),
        changes.pop("streams", 1),
        changes.pop("threads", 1),
    )
    turns = [{"ms": ms * (1 + 0.01 * i), "cpu_ms": ms, "memory_mb": 50.0} for i in range(3)]
    samples = {REFERENCE: [{**turn, "ms": 400.0} for turn in turns], peer: turns}
    about = {name: {"version": "1", "way": "", "tried_ms": {"": ms}} for name in samples}
    rows = run.rows_of(task, samples, {REFERENCE: 0.0, peer: error}, about)
    return {**rows[-1], **changes}


def _result(*rows: dict[str, Any]) -> dict[str, Any]:
    host = {
        "cpu": "A <CPU>",
        "cores": 2,
        "cpu_flags": ["avx2"],
        "caches": {"L2": "1M"},
        "memory_gib": 4.0,
        "system": "Linux",
        "python": "3.11",
        "kernel_isa": "avx2",
        "load_average": [0.0],
        "load_average_after": [1.0],
    }
    result: dict[str, Any] = {
        "made": "today",
        "command": "run",
        "revision": None,
        "host": host,
        "method": "as written",
        "speech": "a & b",
        "parameters": {"tiny.en": 8_000_000},
        "rows": list(rows),
        "not_timed": [{"what": "x", "why": "y"}],
        "warnings": [],
    }
    return {**result, "targets": check_targets(result)}


def _met(result: dict[str, Any], *words: str) -> bool | None:
    found = [t for t in result["targets"] if all(word in t["name"] for word in words)]
    assert len(found) == 1, [t["name"] for t in found]
    met: bool | None = found[0]["met"]
    return met


def test_relative_error_is_that_of_frobenius() -> None:
    reference = np.array([[3.0, 4.0]], dtype=np.float32)
    assert run.relative_error(reference, reference) == 0.0
    assert run.relative_error(np.array([[3.0, 4.5]], dtype=np.float32), reference) == pytest.approx(
        0.1
    )
    with pytest.raises(ValueError, match="cannot be compared"):
        run.relative_error(reference, reference.T)


def test_every_way_of_many_windows_gives_the_same(files: Files) -> None:
    peer = _Doubling(files, threads=3)
    ways = peer.ways((4, 80, 11))
    assert set(ways) == {"one by one", "one batch", "side by side"}
    for encode in ways.values():
        np.testing.assert_array_equal(encode(WINDOWS), peer.encode(WINDOWS))
    assert list(peer.ways((1, 80, 11))) == [""]
    assert set(_Doubling(files, threads=1).ways((4, 80, 11))) == {"one by one", "one batch"}


def test_peers_alternate_and_all_have_every_round() -> None:
    calls: list[str] = []

    class _Named:
        def __init__(self, name: str) -> None:
            self.name = name

        def measure(self) -> dict[str, float]:
            calls.append(self.name)
            return {"ms": 1.0}

    samples = run.take_turns({name: _Named(name) for name in "abc"}, rounds=6)
    assert [len(turns) for turns in samples.values()] == [6, 6, 6]
    rounds = ["".join(calls[i : i + 3]) for i in range(0, 18, 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) > 1


class _Process:
    """Stands in for a peer's process."""

    def __init__(self, states: Any) -> None:
        self.states = states
        self.about = {"version": "1"}
        self.measured = 0

    def prepare(self, mel: Path) -> tuple[Any, dict[str, Any]]:
        if isinstance(self.states, Exception):
            raise self.states
        return self.states, {"way": "", "tried_ms": {"": 1.0}}

    def measure(self) -> dict[str, float]:
        self.measured += 1
        return {"ms": 1.0, "cpu_ms": 1.0, "memory_mb": 1.0}


def test_nothing_above_its_bound_is_timed() -> None:
    truth = np.ones((1, 5, 4), dtype=np.float32)
    peers: dict[str, Any] = {
        REFERENCE: _Process(truth),
        "native/bf16": _Process(truth * 1.02),
        "openvino/bf16": _Process(truth * 1.04),
        "native/fp32": _Process(truth * np.float32("nan")),
        "onnxruntime/fp32": _Process(truth[:, :4]),
        "openvino/fp32": _Process(BackendError("out of memory")),
    }
    args = run._parse(["--repeats", "2"])
    findings = run.Findings()
    task = run.Task("tiny.en", 30.0, 1, 1)
    rows = run._time(task, peers, Path("mel.npy"), args, findings)
    assert [row["peer"] for row in rows] == [REFERENCE, "native/bf16"]
    assert rows[1]["relative_error"] == pytest.approx(0.02, rel=1e-5)  # float32 inputs
    assert [name for name, peer in peers.items() if peer.measured] == [REFERENCE, "native/bf16"]
    said = {entry["what"].split(",")[0]: entry["why"] for entry in findings.not_timed}
    assert said["openvino/bf16"] == "refused: relative error 0.04, bound 0.03"
    assert said["native/fp32"].startswith("refused: relative error nan")
    assert "cannot be compared" in said["onnxruntime/fp32"]
    assert said["openvino/fp32"] == "out of memory"


def test_a_peer_that_dies_in_its_turn_costs_one_task_not_the_run() -> None:
    truth = np.ones((1, 5, 4), dtype=np.float32)
    dying = _Process(truth)
    dying.measure = lambda: (_ for _ in ()).throw(BackendError("killed"))  # type: ignore[method-assign]
    peers: dict[str, Any] = {REFERENCE: _Process(truth), "native/fp32": dying}
    findings = run.Findings()
    args = run._parse(["--repeats", "2"])
    task = run.Task("tiny.en", 30.0, 1, 1)
    assert run._time(task, peers, Path("mel.npy"), args, findings) == []
    assert "killed" in findings.not_timed[0]["why"]


def test_rows_state_what_was_measured() -> None:
    row = _row("openvino/bf16", 100.0, 0.011, streams=8)
    assert row["p50_ms"] == pytest.approx(101.0)
    assert row["windows_per_s"] == pytest.approx(8e3 / 101.0)
    assert row["speedup"]["median"] == pytest.approx(400.0 / 101.0)
    assert (row["precision"], row["library"], row["n"]) == ("bf16", "OpenVINO", 3)
    assert row["samples_ms"] == [100.0, 101.0, 102.0]


def test_targets_are_checked_against_the_same_run() -> None:
    rows = [
        _row("openvino/bf16", 100.0, 0.0105),
        _row("openvino/fp32", 180.0),
        _row("native/bf16", 85.0, 0.0108),
        _row("native/int8", 80.0, 0.01, memory_mb=48.5),
        _row("native/fp32", 170.0, memory_mb=90.0),
    ]
    result = _result(*rows)
    assert _met(result, "30 s", "bf16 against") is True
    assert _met(result, "30 s", "int8 against") is False  # 0.80 of its time
    assert _met(result, "fp32 against") is True
    assert _met(result, "5 s", "int8 against") is None  # no such rows
    assert _met(result, "native/int8", "memory") is False  # 8 MB + 40 MB
    assert _met(result, "native/fp32", "memory") is False  # 32 MB + 40 MB
    assert _met(result, "native/bf16", "memory") is True  # 16 MB + 40 MB
    rows[2] = _row("native/bf16", 85.0, 0.0112)
    assert _met(_result(*rows), "30 s", "bf16 against") is False  # less exact than the peer


def test_short_windows_compete_with_the_fastest_peer() -> None:
    rows = [
        _row("native/bf16", 27.0, 0.01, seconds=10.0),
        _row("onnxruntime/int8", 29.0, 0.1, seconds=10.0),
        _row("openvino/bf16", 33.0, 0.011, seconds=10.0),
        _row("native/bf16", 85.0, 0.01),
    ]
    result = _result(*rows)
    assert _met(result, "tiny.en, 10 s", "bf16 against") is False  # 0.93 of ONNX Runtime int8's
    assert _met(result, "native/bf16", "10 s against 30 s") is False  # 0.32
    del rows[1]
    assert _met(_result(*rows), "tiny.en, 10 s", "bf16 against") is True


def test_the_page_stands_alone_and_escapes() -> None:
    result = _result(_row("openvino/bf16", 100.0), _row("native/bf16", 85.0, threads=2))
    page = render(result)
    assert "A &lt;CPU&gt;" in page
    assert "a &amp; b" in page
    assert not re.search(r"<script|<link|https?://|src=", page)
    assert page.count("<svg") == 2
    lines = summary_lines(result)
    assert lines[0].split()[:2] == ["model", "window"]
    assert any("openvino/bf16" in line and "101.0" in line for line in lines)
    assert any(line.startswith("not timed: x: y") for line in lines)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--peers", "abacus"], "unknown peers"),
        (["--peers", "openvino/bf16"], "must be among the peers"),
        (["--seconds", "40"], "0.1 to 30 s"),
        (["--repeats", "0"], "at least 1"),
        (["--python", "nowhere/python"], "no interpreter"),
    ],
)
def test_wrong_options_are_one_line(
    capsys: pytest.CaptureFixture[str], args: list[str], said: str
) -> None:
    assert run.main(args) == 2
    assert said in capsys.readouterr().err


def test_a_worker_answers_for_its_peer(tmp_path: Path, files: Files) -> None:
    """A peer that cannot be made is an answer with a reason, never a hang or a dead parent."""
    process = worker.PeerProcess(Path(sys.executable), "native/fp32", files, 1, tmp_path)
    try:
        with pytest.raises(BackendError, match=r"not built|config\.json|safetensors"):
            process.wait()
    finally:
        process.kill()
    dead = worker.PeerProcess(Path("/bin/true"), REFERENCE, files, 1, tmp_path)
    try:
        with pytest.raises(BackendError, match="exit code"):
            dead.wait()
    finally:
        dead.kill()


def test_the_worker_prepares_measures_and_stops(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(worker.PEERS, "doubling", _Doubling)
    np.save(tmp_path / "mel.npy", WINDOWS)
    child = worker._Worker()
    paths = {name: str(getattr(files, name)) for name in Files.__slots__}
    made = child.answer({"do": "make", "peer": "doubling", "files": paths, "threads": 1})
    assert made == {"version": np.__version__}
    states = tmp_path / "states.npy"
    ready = child.answer({"do": "prepare", "mel": str(tmp_path / "mel.npy"), "states": str(states)})
    assert ready["way"] in ready["tried_ms"]
    assert set(ready["tried_ms"]) == {"one by one", "one batch"}
    np.testing.assert_array_equal(np.load(states), 2 * WINDOWS[:, :, ::2].transpose(0, 2, 1))
    assert child.answer({"do": "measure"})["ms"] > 0
    assert child.answer({"do": "stop"})["idle_cpu_share"] >= 0
    assert "error" in child.answer({"do": "prepare", "mel": "absent.npy", "states": "s"})


def test_the_probe_turns_errors_of_states_into_score_points(tmp_path: Path) -> None:
    """Scores that are a linear function of the states' mean are found again, and so is drift."""
    rng = np.random.default_rng(3)
    scored = []
    for index in range(60):
        path = tmp_path / f"{index}.wav"
        level = rng.uniform(0.1, 0.8)
        soundfile.write(path, np.full(8000, level, np.float32), 16_000)
        scored.append((path, np.array([10 * level, 2.0])))

    def encode(mel: Any) -> Any:  # one state a frame: its level, and noise beside it
        noise = rng.standard_normal((mel.shape[1], 1))
        return np.concatenate([mel.T, noise], axis=1).astype(np.float32)

    made = probe.fit_probe(scored, lambda samples: samples[None, :80], encode)
    states = np.stack([np.full((9, 2), level, np.float32) for level in (0.2, 0.3, 0.6)])
    states[:, :, 1] = 0
    low, middle, high = made.scores(states)[:, 0]
    assert low < middle < high
    assert high - middle == pytest.approx(3 * (middle - low), rel=1e-4)
    assert made.drift_rms(states, states) == 0.0
    # Half of the scores move, by as much, on a scale of width 6 instead of 10.
    assert made.drift_rms(states[1:2], states[:1]) == pytest.approx(
        0.6 * (middle - low) / 2**0.5, rel=0.05
    )


def test_speech_that_nobody_scored_has_no_probe(tmp_path: Path) -> None:
    assert probe.read_scored(Path("demo.flac")) == []
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"id": "a", "audio": "a.wav", "speaker": "x"}))
    assert probe.read_scored(path) == []


def test_drift_stands_in_the_row_and_is_a_target() -> None:
    row = _row("native/int8", 100.0, 0.01)
    assert row["drift_rms"] is None
    assert _met(_result(row), "native/int8", "drift") is None
    result = _result({**row, "drift_rms": 0.0312})
    assert _met(result, "native/int8", "drift") is False
    assert _met(_result({**row, "drift_rms": 0.0099}), "native/int8", "drift") is True
    assert "drift RMS 3.1e-02" in render(result)
    assert any("3.1e-02" in line for line in summary_lines(result))


def test_drift_windows_are_spread_over_recordings() -> None:
    recordings = [np.arange(30 * 16_000, dtype=np.float32), np.ones(5 * 16_000, np.float32)]
    windows = probe.drift_windows(recordings, lambda samples: samples[None])
    assert windows.shape == (3, 1, 80_000)
    assert list(windows[:, 0, 0]) == [0.0, 15 * 16_000.0, 1.0]


def test_the_result_is_json_with_a_row_a_line() -> None:
    rows = [_row("openvino/bf16", 100.0), _row("native/bf16", 85.0)]
    text = run.compact_json(_result(*rows))
    assert json.loads(text)["rows"] == rows
    assert sum('"samples_ms"' in line for line in text.splitlines()) == 2


def test_every_peer_says_what_it_is() -> None:
    for name, peer in PEERS.items():
        assert name.partition("/")[2].startswith(peer.precision)
        assert peer.precision in run.ERROR_BOUNDS
    assert "whisper.cpp" in NOT_TIMED
