"""Times Whisper encoders of several runtimes in one run.

    python -m benchmarks.encoders.run --models tiny.en,base --seconds 30,10,5,4 --threads 1,2

Prepare models -> for each model and thread count: open every peer -> for each window: check every
peer's error, then time those that pass, turn by turn -> JSON and one HTML page.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from asa_engine.bench.report import compact_json
from asa_engine.errors import BackendError, UsageError
from asa_engine.files import atomic_write
from asa_engine.kernels.reference import log_mel
from asa_engine.measuring.host import describe_host, git_revision, host_slug, load_average
from asa_engine.measuring.speech import Wanted, find_source, prepare_speech, samples_in_memory
from benchmarks.command import exit_code
from benchmarks.encoders.models import export, prepare_model
from benchmarks.encoders.peers import NOT_TIMED, PEERS, REFERENCE, Files
from benchmarks.encoders.probe import Drift, prepare_drift
from benchmarks.encoders.rounds import (
    ERROR_BOUNDS,
    Findings,
    Task,
    relative_error,
    rows_of,
    take_turns,
)
from benchmarks.encoders.table import check_targets, render, summary_lines
from benchmarks.encoders.worker import PeerProcess

__all__ = ["main"]

# A sleeping worker should burn nothing; above this share of a core it disturbs the others.
MAX_IDLE_CPU_SHARE = 0.02
# The first model's single stream is what targets are about; the rest gets fewer rounds, so that
# the whole run stays short enough for a machine to be kept quiet.
OTHER_MODELS_ROUNDS = 5
MANY_STREAMS_ROUNDS = 3

METHOD = """\
Every peer lives in a process of its own, with the thread count stated, and sleeps while the others
run. All get the same weights and the same log-mel of real speech, in memory, and return hidden
states in memory. The 30 s window is the model's full window; shorter ones hold that much speech
and no padding, the positional table cut to them. Relative error is the Frobenius norm of the
difference from PyTorch fp32 over that of PyTorch fp32, on the windows that are timed; above its
bound (fp32 {fp32:.1%}, bf16 {bf16:.0%}, int8 {int8:.0%}) a peer is not timed. Then peers take
turns in random order, {rounds} rounds (at most {other} for models after the first, {many} with
several streams; `n` states it in each row); a turn is one timed
pass, after an untimed one where a pass is shorter than 250 ms. Several streams: that many windows
of different speech are there at once, and a pass encodes them all, in the way that was fastest
for the peer (one by one, as a batch, or copies with one thread each). "x PyTorch" is the median
over rounds of PyTorch fp32's time over the peer's. "CPU ms" is the median processor time of a pass
in all threads, which other work on the machine disturbs less; "cores" is it over wall time;
"memory" is what loading the library and encoding added at the peak. "drift RMS" is the RMS change
of a score, on a scale of width 6, that a linear probe gives to windows of 5 s of other
speakers: ridge regression from mean and deviation of the hidden states to experts' scores, fitted
once a model on fp32; a peer's drift is taken once a model, at the first thread count, in the
way that is fastest for many windows, after the timing."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    args = _parse(argv)

    def work() -> list[str]:
        result = _run(args, lambda line: print(f"encoders: {line}", file=sys.stderr, flush=True))
        target = args.output or Path("benchmarks/results") / f"encoders-{result['host_slug']}.json"
        atomic_write(target, compact_json(result).encode())
        atomic_write(target.with_suffix(".html"), render(result).encode())
        return [*summary_lines(result), f"written: {target} and {target.with_suffix('.html')}"]

    return exit_code("encoders", work)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.encoders.run", description=__doc__)
    parser.add_argument("--models", type=_list(str), default=("tiny.en", "base"))
    parser.add_argument("--seconds", type=_list(float), default=(30.0, 10.0, 5.0, 4.0))
    parser.add_argument("--threads", type=_list(int), default=(1, 2))
    parser.add_argument("--streams", type=_list(int), default=(1, 8))
    parser.add_argument(
        "--streams-seconds", type=_list(float), default=(5.0,), help="windows of several streams"
    )
    parser.add_argument("--repeats", type=int, default=15, help="rounds of turns")
    parser.add_argument("--peers", type=_list(str), default=tuple(PEERS), help="which to time")
    parser.add_argument("--data", type=Path, help="manifest or recording (default: what is found)")
    parser.add_argument("--python", type=Path, default=Path("build/peers-venv/bin/python"))
    parser.add_argument("--work", type=Path, default=Path("build/encoders"))
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.json")
    return parser.parse_args(argv)


def _list(kind: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    def parse(text: str) -> tuple[Any, ...]:
        return tuple(kind(part) for part in text.split(","))

    return parse


def _run(args: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    _check(args)
    host, started = describe_host(), time.monotonic()
    findings = Findings()
    for what, why in NOT_TIMED.items():
        findings.leave_out(what, why)
    if host.busy:
        findings.warnings.append(
            f"the machine was busy at the start (load {host.load_average[0]} on {host.cores} "
            "cores): times are a rough guide, ratios less so"
        )
    parameters = {}
    with tempfile.TemporaryDirectory(prefix="asa-encoders-") as scratch:
        folder = Path(scratch)
        source = args.data or find_source()
        speech = prepare_speech(
            source,
            folder,
            Wanted(
                clip_seconds=(),
                batch_size=max(8, *args.streams),
                batch_clip_s=max(*args.seconds, *args.streams_seconds),
                drift_recordings=1,
            ),
        )
        for name in args.models:
            model = prepare_model(name, args.python, args.work)
            parameters[name] = model.parameters
            files = export(model, args.python, say)
            mels = {
                (seconds, streams): _save_mels(
                    speech.batch[:streams], seconds, model.n_mels, folder / f"{name}-{seconds}"
                )
                for streams in sorted(args.streams)
                for seconds in (args.seconds if streams == 1 else args.streams_seconds)
            }
            drift = prepare_drift(
                source,
                speech.batch,
                model,
                threads=max(args.threads),
                target=folder / f"{name}-drift.npy",
            )
            if drift is None:
                say("the speech has no scores: drift is not measured")
            drifts: dict[str, float] = {}
            for threads in args.threads:
                say(f"{name}, {threads} thread(s): opening {len(args.peers)} peers")
                _group(args, name, threads, files, mels, folder, findings, drift, drifts, say)
            for row in findings.rows:
                if row["model"] == name:
                    row["drift_rms"] = drifts.get(row["peer"])
    result: dict[str, Any] = {
        "schema_version": 1,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _command(args),
        "revision": git_revision(Path(__file__).parent),
        "host_slug": host_slug(host),
        "host": {**host.to_dict(), "load_average_after": list(load_average())},
        "method": METHOD.format(
            **ERROR_BOUNDS,
            rounds=args.repeats,
            other=OTHER_MODELS_ROUNDS,
            many=MANY_STREAMS_ROUNDS,
        ),
        "speech": f"{source.parent.name}/{source.name}, joined into windows",
        "seconds_taken": round(time.monotonic() - started),
        "parameters": parameters,
        "rows": findings.rows,
        "not_timed": findings.not_timed,
        "warnings": findings.warnings,
    }
    result["targets"] = check_targets(result)
    return result


def _take_drifts(
    drift: Drift, peers: Mapping[str, PeerProcess], findings: Findings, drifts: dict[str, float]
) -> None:
    """Fill `drifts` with every peer's."""
    reference = peers[REFERENCE].prepare(drift.mel)[0]
    for name, peer in peers.items():
        try:
            drifts[name] = drift.probe.drift_rms(peer.prepare(drift.mel)[0], reference)
        except (BackendError, ValueError) as failure:
            findings.leave_out(f"{name}, score drift", str(failure))


def _check(args: argparse.Namespace) -> None:
    unknown = [name for name in args.peers if name not in PEERS]
    if unknown:
        raise UsageError(f"unknown peers {unknown}", hint=f"choose from {', '.join(PEERS)}")
    if REFERENCE not in args.peers:
        raise UsageError(f"{REFERENCE} must be among the peers: errors are taken against it")
    if not all(0.1 <= seconds <= 30.0 for seconds in (*args.seconds, *args.streams_seconds)):
        raise UsageError("windows are 0.1 to 30 s long")
    if min(*args.threads, *args.streams, args.repeats, 1) < 1:
        raise UsageError("threads, streams and repeats are at least 1")
    if not args.python.is_file():
        raise UsageError(
            f"there is no interpreter {args.python}",
            hint="make the peers' environment as benchmarks/encoders/README.md says",
        )


def _group(
    args: argparse.Namespace,
    model: str,
    threads: int,
    files: Files,
    mels: Mapping[tuple[float, int], Path],
    scratch: Path,
    findings: Findings,
    drift: Drift | None,
    drifts: dict[str, float],
    say: Callable[[str], None],
) -> None:
    """Time everything with one model and thread count: all peers are open meanwhile."""
    opened = {
        name: PeerProcess(
            args.python if PEERS[name].foreign else Path(sys.executable),
            name,
            files,
            threads,
            scratch,
        )
        for name in args.peers
    }
    try:
        peers = {}
        for name, peer in opened.items():
            try:
                peer.wait()
                peers[name] = peer
            except BackendError as failure:
                findings.leave_out(name, str(failure))
        for (seconds, streams), mel in mels.items():
            task = Task(model, seconds, streams, threads)
            findings.rows += _time(task, peers, mel, args, findings)
            say(f"{model}, {threads} thread(s): {streams} x {seconds:g} s done")
        if drift is not None and not drifts:
            _take_drifts(drift, peers, findings, drifts)  # last: so many windows take memory
            say(f"{model}: drift of scores done")
        for name, peer in peers.items():
            share = peer.close()["idle_cpu_share"]
            if share > MAX_IDLE_CPU_SHARE:
                findings.warnings.append(
                    f"{name} ({model}, {threads} threads) burnt {share:.0%} of a core while idle"
                )
    finally:
        for peer in opened.values():
            peer.kill()


def _time(
    task: Task,
    peers: Mapping[str, PeerProcess],
    mel: Path,
    args: argparse.Namespace,
    findings: Findings,
) -> list[dict[str, Any]]:
    """Check every peer's error on the windows, then time those within their bound."""
    if REFERENCE not in peers:
        raise BackendError(f"the reference {REFERENCE} cannot run here")
    reference, tried = peers[REFERENCE].prepare(mel)
    errors = {REFERENCE: 0.0}
    about = {REFERENCE: {**peers[REFERENCE].about, **tried}}
    for name in [name for name in peers if name != REFERENCE]:
        what = f"{name}, {task.model}, {task.streams} x {task.seconds:g} s, {task.threads} threads"
        try:
            states, tried = peers[name].prepare(mel)
            error = relative_error(states, reference)
        except (BackendError, ValueError) as failure:
            findings.leave_out(what, str(failure))
            continue
        bound = ERROR_BOUNDS[PEERS[name].precision]
        if not error <= bound:  # NaN is refused too
            findings.leave_out(what, f"refused: relative error {error:.2g}, bound {bound:.2g}")
            continue
        errors[name], about[name] = error, {**peers[name].about, **tried}
    try:
        samples = take_turns({name: peers[name] for name in errors}, _rounds(args, task))
    except BackendError as failure:
        findings.leave_out(str(task), f"a peer failed while it was timed: {failure}")
        return []
    return rows_of(task, samples, errors, about)


def _rounds(args: argparse.Namespace, task: Task) -> int:
    rounds: int = args.repeats
    if task.model != args.models[0]:
        rounds = min(rounds, OTHER_MODELS_ROUNDS)
    return rounds if task.streams == 1 else min(rounds, MANY_STREAMS_ROUNDS)


def _save_mels(recordings: Sequence[Path], seconds: float, n_mels: int, stem: Path) -> Path:
    """Write the log-mel [B, n_mels, T] of the first seconds of each recording."""
    samples = round(seconds * 16_000)
    mels = [log_mel(samples_in_memory(path)[:samples], n_mels) for path in recordings]
    target = stem.with_name(f"{stem.name}-{len(mels)}.npy")
    np.save(target, np.stack(mels), allow_pickle=False)
    return target


def _command(args: argparse.Namespace) -> str:
    words = ["python -m benchmarks.encoders.run"]
    for name in ("models", "seconds", "threads", "streams", "streams-seconds"):
        values = getattr(args, name.replace("-", "_"))
        joined = ",".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)
        words.append(f"--{name} {joined}")
    if args.peers != tuple(PEERS):
        words.append(f"--peers {','.join(args.peers)}")
    return " ".join([*words, f"--repeats {args.repeats}"])


if __name__ == "__main__":
    sys.exit(main())
