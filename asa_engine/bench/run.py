"""One benchmark run, top to bottom: plan -> workers -> drift gate -> turns -> result."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from asa_engine.bench import result as results
from asa_engine.bench.cold_run import cold_run
from asa_engine.bench.install_size import install_size
from asa_engine.bench.roofline import measure_roofline
from asa_engine.bundle import Bundle
from asa_engine.errors import BackendError, DriftError, UsageError
from asa_engine.evaluation.drift import Drift, log_mel_drift
from asa_engine.graders import grader_entry
from asa_engine.measuring.harness import Candidate, Refused, gate, rows_of, take_turns
from asa_engine.measuring.host import describe_host, load_average
from asa_engine.measuring.scenarios import Task
from asa_engine.measuring.speech import Speech, Wanted, prepare_speech
from asa_engine.measuring.worker import WorkerProcess
from asa_engine.runtimes import runtime

__all__ = ["Plan", "parse_variants", "run_session"]

Progress = Callable[[str], None]

CHUNK_MS = 100
# Most windows PyTorch encodes in one call: past this, one thread gains nothing more.
REFERENCE_BATCH = 16
SAME_WORDS = "PyTorch on the same words"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run, and how long.

    Attributes:
        source: A manifest or a recording, as in `prepare_speech`.
        bundle: Bundle folder; `None` for the one that ships.
        variants: (backend, precision) pairs to time; `None` for all that the bundle holds.
        threads: Thread counts, one group of candidates each.
        rounds: Turns a candidate has at SingleStream and LogMel; half as many at the longer tasks.
        passes: Timed passes a turn of SingleStream and LogMel.
        clip_seconds: Lengths of the SingleStream clips.
        stream_seconds: Lengths of the TimeToScore streams.
        batch_size: Recordings in the Offline list.
        batch_clip_s: Length of each of them.
        drift_recordings: Recordings to compare scores on.
        paced_chunks: Chunks before the last that come at the speed of speech.
        cold_clip_s: Length of the file of the cold run.
        cold_runs: Cold runs that count; 0 for none.
        install_source: Wheel or source tree whose install is sized; `None` for none.
    """

    source: Path
    bundle: Path | None = None
    variants: tuple[tuple[str, str], ...] | None = None
    threads: tuple[int, ...] = (1, 2)
    rounds: int = 20
    passes: int = 3
    clip_seconds: tuple[float, ...] = (5.0, 10.0, 30.0)
    stream_seconds: tuple[float, ...] = (28.0, 30.0)
    batch_size: int = 4
    batch_clip_s: float = 30.0
    drift_recordings: int = 50
    paced_chunks: int = 5
    cold_clip_s: float = 5.0
    cold_runs: int = 5
    install_source: str | None = None

    def smoke(self) -> Plan:
        """Return a plan that takes every path once; its figures mean nothing."""
        return replace(
            self,
            threads=self.threads[:1],
            rounds=2,
            passes=1,
            clip_seconds=(5.0,),
            stream_seconds=(5.0,),
            batch_size=2,
            batch_clip_s=5.0,
            drift_recordings=4,
            paced_chunks=1,
            cold_runs=1,
        )


@dataclass(slots=True)
class _Findings:
    """What a run has found so far."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    workers: list[dict[str, Any]] = field(default_factory=list)


def run_session(plan: Plan, *, command: str, progress: Progress) -> dict[str, Any]:
    """Run every scenario of a plan.

    Args:
        plan: What to run.
        command: The command line, for the result.
        progress: Called with one line for each step.

    Returns:
        The result, as `result.schema.json` describes it.

    Raises:
        AsaError: The bundle, the speech, or the reference is unusable.
    """
    bundle = Bundle.open(plan.bundle)
    host = describe_host()
    findings = _Findings()
    if host.busy:
        progress(f"the machine is busy (load {host.load_average[0]}): figures are a rough guide")
    with tempfile.TemporaryDirectory(prefix="asa-bench-") as scratch:
        folder = Path(scratch)
        progress("preparing speech")
        speech = prepare_speech(
            plan.source,
            folder,
            Wanted(
                clip_seconds=sorted({*plan.clip_seconds, *plan.stream_seconds, plan.cold_clip_s}),
                batch_size=plan.batch_size,
                batch_clip_s=plan.batch_clip_s,
                drift_recordings=plan.drift_recordings,
            ),
        )
        variants = _usable(bundle, plan.variants, findings)
        for threads in plan.threads:
            _time_graders(plan, bundle, variants, speech, threads, findings, progress)
        _time_extractors(plan, speech, folder, findings, progress)
        cold = None
        if plan.cold_runs:
            progress("ColdRun")
            arguments = ["assess", str(speech.clips[plan.cold_clip_s])]
            arguments += [] if plan.bundle is None else ["--bundle", str(plan.bundle)]
            cold = cold_run(arguments, folder, runs=plan.cold_runs)
        roofline = None
        if native := [precision for backend, precision in variants if backend == "native"]:
            progress("Roofline")
            clip = speech.clips[max(plan.clip_seconds)]
            roofline = measure_roofline(bundle, native, clip)
        install = None
        if plan.install_source is not None:
            progress("InstallSize")
            install = install_size(plan.install_source, folder)
    return results.assemble(
        command=command,
        host=host,
        load_after=load_average(),
        bundle=bundle,
        speech=speech,
        method=_method(plan),
        rows=findings.rows,
        workers=findings.workers,
        refused=findings.refused,
        skipped=findings.skipped,
        cold=cold,
        install=install,
        roofline=roofline,
    )


def _usable(
    bundle: Bundle, wanted: Sequence[tuple[str, str]] | None, findings: _Findings
) -> list[tuple[str, str]]:
    usable = []
    for backend, precision in bundle.variants() if wanted is None else wanted:
        state = runtime(backend).availability()
        if state.usable:
            usable.append((backend, precision))
        else:
            name = f"{backend}/{precision}"
            findings.skipped.append({"candidate": name, "reason": state.reason})
    return usable


def _time_graders(
    plan: Plan,
    bundle: Bundle,
    variants: Sequence[tuple[str, str]],
    speech: Speech,
    threads: int,
    findings: _Findings,
    progress: Progress,
) -> None:
    """Open all candidates at one thread count, gate them, time them, close them."""
    path = str(bundle.path)
    batched = grader_entry(bundle.grader).reference_many is not None
    references = _references(bundle, threads)
    engines = [
        Candidate(
            name=f"{backend}/{precision}",
            kind="engine",
            options={
                "bundle": path, "backend": backend, "precision": precision, "threads": threads
            },
            threads=threads,
            backend=backend,
            precision=precision,
        )
        for backend, precision in variants
        # Without a batched one, the reference is this very variant.
        if batched or (backend, precision) != ("torch", "fp32")
    ]  # fmt: skip
    progress(f"opening {len(references) + len(engines)} candidates, {_threads(threads)}")
    with _open_all([*references, *engines], findings) as workers:
        if not any(candidate in workers for candidate in references):
            raise BackendError(
                "the PyTorch reference cannot run here, so nothing can be compared",
                hint="; ".join(refused.reason for refused in findings.refused[:1]),
            )
        drifts = _gate_all(references, workers, bundle, speech, findings, progress)
        for task in _grading_tasks(plan, speech):
            progress(f"{task.scenario}, {task.label}, {_threads(threads)}")
            findings.rows += rows_of(task, take_turns(workers, task), drifts)


def _references(bundle: Bundle, threads: int) -> list[Candidate]:
    """Return what scores and speed are compared with; scores with the first of them.

    A reference that takes many windows at once is used in two ways. Another grader's is its whole
    PyTorch pipeline, whose recogniser need not hear the words that its exports hear; their scores
    are compared with PyTorch's on the same words.
    """
    options: dict[str, Any] = {"bundle": str(bundle.path), "threads": threads}
    kinds: list[tuple[str, str, dict[str, Any]]]
    if grader_entry(bundle.grader).reference_many is not None:
        kinds = [
            ("PyTorch reference, batched", "batched-reference", {"batch": REFERENCE_BATCH}),
            ("PyTorch reference, window by window", "batched-reference", {"batch": 1}),
        ]
    else:
        whole = {"backend": "torch", "precision": "fp32"}
        kinds = [
            (SAME_WORDS, "stages-reference", {}),
            ("PyTorch pipeline", "engine", whole),
        ]
    return [
        Candidate(name, kind, {**options, **special}, threads, "torch", "fp32", True)
        for name, kind, special in kinds
    ]


def _gate_all(
    references: Sequence[Candidate],
    workers: dict[Candidate, WorkerProcess],
    bundle: Bundle,
    speech: Speech,
    findings: _Findings,
    progress: Progress,
) -> dict[Candidate, Drift]:
    """Drop every candidate whose scores drift too far; return the drifts of the others."""
    truth, *others = [
        *(candidate for candidate in references if candidate in workers),
        *(candidate for candidate in workers if candidate not in references),
    ]
    aspects = grader_entry(bundle.grader).config(bundle.config).aspects
    width = min(aspect.scale_max - aspect.scale_min for aspect in aspects)
    progress(f"comparing scores on {len(speech.drift)} recordings")
    expected = workers[truth].scores(speech.drift)
    drifts: dict[Candidate, Drift] = {}
    if truth.name == SAME_WORDS:
        workers.pop(truth).close()
        others = [candidate for candidate in others if not candidate.is_reference]
    for candidate in others:
        verdict = gate(candidate, workers[candidate], expected, speech.drift, scale_width=width)
        if isinstance(verdict, Refused):
            progress(f"refused: {candidate.name}: {verdict.reason}")
            findings.refused.append(verdict)
            workers.pop(candidate).close()
        else:
            drifts[candidate] = verdict
    return drifts


def _grading_tasks(plan: Plan, speech: Speech) -> list[Task]:
    fewer = max(2, plan.rounds // 2)
    single = [
        Task(
            "SingleStream",
            f"{s:g} s file",
            (speech.clips[s],),
            s,
            rounds=plan.rounds,
            passes=plan.passes,
        )
        for s in plan.clip_seconds
    ]
    streams = [
        Task(
            "TimeToScore",
            f"{s:g} s stream",
            (speech.clips[s],),
            s,
            chunk_ms=CHUNK_MS,
            paced_chunks=plan.paced_chunks,
            rounds=fewer,
            untimed=0,
        )
        for s in plan.stream_seconds
    ]
    label = f"{len(speech.batch)} recordings of {plan.batch_clip_s:g} s"
    offline = Task("Offline", label, speech.batch, speech.batch_s, rounds=fewer)
    return [*single, *streams, offline]


def _time_extractors(
    plan: Plan, speech: Speech, folder: Path, findings: _Findings, progress: Progress
) -> None:
    native, reference = (
        Candidate(name, kind, options, 1, backend, "fp32", is_reference)
        for name, kind, options, backend, is_reference in (
            ("native kernel", "native-log-mel", {}, "native", False),
            ("WhisperFeatureExtractor", "hf-log-mel", {"threads": 1}, "transformers", True),
        )
    )
    lengths = sorted({min(plan.clip_seconds), max(plan.clip_seconds)})
    progress("LogMel")
    with _open_all([native, reference], findings) as workers:
        if len(workers) < 2:
            return
        ours, theirs = (
            [workers[c].log_mel(speech.clips[s], folder / "log_mel.npy") for s in lengths]
            for c in (native, reference)
        )
        try:
            drift = log_mel_drift(theirs, ours)
        except DriftError as error:
            findings.refused.append(Refused(native.name, 1, error.message))
            return
        if not drift.within_budget:
            reason = f"differs by up to {drift.max:.3g}; {drift.budget_max:.3g} is allowed"
            findings.refused.append(Refused(native.name, 1, reason, drift))
            return
        for seconds in lengths:
            clip = speech.clips[seconds]
            task = Task(
                "LogMel",
                f"{seconds:g} s clip",
                (clip,),
                seconds,
                rounds=plan.rounds,
                passes=plan.passes,
            )
            findings.rows += rows_of(task, take_turns(workers, task), {native: drift})


@contextlib.contextmanager
def _open_all(
    candidates: Sequence[Candidate], findings: _Findings
) -> Iterator[dict[Candidate, WorkerProcess]]:
    """Start all workers together; those that cannot open are refused, the rest are yielded."""
    started: dict[Candidate, WorkerProcess] = {}
    workers: dict[Candidate, WorkerProcess] = {}
    try:
        for candidate in candidates:
            name = f"{candidate.name} ({_threads(candidate.threads)})"
            started[candidate] = WorkerProcess(name, candidate.kind, dict(candidate.options))
        for candidate, worker in started.items():
            try:
                worker.wait()
            except BackendError as error:
                findings.refused.append(Refused(candidate.name, candidate.threads, str(error)))
            else:
                workers[candidate] = worker
        yield workers
        for candidate, worker in workers.items():
            findings.workers.append(_worker_values(candidate, worker.close()))
    finally:
        for worker in started.values():
            worker.kill()


def _worker_values(candidate: Candidate, closed: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "candidate": candidate.name,
        "threads": candidate.threads,
        "peak_rss_mb": round(closed["peak_rss_mb"], 1),
        "idle_cpu_share": round(closed["idle_cpu_s"] / max(closed["idle_s"], 1e-9), 5),
        "stages_ms": {stage: round(ms, 4) for stage, ms in closed["stages_ms"].items()},
    }


def _threads(threads: int) -> str:
    return "one thread" if threads == 1 else f"{threads} threads"


def _method(plan: Plan) -> dict[str, Any]:
    return {
        "rounds": plan.rounds,
        "passes": plan.passes,
        "chunk_ms": CHUNK_MS,
        "paced_chunks": plan.paced_chunks,
        "reference_batch": REFERENCE_BATCH,
    }


def parse_variants(names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Parse "backend/precision" names.

    Raises:
        UsageError: A name has another form.
    """
    pairs = [name.split("/") for name in names]
    for name, pair in zip(names, pairs, strict=True):
        if len(pair) != 2 or not all(pair):
            raise UsageError(f"{name!r} is not backend/precision", hint="e.g. onnxruntime/int8")
    return tuple((pair[0], pair[1]) for pair in pairs)
