"""How benchmarks measure: statistics, the drift gate, turns, workers, speech. No times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from bench_samples import candidate, make_rows

from asa_engine.bench.cold_run import cold_run, imported_packages
from asa_engine.bench.install_size import folder_bytes
from asa_engine.bench.run import Plan, parse_variants, run_session
from asa_engine.errors import BackendError, DriftError, UsageError
from asa_engine.evaluation.drift import BUDGETS, Drift, log_mel_drift, score_drift
from asa_engine.measuring.harness import Candidate, Refused, gate, take_turns
from asa_engine.measuring.scenarios import Task
from asa_engine.measuring.speech import Wanted, prepare_speech, read_samples
from asa_engine.measuring.statistics import paired_ratio, summarise
from asa_engine.measuring.worker import WorkerProcess


class ScriptedWorker:
    """Answers with fixed scores and times, and remembers who was asked what."""

    def __init__(
        self, name: str, log: list[tuple[str, int, int]], ms: float = 1.0, offset: float = 0.0
    ) -> None:
        self.name, self.log, self.ms, self.offset = name, log, ms, offset

    def measure(self, task: dict[str, Any], *, untimed: int, timed: int) -> list[float]:
        self.log.append((self.name, untimed, timed))
        return [self.ms + len(self.log) / 1000] * timed

    def scores(self, files: Sequence[Path]) -> list[dict[str, float] | None]:
        return [{"total": 5.0 + self.offset} for _ in files]


class TestStatistics:
    def test_percentiles_interpolate_between_order_statistics(self) -> None:
        latency = summarise([[1.0, 2.0], [3.0, 4.0], [5.0]])

        assert (latency.n, latency.min_ms, latency.mean_ms) == (5, 1.0, 3.0)
        assert (latency.p50_ms, latency.p90_ms) == pytest.approx((3.0, 4.6))
        assert latency.p99_ms == pytest.approx(4.96)

    def test_a_slow_round_that_hits_both_leaves_the_ratio_alone(self) -> None:
        ratio = paired_ratio([[30.0], [300.0], [30.0]], [[10.0], [100.0], [10.0]])

        assert (ratio.q25, ratio.median, ratio.q75) == pytest.approx((3.0, 3.0, 3.0))

    @pytest.mark.parametrize("rounds", [[], [[]], [[0.0]], [[-1.0]], [[math.nan]], [[math.inf]]])
    def test_samples_that_cannot_be_times_are_refused(self, rounds: list[list[float]]) -> None:
        with pytest.raises(ValueError, match="samples"):
            summarise(rounds)

    def test_unequal_rounds_cannot_be_paired(self) -> None:
        with pytest.raises(ValueError, match="paired"):
            paired_ratio([[1.0]], [[1.0], [1.0]])


class TestDrift:
    def test_rms_and_max_over_all_aspects_of_what_both_scored(self) -> None:
        reference = [{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 4.0}, None]
        ours = [{"a": 1.3, "b": 1.6}, None, {"a": 9.0, "b": 9.0}]

        drift = score_drift(reference, ours, precision="int8", scale_width=6.0)

        assert drift.recordings == 1
        assert drift.rms == pytest.approx(math.sqrt((0.09 + 0.16) / 2))
        assert drift.max == pytest.approx(0.4)

    def test_the_budget_grows_with_the_scale(self) -> None:
        scores = [{"a": 1.0}]
        drift = score_drift(scores, scores, precision="bf16", scale_width=12.0)

        assert drift.budget_rms == pytest.approx(2 * BUDGETS["bf16"].rms)
        assert drift.budget_max == pytest.approx(2 * BUDGETS["bf16"].max)

    @pytest.mark.parametrize("at", [0, 1])
    def test_a_nan_is_never_within_budget(self, at: int) -> None:
        ours = [{"a": 1.0}, {"a": 1.0}]
        ours[at]["a"] = math.nan
        drift = score_drift([{"a": 1.0}, {"a": 1.0}], ours, precision="int4", scale_width=10.0)

        assert not drift.within_budget

    def test_nothing_in_common_is_an_error(self) -> None:
        with pytest.raises(DriftError, match="no recording"):
            score_drift([{"a": 1.0}], [None], precision="fp32", scale_width=10.0)
        with pytest.raises(DriftError, match="compared"):
            score_drift([{"a": 1.0}], [{"b": 1.0}], precision="fp32", scale_width=10.0)

    def test_log_mels_of_other_shapes_are_an_error(self) -> None:
        mel = np.zeros((80, 10), dtype=np.float32)

        assert log_mel_drift([mel], [mel + np.float32(5e-5)]).within_budget
        assert not log_mel_drift([mel], [mel + np.float32(2e-4)]).within_budget
        with pytest.raises(DriftError, match="compared"):
            log_mel_drift([mel], [mel[:, 1:]])


class TestGate:
    @pytest.mark.parametrize(
        ("precision", "offset", "passes"),
        # On a scale of width 6 the budgets hold as they are written.
        [
            ("fp32", 5e-5, True),
            ("fp32", 2e-4, False),
            ("int8", 0.019, True),
            ("int8", 0.021, False),
        ],
    )
    def test_refuses_what_drifts_past_the_budget(
        self, precision: str, offset: float, passes: bool
    ) -> None:
        worker = ScriptedWorker("x", [], offset=offset)
        verdict = gate(
            candidate(f"x/{precision}"),
            worker,
            [{"total": 5.0}] * 3,
            [Path("a"), Path("b"), Path("c")],
            scale_width=6.0,
        )

        assert isinstance(verdict, Drift if passes else Refused)

    def test_says_how_far_a_refused_one_was(self) -> None:
        worker = ScriptedWorker("x", [], offset=1.0)
        verdict = gate(candidate(), worker, [{"total": 5.0}], [Path("a")], scale_width=6.0)

        assert isinstance(verdict, Refused)
        assert verdict.drift is not None
        assert "RMS 1" in verdict.reason


class TestTurns:
    def run(self, rounds: int = 6) -> tuple[list[tuple[str, int, int]], dict[Candidate, Any]]:
        log: list[tuple[str, int, int]] = []
        workers = {candidate(name): ScriptedWorker(name, log) for name in ("a/fp32", "b/fp32")}
        task = Task("SingleStream", "5 s file", (Path("x.flac"),), 5.0, passes=3, rounds=rounds)
        return log, take_turns(workers, task)

    def test_every_candidate_has_one_turn_a_round(self) -> None:
        log, samples = self.run()

        for turn in range(6):
            names = [name for name, _, _ in log[2 + 2 * turn : 4 + 2 * turn]]
            assert sorted(names) == ["a/fp32", "b/fp32"]
        assert all(len(rounds) == 6 and len(rounds[0]) == 3 for rounds in samples.values())

    def test_the_order_changes_between_rounds(self) -> None:
        log, _ = self.run(rounds=20)
        firsts = {log[2 + 2 * turn][0] for turn in range(20)}

        assert firsts == {"a/fp32", "b/fp32"}

    def test_the_first_pass_of_all_is_dropped_and_turns_begin_untimed(self) -> None:
        log, samples = self.run()

        assert [entry[1:] for entry in log[:2]] == [(0, 1), (0, 1)]
        assert {entry[1:] for entry in log[2:]} == {(1, 3)}
        assert (
            min(value for rounds in samples.values() for turn in rounds for value in turn) > 1.002
        )


class TestRows:
    def test_the_faster_reference_is_the_one_compared_with(self) -> None:
        slow, fast, ours = make_rows()

        assert (slow["is_reference"], fast["is_reference"]) == (False, True)
        assert ours["reference"] == "fast"
        assert ours["speedup"]["median"] == pytest.approx(4.0)
        assert slow["speedup"]["median"] == pytest.approx(0.8)

    def test_throughput_and_raw_samples_stand_in_the_row(self) -> None:
        *_, ours = make_rows()

        assert ours["audio_hours_per_hour"] == pytest.approx(30.0 / 0.010)
        assert ours["samples_ms"] == [[10.0], [10.0]]
        assert ours["drift"]["rms"] == 0.001


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """Two seconds of noise: enough to be framed, nothing to be judged."""
    path = tmp_path / "noise.flac"
    rng = np.random.default_rng(7)
    soundfile.write(path, 0.1 * rng.standard_normal(32_000), 16_000)
    return path


class TestSpeech:
    def test_clips_have_exact_lengths(self, noise: Path, tmp_path: Path) -> None:
        speech = prepare_speech(
            noise,
            tmp_path,
            Wanted(clip_seconds=(1.0, 5.0), batch_size=2, batch_clip_s=3.0, drift_recordings=4),
        )

        lengths = {seconds: read_samples(path).size for seconds, path in speech.clips.items()}
        assert lengths == {1.0: 16_000, 5.0: 80_000}
        assert [read_samples(path).size for path in speech.batch] == [48_000, 48_000]
        assert speech.batch_s == 6.0
        assert "noise.flac" in speech.source

    def test_a_corpus_gives_clips_of_one_speaker(self, corpus: Path, tmp_path: Path) -> None:
        speech = prepare_speech(
            corpus / "train.jsonl",
            tmp_path,
            Wanted(clip_seconds=(30.0,), batch_size=3, batch_clip_s=4.0, drift_recordings=7),
        )

        assert read_samples(speech.clips[30.0]).size == 480_000
        assert len(speech.drift) == 7
        clips = [read_samples(path) for path in speech.batch]
        assert not any(np.array_equal(clips[0], other) for other in clips[1:])


class TestWorker:
    def test_scores_and_times_in_a_process_of_its_own(self, fake_bundle: Path, noise: Path) -> None:
        options = {"bundle": str(fake_bundle), "backend": "fake", "precision": "fp32", "threads": 1}
        worker = WorkerProcess("fake", "engine", options)
        try:
            worker.wait()
            task = Task("SingleStream", "noise", (noise,), 2.0)
            assert len(worker.scores([noise, noise])) == 2
            assert len(worker.measure(task.to_dict(), untimed=1, timed=3)) == 3
            stream = replace(task, scenario="TimeToScore", chunk_ms=300)
            assert len(worker.measure(stream.to_dict(), untimed=0, timed=1)) == 1
            closed = worker.close()
            assert closed["peak_rss_mb"] > 0
            assert set(closed["stages_ms"]) == {"decode", "features", "encoder", "head"}
        finally:
            worker.kill()

    def test_what_goes_wrong_inside_is_said_outside(self, tmp_path: Path) -> None:
        worker = WorkerProcess("broken", "engine", {"bundle": str(tmp_path / "none")})
        try:
            with pytest.raises(BackendError, match=r"broken: .*is not a bundle folder"):
                worker.wait()
        finally:
            worker.kill()

    def test_a_dead_worker_is_an_error_not_a_hang(self) -> None:
        worker = WorkerProcess("dead", "native-log-mel", {})
        worker.wait()
        worker.kill()

        with pytest.raises((BackendError, ValueError)):
            worker.scores([])


class TestColdRun:
    def test_measures_a_fresh_process_and_sees_what_it_imports(self, tmp_path: Path) -> None:
        cold = cold_run(["--version"], tmp_path, runs=2)

        assert len(cold["seconds"]) == 2
        assert cold["forbidden_imported"] == []
        # A bare interpreter takes some 10 MB; one that inherited this process's size, far more.
        assert 5 < cold["peak_rss_mb"] < 100

    def test_a_run_that_fails_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(BackendError, match=r"exit code 2: .*nonsense"):
            cold_run(["nonsense"], tmp_path, runs=1)

    def test_imports_are_read_from_the_interpreters_trace(self) -> None:
        trace = (
            "import time: self [us] | cumulative | imported package\n"
            "import time:       101 |        101 |   zipimport\n"
            "import time:        12 |      90000 | torch._C.util\n"
            "warning: import of transformers\n"
        )

        assert imported_packages(trace) == {"zipimport", "torch"}


def test_install_size_adds_files_and_skips_links(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_bytes(b"x" * 700)
    (tmp_path / "b").write_bytes(b"x" * 300)
    (tmp_path / "link").symlink_to(tmp_path / "b")

    assert folder_bytes(tmp_path) == 1000


def test_a_reference_that_cannot_run_ends_the_session(fake_bundle: Path, noise: Path) -> None:
    plan = Plan(noise, bundle=fake_bundle, variants=(("fake", "fp32"),)).smoke()

    with pytest.raises(BackendError, match="reference cannot run"):
        run_session(plan, command="asa-engine bench", progress=lambda line: None)


def test_candidates_are_named_by_backend_and_precision() -> None:
    assert parse_variants(["onnxruntime/int8", "torch/fp32"]) == (
        ("onnxruntime", "int8"),
        ("torch", "fp32"),
    )
    with pytest.raises(UsageError, match="backend/precision"):
        parse_variants(["onnxruntime"])
