"""Choose the fastest way to run a bundle on this device whose scores stay within a budget.

Every usable (backend, precision) of a bundle runs at every thread count in a process of its own.
First its scores on real recordings are compared with the reference's; over the budget it is not
timed. Then all take turns in random order. Where the native encoder can have a precision for each
layer, the best choice within the budget is searched first, and runs with the others as
native/mixed. What comes out is the bundle's `auto` order for this device, and the table it was
decided from.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from asa_engine.audio import SAMPLE_RATE_HZ
from asa_engine.bundle import WEIGHTS_NAME, Bundle
from asa_engine.errors import BackendError, DriftError
from asa_engine.evaluation.drift import SCALE_WIDTH, Scores, score_drift
from asa_engine.graders import MIXED, grader_entry
from asa_engine.measuring.harness import Candidate, take_turns
from asa_engine.measuring.host import describe_host
from asa_engine.measuring.scenarios import Task
from asa_engine.measuring.speech import read_samples
from asa_engine.measuring.statistics import summarise
from asa_engine.measuring.worker import WorkerProcess
from asa_engine.runtimes import runtime
from asa_engine.tuning.layer_search import LayerSearch, search_layers, searchable
from asa_engine.tuning.tuned_bundle import write_mixed, write_tuned

__all__ = ["Trial", "Tuning", "tune", "write_tuned"]

CHUNK_MS = 100
# A stream that ends in the middle of its second window: on average that much is left to encode.
STREAM_WINDOWS = 1.5
_WINDOW_OF_WORDS_S = 10.0  # of graders whose windows close at pauses

Variant = tuple[str, str]
"""(backend, precision)"""


@dataclass(frozen=True, slots=True)
class Trial:
    """One variant at one thread count.

    Attributes:
        backend: Key in `RUNTIMES`.
        precision: Precision of the encoder.
        threads: Threads it was given.
        drift_rms: Root mean square change of a score against the reference, in score points.
        drift_max: Largest change.
        fits: Whether the drift is within the budget.
        window_ms: Median time of one window, from a file on disk to its scores; `None` where the
            drift is over the budget, which is not timed.
        time_to_score_ms: Median time from the last chunk of a stream to its scores; likewise.
    """

    backend: str
    precision: str
    threads: int
    drift_rms: float
    drift_max: float
    fits: bool
    window_ms: float | None = None
    time_to_score_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was measured on this device.

    Attributes:
        bundle_sha256: Hash of the manifest of the bundle that was tuned.
        reference: "backend/precision" that scores were compared with.
        budget_rms: Largest RMS drift allowed, in score points of the grader's scale.
        recordings: Recordings that scores were compared on.
        window_s: Length of a window.
        rounds: Turns each trial had.
        cpu: The device.
        busy: Whether other work was under way on it, so that times are a rough guide.
        trials: Everything that ran, fastest window first, then what was over the budget.
        skipped: "backend/precision" or with its threads -> why it could not run.
        layers: How the precisions of native/mixed were found; `None` without such a search.
    """

    bundle_sha256: str
    reference: str
    budget_rms: float
    recordings: int
    window_s: float
    rounds: int
    cpu: str
    busy: bool
    trials: tuple[Trial, ...]
    skipped: Mapping[str, str]
    layers: LayerSearch | None = None

    @property
    def order(self) -> tuple[Variant, ...]:
        """Variants within the budget, the fastest first, each at its best thread count."""
        fitting = ((t.backend, t.precision) for t in self.trials if t.fits)
        return tuple(dict.fromkeys(fitting))

    @property
    def best(self) -> Trial | None:
        """The fastest trial within the budget; `None` if there is none."""
        return next((trial for trial in self.trials if trial.fits), None)

    def check(self) -> None:
        """Raise unless something fits.

        Raises:
            DriftError: No variant is within the budget.
        """
        if self.best is None:
            least = min((trial.drift_rms for trial in self.trials), default=float("nan"))
            raise DriftError(
                f"no variant's scores stay within RMS {self.budget_rms:.4g} points of "
                f"{self.reference}; the closest is at {least:.4g}",
                hint="allow more with --budget, or export at a higher precision",
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the table as JSON values."""
        return {**asdict(self), "order": [list(variant) for variant in self.order]}

    def lines(self) -> list[str]:
        """Return the table as lines of text."""
        lines = [
            f"{self.cpu}; {self.recordings} recordings compared with {self.reference}, budget RMS "
            f"{self.budget_rms:.4g} points; windows of {self.window_s:g} s; {self.rounds} rounds",
            f"{'variant':<22}{'threads':>8}{'window ms':>11}{'to score ms':>13}"
            f"{'drift RMS':>11}{'max':>9}",
        ]
        for trial in self.trials:
            times = "".join(
                f"{'-' if value is None else format(value, '.2f'):>{width}}"
                for value, width in ((trial.window_ms, 11), (trial.time_to_score_ms, 13))
            )
            lines.append(
                f"{trial.backend + '/' + trial.precision:<22}{trial.threads:>8}{times}"
                f"{trial.drift_rms:>11.1e}{trial.drift_max:>9.1e}"
                + ("" if trial.fits else "  over the budget")
            )
        if self.layers is not None and self.layers.layers:
            lines.append(f"native/mixed, layer by layer: {', '.join(self.layers.layers)}")
        if self.busy:
            lines.append("the machine was busy: tune again when it does nothing else")
        return [*lines, *(f"skipped {name}: {reason}" for name, reason in self.skipped.items())]


def tune(
    bundle: Bundle,
    recordings: Sequence[Path],
    *,
    budget: float,
    threads: Sequence[int],
    rounds: int = 15,
    progress: Callable[[str], None] = lambda line: None,
) -> Tuning:
    """Try every usable variant of a bundle at every thread count.

    Args:
        bundle: What to tune.
        recordings: Real speech; scores are compared on all of it, times taken on its beginning.
        budget: Largest RMS drift of a score, in points of a scale of width 6; it is scaled to
            the grader's own (the narrowest of its aspects).
        threads: Thread counts to try.
        rounds: Turns each trial has.
        progress: Called with one line for each step.

    Raises:
        BackendError: No variant can run here, or no reference.
        AudioError: A recording cannot be read.
    """
    host = describe_host()
    config = grader_entry(bundle.grader).config(bundle.config)
    width = min(aspect.scale_max - aspect.scale_min for aspect in config.aspects)
    budget_rms = budget * width / SCALE_WIDTH
    skipped: dict[str, str] = {}
    candidates = _candidates(bundle, threads, skipped)
    truth = _reference(bundle)
    layers: LayerSearch | None = None
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="asa-tune-"))
        if searchable(bundle):
            progress("searching precisions, layer by layer")
            layers = search_layers(bundle, recordings, budget_rms=budget_rms, progress=progress)
            if layers.layers:
                mixed = write_mixed(bundle, layers, Path(scratch) / "mixed")
                candidates += [_engine(mixed, "native", MIXED, count) for count in threads]
        progress(f"opening {len(candidates)} trials, reference {truth.name}")
        workers = stack.enter_context(_open([truth, *candidates], skipped))
        if truth not in workers:
            raise BackendError(f"the reference {truth.name} cannot run: {skipped[truth.name]}")
        progress(f"comparing scores on {len(recordings)} recordings")
        expected = workers.pop(truth)
        scores = expected.scores(recordings)
        expected.close()
        drifts = _drifts(workers, scores, recordings, width)
        window_s: float = getattr(config, "window_s", _WINDOW_OF_WORDS_S)
        timed = {c: w for c, w in workers.items() if drifts[_variant(c)][0] <= budget_rms}
        samples: dict[str, dict[Candidate, list[list[float]]]] = {}
        for task in _tasks(recordings, window_s, Path(scratch), rounds) if timed else ():
            progress(f"{task.label}: {len(timed)} trials take turns, {rounds} rounds")
            samples[task.scenario] = take_turns(timed, task)

    def median_ms(candidate: Candidate, scenario: str) -> float | None:
        if candidate not in timed:
            return None
        return summarise(samples[scenario][candidate]).p50_ms

    trials = [
        Trial(
            backend=candidate.backend,
            precision=candidate.precision,
            threads=candidate.threads,
            drift_rms=drifts[_variant(candidate)][0],
            drift_max=drifts[_variant(candidate)][1],
            fits=candidate in timed,
            window_ms=median_ms(candidate, "SingleStream"),
            time_to_score_ms=median_ms(candidate, "TimeToScore"),
        )
        for candidate in workers
    ]
    return Tuning(
        bundle_sha256=bundle.sha256,
        reference=truth.name,
        budget_rms=budget_rms,
        recordings=len(recordings),
        window_s=window_s,
        rounds=rounds,
        cpu=host.cpu,
        busy=host.busy,
        trials=tuple(sorted(trials, key=_rank)),
        skipped=skipped,
        layers=layers,
    )


def _candidates(bundle: Bundle, threads: Sequence[int], skipped: dict[str, str]) -> list[Candidate]:
    candidates = []
    for backend, precision in bundle.variants():
        if precision == MIXED:  # of an earlier tuning
            continue
        state = runtime(backend).availability()
        if not state.usable:
            skipped[f"{backend}/{precision}"] = state.reason
            continue
        candidates += [_engine(bundle, backend, precision, count) for count in threads]
    if not candidates:
        raise BackendError(
            f"no variant of {bundle.name} can run here",
            hint="; ".join(dict.fromkeys(skipped.values())),
        )
    return candidates


def _engine(bundle: Bundle, backend: str, precision: str, threads: int) -> Candidate:
    return Candidate(
        name=f"{backend}/{precision}, {threads} thread(s)",
        kind="engine",
        options={
            "bundle": str(bundle.path),
            "backend": backend,
            "precision": precision,
            "threads": threads,
        },
        threads=threads,
        backend=backend,
        precision=precision,
    )


def _reference(bundle: Bundle) -> Candidate:
    """PyTorch on the bundle's own weights where both are there, else an fp32 variant."""
    if (bundle.path / WEIGHTS_NAME).is_file() and find_spec("torch") is not None:
        options: dict[str, Any] = {"bundle": str(bundle.path), "threads": 1}
        return Candidate("torch/fp32", "stages-reference", options, 1, "torch", "fp32", True)
    exact = [backend for backend, precision in bundle.variants() if precision == "fp32"]
    usable = [b for b in exact if b != "torch" and runtime(b).availability().usable]
    if not usable:
        raise BackendError(
            f"{bundle.name} has nothing to compare with: neither PyTorch nor an fp32 variant runs",
            hint="pip install 'asa-engine[train]', or export the bundle at fp32",
        )
    backend = "onnxruntime" if "onnxruntime" in usable else usable[0]
    engine = _engine(bundle, backend, "fp32", 1)
    return Candidate(f"{backend}/fp32", engine.kind, engine.options, 1, backend, "fp32", True)


@contextlib.contextmanager
def _open(
    candidates: Sequence[Candidate], skipped: dict[str, str]
) -> Iterator[dict[Candidate, WorkerProcess]]:
    """Start all workers together; yield those that open, note why the others do not."""
    started: dict[Candidate, WorkerProcess] = {}
    workers: dict[Candidate, WorkerProcess] = {}
    try:
        for candidate in candidates:
            options = dict(candidate.options)
            started[candidate] = WorkerProcess(candidate.name, candidate.kind, options)
        for candidate, worker in started.items():
            try:
                worker.wait()
            except BackendError as error:
                skipped[candidate.name] = str(error)
            else:
                workers[candidate] = worker
        yield workers
    finally:
        for worker in started.values():
            worker.kill()


def _drifts(
    workers: Mapping[Candidate, WorkerProcess],
    expected: Sequence[Scores | None],
    recordings: Sequence[Path],
    width: float,
) -> dict[Variant, tuple[float, float]]:
    """RMS and largest change of each variant; the thread count does not change a score."""
    drifts: dict[Variant, tuple[float, float]] = {}
    for candidate, worker in workers.items():
        if _variant(candidate) in drifts:
            continue
        drift = score_drift(
            expected,
            worker.scores(recordings),
            precision=candidate.precision,
            scale_width=width,
        )
        drifts[_variant(candidate)] = drift.rms, drift.max
    return drifts


def _tasks(
    recordings: Sequence[Path], window_s: float, folder: Path, rounds: int
) -> tuple[Task, Task]:
    """One window as a file, and a stream of one and a half windows."""
    stream_s = STREAM_WINDOWS * window_s
    wanted = round(stream_s * SAMPLE_RATE_HZ)
    pieces: list[np.ndarray[Any, np.dtype[np.float32]]] = []
    while sum(piece.size for piece in pieces) < wanted:
        pieces.append(read_samples(recordings[len(pieces) % len(recordings)]))
    samples = np.concatenate(pieces)[:wanted]
    window, stream = folder / "window.flac", folder / "stream.flac"
    soundfile.write(window, samples[: round(window_s * SAMPLE_RATE_HZ)], SAMPLE_RATE_HZ)
    soundfile.write(stream, samples, SAMPLE_RATE_HZ)
    return (
        Task("SingleStream", f"a window of {window_s:g} s", (window,), window_s, rounds=rounds),
        Task(
            "TimeToScore",
            f"a stream of {stream_s:g} s",
            (stream,),
            stream_s,
            chunk_ms=CHUNK_MS,
            paced_chunks=1,
            rounds=rounds,
            untimed=0,
        ),
    )


def _variant(candidate: Candidate) -> Variant:
    return candidate.backend, candidate.precision


def _rank(trial: Trial) -> tuple[bool, float]:
    """Fitting trials by the time of a window, then the others by drift."""
    if trial.window_ms is None:
        return True, trial.drift_rms
    return False, trial.window_ms
