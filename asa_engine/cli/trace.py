"""Chrome traces (chrome://tracing, Perfetto) of stages, native kernels and ONNX operators."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from asa_engine.files import atomic_write
from asa_engine.kernels.laps import TASK, Lap, Roofs
from asa_engine.profiling import Span

__all__ = [
    "STAGES_TRACK",
    "Pass",
    "kernel_events",
    "operator_events",
    "stage_events",
    "write_trace",
]

STAGES_TRACK: Final = 1
_KERNEL_TRACKS: Final = 10
_OPERATOR_TRACKS: Final = 100
_RUN: Final = "model_run"
_US: Final = 1e6


class Pass(NamedTuple):
    """One run over the recording.

    Attributes:
        name: "cold", or "warm" and its number.
        start_s: When it began, by `time.perf_counter`.
        end_s: When it ended.
        spans: Its scopes, in the order they ended.
    """

    name: str
    start_s: float
    end_s: float
    spans: list[Span]


def stage_events(passes: Sequence[Pass]) -> Iterator[dict[str, Any]]:
    """Yield passes and their stages as complete events; encoder spans carry their window."""
    for each in passes:
        yield _event(each.name, "pass", each.start_s, each.end_s, {})
        window = 0
        for span in each.spans:
            args = dict(span.args)
            if span.stage == "encoder":
                args["window"] = window
                window += 1
            yield _event(span.stage, "stage", span.start_s, span.end_s, args)


def kernel_events(laps: Iterable[Lap], roofs: Roofs) -> Iterator[dict[str, Any]]:
    """Yield layers, one a block of rows, and the kernels inside them, on a track a thread.

    A kernel says its GFLOP/s and GB/s, and its share of the roofs of one thread: of the peak of
    its precision, and of copies from memory (above one where a cache served it).
    """
    threads = set()
    for lap in laps:
        threads.add(lap.thread)
        if lap.step == TASK:
            name = f"layer {lap.layer}" if lap.layer >= 0 else "stem"
            yield _event(name, "layer", lap.start_s, lap.end_s, {}, _KERNEL_TRACKS + lap.thread)
            continue
        seconds = max(lap.end_s - lap.start_s, 1e-9)
        args = {
            "layer": lap.layer,
            "precision": lap.precision,
            "gflops": lap.operations / seconds / 1e9,
            "of_peak": lap.operations / seconds / roofs.peak(lap.precision),
            "gb_per_s": lap.bytes / seconds / 1e9,
            "of_memory": lap.bytes / seconds * roofs.threads / roofs.bytes_per_s["memory"],
        }
        yield _event(lap.step, "kernel", lap.start_s, lap.end_s, args, _KERNEL_TRACKS + lap.thread)
    for thread in sorted(threads):
        yield _track_name(_KERNEL_TRACKS + thread, f"native encoder, thread {thread}")


def operator_events(
    traces: Mapping[str, Path], spans: Iterable[Span], *, first_track: int = _OPERATOR_TRACKS
) -> Iterator[dict[str, Any]]:
    """Yield ONNX Runtime's own events, moved onto the clock of the spans.

    Args:
        traces: Stage -> the trace of the session that runs it.
        spans: All spans since the sessions were made.
        first_track: Thread number of the first operator track.
    """
    spans = list(spans)
    for index, (stage, path) in enumerate(traces.items()):
        events = [event for event in json.loads(path.read_text()) if event.get("ph") == "X"]
        runs = [event for event in events if event["name"] == _RUN]
        offset_us = _offset_us(runs, [span for span in spans if span.stage == stage])
        if offset_us is None:
            continue
        threads: dict[int, int] = {}
        for event in events:
            track = threads.setdefault(event["tid"], first_track + 50 * index + len(threads))
            yield {
                "name": event["name"],
                "cat": f"{stage} operators" if event["cat"] == "Node" else f"{stage} session",
                "ph": "X",
                "ts": event["ts"] + offset_us,
                "dur": event["dur"],
                "pid": os.getpid(),
                "tid": track,
                "args": event.get("args", {}),
            }
        for number, track in enumerate(threads.values()):
            yield _track_name(track, f"onnxruntime {stage}, thread {number}")


def _offset_us(runs: Sequence[Mapping[str, Any]], spans: Sequence[Span]) -> float | None:
    """Return what to add to ONNX Runtime's times: the middle of what every pair allows.

    Run k lies inside span k, so each pair bounds the offset between the clocks from both sides.
    """
    if not runs or len(runs) != len(spans):
        return None
    least = max(_US * span.start_s - run["ts"] for run, span in zip(runs, spans, strict=True))
    most = min(
        _US * span.end_s - run["ts"] - run["dur"] for run, span in zip(runs, spans, strict=True)
    )
    return float(least + most) / 2


def write_trace(path: Path, events: Iterable[dict[str, Any]], about: Mapping[str, Any]) -> None:
    """Write a trace whose times begin at zero.

    Raises:
        UsageError: The file cannot be written.
    """
    listed = list(events)
    start_us = min((event["ts"] for event in listed if "ts" in event), default=0.0)
    for event in listed:
        if "ts" in event:
            event["ts"] -= start_us
    listed.append(_track_name(STAGES_TRACK, "stages"))
    trace = {"traceEvents": listed, "displayTimeUnit": "ms", "otherData": dict(about)}
    atomic_write(path, json.dumps(trace).encode())


def _event(
    name: str,
    category: str,
    start_s: float,
    end_s: float,
    args: Mapping[str, Any],
    track: int = STAGES_TRACK,
) -> dict[str, Any]:
    return {
        "name": name,
        "cat": category,
        "ph": "X",
        "ts": _US * start_s,
        "dur": _US * (end_s - start_s),
        "pid": os.getpid(),
        "tid": track,
        "args": args,
    }


def _track_name(track: int, name: str) -> dict[str, Any]:
    return {
        "name": "thread_name",
        "ph": "M",
        "pid": os.getpid(),
        "tid": track,
        "args": {"name": name},
    }
