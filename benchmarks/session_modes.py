"""What the ways of reading a session cost, and what they do to its scores.

    python benchmarks/session_modes.py ../shared/data/speechocean762/train-sessions.jsonl \\
        build/bundles/s4-session [BUNDLE ...]

For every bundle of the session grader, on the sessions of speakers whose number is divisible by 5:
each mode that suits it, `speculative` with several tolerances. Scores are compared with the
bundle's own exact mode, windows are encoded once and shared, and times are CPU time of one thread.
--reference times the whole of PyTorch's work, encoder included.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import asa_engine as asa
from asa_engine.engine import Engine
from asa_engine.evaluation.metrics import pcc, rmse
from asa_engine.evaluation.sessions import Session, played, read_sessions
from asa_engine.evaluation.splits import session_split
from asa_engine.graders.speech_llm_session.runtime import SessionRun
from asa_engine.graders.speech_llm_session.stages import HeardWindow
from asa_engine.profiling import StageClock

TOLERANCES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
CHUNK_SAMPLES = 1600


class Once:
    """Stages whose windows are encoded once, however often they are heard."""

    def __init__(self, stages: Any) -> None:
        self._stages = stages
        self._heard: dict[bytes, HeardWindow] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stages, name)

    def hear(self, mel: NDArray[np.float32]) -> HeardWindow:
        """Encode a window, unless it was encoded before."""
        key = mel.tobytes()
        if key not in self._heard:
            self._heard[key] = self._stages.hear(mel)
        return self._heard[key]


class Outcome(NamedTuple):
    """One session in one mode."""

    scores: list[float]
    rows: int
    restarts: int
    rows_after: int
    ms_after: float


def outcome(engine: Engine, stages: Once, session: Session, mode: str, eps: float) -> Outcome:
    """Read a session as it would be streamed; what comes after its last sample is timed."""
    run = SessionRun(engine.config, stages, StageClock(), mode=mode, tolerance=eps)
    responses = [(part.name, r) for part in session.parts for r in part.responses]
    for index, (part, recordings) in enumerate(responses):
        run.begin(part)
        samples = np.concatenate(list(played(recordings)))
        for start in range(0, len(samples), CHUNK_SAMPLES):
            run.push(samples[start : start + CHUNK_SAMPLES])
        if index + 1 < len(responses):
            run.end()
    reading: Any = run.reading
    before, start_s = reading.rows_run, time.thread_time()
    run.end()
    grade = run.finish()
    ms_after = 1e3 * (time.thread_time() - start_s)
    if grade is None:
        raise SystemExit(f"session {session.name} cannot be scored")
    scores = [grade.scores[aspect.name].value for aspect in engine.config.aspects]
    return Outcome(scores, reading.rows_run, reading.restarts, reading.rows_run - before, ms_after)


def measure(bundle: Path, sessions: list[Session], precision: str) -> list[dict[str, Any]]:
    """Return a row for each mode of a bundle."""
    engine = asa.load(bundle, backend="onnxruntime", precision=precision, threads=1)
    late = engine.config.prior.position == "last"
    modes = [("late", 0.0)] if late else [("deferred", 0.0)]
    if not late:
        modes += [("speculative", tolerance) for tolerance in TOLERANCES]
    stages = Once(engine._stages)
    wanted = np.array([session.scores["overall"] for session in sessions])
    rows: list[dict[str, Any]] = []
    exact: NDArray[np.float64] | None = None
    for mode, tolerance in modes:
        for session in sessions if exact is None else ():
            outcome(engine, stages, session, mode, tolerance)  # windows are encoded here
        outcomes = [outcome(engine, stages, session, mode, tolerance) for session in sessions]
        scores = np.array([item.scores for item in outcomes])
        exact = scores if exact is None else exact
        change = scores - exact
        rows.append(
            {
                "bundle": bundle.name,
                "precision": precision,
                "mode": mode,
                "tolerance": tolerance,
                "sessions": len(sessions),
                "rms_change": float(np.sqrt(np.mean(change**2))),
                "max_change": float(np.abs(change).max()),
                "pcc": pcc(scores[:, -1], wanted),
                "rmse": rmse(scores[:, -1], wanted),
                "rows": float(np.mean([item.rows for item in outcomes])),
                "restarts": float(np.mean([item.restarts for item in outcomes])),
                "rows_after": float(np.mean([item.rows_after for item in outcomes])),
                "ms_after_median": float(np.median([item.ms_after for item in outcomes])),
            }
        )
        print(line(rows[-1]), flush=True)
    return rows


def reference(bundle: Path, sessions: list[Session]) -> dict[str, Any]:
    """Return a row for PyTorch at fp32, which does all of its work after the end."""
    engine = asa.load(bundle, backend="torch", precision="fp32", threads=1)
    times = []
    for session in sessions[:1] + sessions:  # the first one warms up
        run = SessionRun(engine.config, engine._stages, StageClock())
        start_s = time.thread_time()
        for part in session.parts:
            for recordings in part.responses:
                run.begin(part.name)
                run.push(np.concatenate(list(played(recordings))))
                run.end()
        run.finish()
        times.append(1e3 * (time.thread_time() - start_s))
    row = {"bundle": bundle.name, "mode": "torch/fp32", "sessions": len(sessions)}
    row["ms_after_median"] = float(np.median(times[1:]))
    print(f"| {bundle.name} | PyTorch fp32, all of it {'| ' * 7}| {row['ms_after_median']:.0f} |")
    return row


def line(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    name = row["mode"] + (f", {row['tolerance']:g}" if row["mode"] == "speculative" else "")
    return (
        f"| {row['bundle']} | {name} | {row['rms_change']:.4f} | {row['max_change']:.4f} "
        f"| {row['pcc']:.4f} | {row['rmse']:.3f} | {row['rows']:.0f} | {row['restarts']:.1f} "
        f"| {row['rows_after']:.0f} | {row['ms_after_median']:.0f} |"
    )


def main() -> None:
    """Print the table; write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sessions", type=Path)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--reference", action="store_true", help="time PyTorch, too")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    args = parser.parse_args()
    sessions = session_split(read_sessions(args.sessions))[1][: args.limit]
    print(
        "| bundle | mode | RMS change | max | PCC | RMSE | positions run | restarts "
        "| after the end | CPU ms after the end |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    rows = []
    for bundle in args.bundles:
        if args.reference:
            rows.append(reference(bundle, sessions))
        rows += measure(bundle, sessions, args.precision)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
