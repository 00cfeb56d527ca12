"""`asa-engine profile`: where the time goes, by stage and by window."""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asa_engine.cli.options import add_command, add_engine_options, add_json_option, positive_int
from asa_engine.cli.trace import (
    Pass,
    kernel_events,
    operator_events,
    stage_events,
    write_trace,
)
from asa_engine.errors import UsageError
from asa_engine.kernels.laps import measure_roofs, summarise_laps
from asa_engine.profiling import LapSource, Span, recording

if TYPE_CHECKING:
    from asa_engine.engine import Engine

STAGES = ("decode", "validity", "features", "encoder", "prior", "backbone", "head")
SHOWN_WINDOWS = 24
_REST = "rest"

DETAILS = """\
Scores the recording once cold (right after loading) and --repeat times warm, and prints the time of
every stage and window: cold, and the median of the warm runs. "rest" is time outside all stages.

With the native backend a second engine, which is watched so that the table above is not, tells
what each kernel did: its time in all threads together, and a thread's GFLOP/s, GB/s and share of
the peak of its precision, which is measured on this machine beforehand (multiply-adds on registers
alone). Rows that only pad are no work done.

--trace writes a trace of one cold and one warm run of such a second engine for chrome://tracing or
ui.perfetto.dev: stages, and every layer and kernel of the native backend with its rates, or every
operator of the onnxruntime backend.

examples:
  asa-engine profile answer.flac
  asa-engine profile answer.flac --backend onnxruntime --threads 1 --trace trace.json
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "profile", run, "Show where the time goes.", DETAILS)
    parser.add_argument("audio", type=Path, metavar="AUDIO", help="recording to score")
    parser.add_argument(
        "--repeat", type=positive_int, default=5, metavar="N", help="warm runs (default 5)"
    )
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write a Chrome trace")
    add_engine_options(parser)
    add_json_option(parser, "the profile")


def run(args: argparse.Namespace) -> int:
    """Print the profile; write the trace if asked for."""
    if args.trace is not None and not args.trace.absolute().parent.is_dir():
        raise UsageError(
            f"there is no folder {args.trace.absolute().parent}", hint="make it, or choose another"
        )
    engine, load_ms = _load(args)
    passes = measure(engine, args.audio, args.repeat)
    profile = {
        "audio": str(args.audio),
        "backend": engine.choice.backend,
        "precision": engine.choice.precision,
        "threads": engine.threads,
        "repeat": args.repeat,
        "load_ms": load_ms,
        **summarise(passes),
    }
    if args.trace is not None or engine.choice.backend == "native":
        profile |= _watch(args)
    print(json.dumps(profile) if args.json else table(profile))
    return 0


def _load(args: argparse.Namespace) -> tuple[Engine, float]:
    from asa_engine.engine import load

    start = time.perf_counter()
    engine = load(args.bundle, backend=args.backend, precision=args.precision, threads=args.threads)
    return engine, 1e3 * (time.perf_counter() - start)


def measure(
    engine: Engine, audio: Path, repeat: int, lap_sources: list[LapSource] | None = None
) -> list[Pass]:
    """Score the recording once cold and `repeat` times warm; the last argument is `recording`'s."""
    passes = []
    for number in range(repeat + 1):
        spans: list[Span] = []
        start = time.perf_counter()
        with recording(spans.append, lap_sources=lap_sources):
            engine.assess(audio)
        name = f"warm {number}" if number else "cold"
        passes.append(Pass(name, start, time.perf_counter(), spans))
    return passes


def summarise(passes: Sequence[Pass]) -> dict[str, Any]:
    """Return stages and windows of a cold pass and the warm ones after it, as JSON values.

    "Warm" is the one warm pass of median length, so that its stages add up. Of each stage:
    `cold_ms`, `warm_ms`, its `share` of the warm pass, its `calls` there, and `median_call_ms` over
    all warm passes; of each window: `features` and `encoder`, cold and warm. A stage's time is its
    own: scopes inside it are not counted twice.
    """
    cold, warm = passes[0], sorted(passes[1:], key=_length_ms)
    median = warm[(len(warm) - 1) // 2]
    cold_ms, warm_ms = _stage_totals(cold), _stage_totals(median)
    stages = []
    for name in sorted(warm_ms, key=_rank):
        calls = [span.own_ms for each in warm for span in each.spans if span.stage == name]
        stages.append(
            {
                "stage": name,
                "cold_ms": cold_ms.get(name, 0.0),
                "warm_ms": warm_ms[name],
                "share": warm_ms[name] / _length_ms(median),
                "calls": sum(span.stage == name for span in median.spans) or None,
                "median_call_ms": statistics.median(calls) if calls else None,
            }
        )
    return {
        "cold_ms": _length_ms(cold),
        "warm_ms": _length_ms(median),
        "stages": stages,
        "windows": _windows(cold, median),
    }


def _rank(stage: str) -> tuple[int, str]:
    """Order stages as the audio passes them; unknown ones follow, the rest comes last."""
    if stage in STAGES:
        return STAGES.index(stage), ""
    return len(STAGES) + (stage == _REST), stage


def _length_ms(each: Pass) -> float:
    return 1e3 * (each.end_s - each.start_s)


def _stage_totals(each: Pass) -> dict[str, float]:
    totals: dict[str, float] = {}
    for span in each.spans:
        totals[span.stage] = totals.get(span.stage, 0.0) + span.own_ms
    totals[_REST] = _length_ms(each) - sum(totals.values())
    return totals


def _windows(cold: Pass, warm: Pass) -> list[dict[str, Any]]:
    pairs = zip(_window_times(cold), _window_times(warm), strict=True)
    return [
        {
            "window": index,
            **args,
            "features_cold_ms": cold_features_ms,
            "features_ms": features_ms,
            "encoder_cold_ms": cold_encoder_ms,
            "encoder_ms": encoder_ms,
        }
        for index, (
            (args, cold_features_ms, cold_encoder_ms),
            (_, features_ms, encoder_ms),
        ) in enumerate(pairs)
    ]


def _window_times(each: Pass) -> list[tuple[dict[str, int], float, float]]:
    """Return (args, features ms, encoder ms) of every window: features since the one before."""
    rows, features_ms = [], 0.0
    for span in each.spans:
        if span.stage == "features":
            features_ms += span.own_ms
        elif span.stage == "encoder":
            rows.append((dict(span.args), features_ms, span.own_ms))
            features_ms = 0.0
    return rows


def _watch(args: argparse.Namespace) -> dict[str, Any]:
    """Score again in an engine that is watched; write the trace if asked for.

    Returns:
        `kernels` and `roofs`, as JSON values, where the backend tells them, and `trace`.
    """
    sources: list[LapSource] = []
    with tempfile.TemporaryDirectory() as folder:
        with recording(lambda span: None, operator_traces=Path(folder), lap_sources=sources):
            engine, _ = _load(args)
        # Where the backend tells of its kernels, those before it do so too.
        passes = measure(engine, args.audio, args.repeat if sources else 1, sources or None)
        laps = sorted((lap for source in sources for lap in source()), key=lambda lap: lap.start_s)
        about = {"audio": args.audio.name, **_about(engine)}
        files = _artifact_stems(engine)
        del engine
        gc.collect()  # a session writes its trace when it goes
        written = sorted(Path(folder).iterdir())
        traces = {
            stage: path
            for stage, stem in files.items()
            for path in written
            if path.name.startswith(f"{stem}_")
        }
        spans = [span for each in passes for span in each.spans]
        events = [*stage_events(passes[:2]), *operator_events(traces, spans)]
    watched: dict[str, Any] = {}
    if laps:
        roofs = measure_roofs(about["threads"])
        warm = [lap for lap in laps if lap.start_s >= passes[1].start_s]
        watched = {"roofs": roofs.to_dict(), "kernels": summarise_laps(warm, roofs)}
        events += kernel_events((lap for lap in laps if lap.end_s <= passes[1].end_s), roofs)
        about |= {"roofs": roofs.to_dict()}
    if args.trace is not None:
        write_trace(args.trace, events, about)
        watched["trace"] = str(args.trace)
    return watched


def _about(engine: Engine) -> dict[str, Any]:
    """Return what a trace says of the engine it is of."""
    return {
        "bundle": engine.bundle.name,
        "backend": engine.choice.backend,
        "precision": engine.choice.precision,
        "threads": engine.threads,
    }


def _artifact_stems(engine: Engine) -> dict[str, str]:
    choice = engine.choice
    return {
        stage: Path(name).stem
        for stage, by in engine.bundle.stages.items()
        if (name := by.get(choice.backend, {}).get(choice.precision))
    }


def table(profile: dict[str, Any]) -> str:
    """Return the profile as tables for people."""
    lines = [
        f"{Path(profile['audio']).name}: {profile['backend']} {profile['precision']}, "
        f"{profile['threads']} thread(s); warm: the median of {profile['repeat']} runs",
        "",
        f"{'stage':<10}{'cold ms':>10}{'warm ms':>10}{'share':>8}{'calls':>7}{'ms a call':>11}",
    ]
    for row in profile["stages"]:
        lines.append(
            f"{row['stage']:<10}{row['cold_ms']:>10.2f}{row['warm_ms']:>10.2f}"
            f"{row['share']:>8.1%}{_cell(row['calls'], 'd'):>7}"
            f"{_cell(row['median_call_ms'], '.3f'):>11}"
        )
    lines += [
        f"{'total':<10}{profile['cold_ms']:>10.2f}{profile['warm_ms']:>10.2f}",
        f"{'load':<10}{profile['load_ms']:>10.2f}",
    ]
    if profile["windows"]:
        lines += []
    if profile["windows"]:
        lines += [
            "",
            f"{'window':>6}{'frames':>8}{'features: cold ms':>19}{'warm ms':>9}"
            f"{'encoder: cold ms':>18}{'warm ms':>9}",
        ]
    for row in profile["windows"][:SHOWN_WINDOWS]:
        lines.append(
            f"{row['window']:>6}{_cell(row.get('frames'), 'd'):>8}{row['features_cold_ms']:>19.2f}"
            f"{row['features_ms']:>9.2f}{row['encoder_cold_ms']:>18.2f}{row['encoder_ms']:>9.2f}"
        )
    hidden = len(profile["windows"]) - SHOWN_WINDOWS
    if hidden > 0:
        lines.append(f"and {hidden} more; --json has them all")
    if "kernels" in profile:
        lines += ["", *_kernel_lines(profile)]
    if "trace" in profile:
        lines += ["", f"trace: {profile['trace']}"]
    return "\n".join(lines)


def _kernel_lines(profile: dict[str, Any]) -> list[str]:
    roofs, repeat = profile["roofs"], profile["repeat"]
    peaks = ", ".join(f"{p} {rate / 1e9:.0f}" for p, rate in roofs["operations_per_s"].items())
    copies = ", ".join(f"{at} {rate / 1e9:.0f}" for at, rate in roofs["bytes_per_s"].items())
    lines = [
        f"{'kernel':<18}{'':<6}{'warm ms':>8}{'share':>8}{'GFLOP/s':>9}{'of peak':>9}{'GB/s':>8}"
    ]
    for row in profile["kernels"]:
        percent = _cell(row["of_peak"], ".0%")
        lines.append(
            f"{row['kernel']:<18}{row['precision']:<6}{row['ms'] / repeat:>8.2f}"
            f"{row['share']:>8.1%}{row['gflops']:>9.1f}{percent:>9}{row['gb_per_s']:>8.1f}"
        )
    return [
        *lines,
        f"peaks of {roofs['threads']} thread(s), {roofs['isa']}: {peaks} GFLOP/s; copies, read "
        f"and written: {copies} GB/s",
    ]


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
