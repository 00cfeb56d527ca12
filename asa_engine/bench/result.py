"""The result of a run: one versioned JSON object, and the table printed from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from asa_engine.bench.targets import check_targets
from asa_engine.bundle import Bundle
from asa_engine.errors import BackendError
from asa_engine.measuring.harness import Refused, drift_values
from asa_engine.measuring.host import Host, git_revision, host_slug
from asa_engine.measuring.speech import Speech
from asa_engine.selection import choose

__all__ = ["SCHEMA_VERSION", "assemble", "schema", "summary_lines"]

SCHEMA_VERSION = 1
_SCHEMA_FILE = "result.schema.json"
# A sleeping worker should burn nothing; above this share of a core it disturbs the others.
_MAX_IDLE_CPU_SHARE = 0.02


def assemble(
    *,
    command: str,
    host: Host,
    load_after: tuple[float, ...],
    bundle: Bundle,
    speech: Speech,
    method: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    workers: Sequence[Mapping[str, Any]],
    refused: Sequence[Refused],
    skipped: Sequence[Mapping[str, str]],
    cold: Mapping[str, Any] | None,
    install: Mapping[str, Any] | None,
    roofline: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Put a result together; its targets are checked and its warnings written here."""
    result: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "revision": git_revision(Path(__file__).parent),
        "host_slug": host_slug(host),
        "host": {**host.to_dict(), "load_average_after": list(load_after)},
        "bundle": {
            "name": bundle.name,
            "version": bundle.version,
            "sha256": bundle.sha256,
            "grader": bundle.grader,
            "window_s": bundle.config.get("window_s"),
            "auto": _auto(bundle),
        },
        "speech": {
            "source": speech.source,
            "clip_seconds": sorted(speech.clips),
            "batch_s": speech.batch_s,
            "drift_recordings": len(speech.drift),
        },
        "method": dict(method),
        "rows": [dict(row) for row in rows],
        "workers": [dict(worker) for worker in workers],
        "refused": [_refused_values(entry) for entry in refused],
        "skipped": [dict(entry) for entry in skipped],
        "cold_run": None if cold is None else dict(cold),
        "install": None if install is None else dict(install),
        "roofline": None if roofline is None else dict(roofline),
    }
    result["targets"] = [target.to_dict() for target in check_targets(result)]
    result["warnings"] = _warnings(result, host)
    return result


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a result."""
    text = resources.files("asa_engine.bench").joinpath(_SCHEMA_FILE).read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def summary_lines(result: Mapping[str, Any]) -> list[str]:
    """Return the result as lines of text: a table of all rows, then the targets."""
    head = ("scenario", "task", "candidate", "thr", "p50 ms", "p99 ms", "x ref", "drift RMS", "max")
    table = [head, *(_cells(row) for row in result["rows"])]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 3 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in table
    ]
    if cold := result["cold_run"]:
        lines += ["", f"{cold['command']}: {cold['p50_s']:.2f} s, {cold['peak_rss_mb']:.0f} MB"]
    lines += ["", "targets"]
    for target in result["targets"]:
        mark = {True: "met", False: "NOT MET", None: "not measured"}[target["met"]]
        lines.append(f"  {mark:12}  {target['name']}: {target['limit']}; {target['figure'] or '-'}")
    lines += [f"refused: {entry['candidate']}: {entry['reason']}" for entry in result["refused"]]
    lines += [f"skipped: {entry['candidate']}: {entry['reason']}" for entry in result["skipped"]]
    return [*lines, *(f"warning: {text}" for text in result["warnings"])]


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    drift = row["drift"]
    return (
        row["scenario"],
        row["task"],
        row["candidate"] + (" *" if row["is_reference"] else ""),
        str(row["threads"]),
        f"{row['p50_ms']:.2f}",
        f"{row['p99_ms']:.2f}",
        f"{row['speedup']['median']:.2f}",
        "-" if drift is None else f"{drift['rms']:.1e}",
        "-" if drift is None else f"{drift['max']:.1e}",
    )


def _auto(bundle: Bundle) -> str:
    """What the engine chooses here when nothing is asked for; "" if nothing can run."""
    try:
        choice = choose(bundle)
    except BackendError:
        return ""
    return f"{choice.backend}/{choice.precision}"


def _refused_values(refused: Refused) -> dict[str, Any]:
    return {
        "candidate": refused.candidate,
        "threads": refused.threads,
        "reason": refused.reason,
        "drift": None if refused.drift is None else drift_values(refused.drift),
    }


def _warnings(result: Mapping[str, Any], host: Host) -> list[str]:
    warnings = []
    if host.busy:
        warnings.append(
            f"the machine was busy at the start (load {host.load_average[0]} on {host.cores} "
            "cores): times are a rough guide, ratios less so"
        )
    warnings += [
        f"{worker['candidate']} burnt {worker['idle_cpu_share']:.0%} of a core while others ran"
        for worker in result["workers"]
        if worker["idle_cpu_share"] > _MAX_IDLE_CPU_SHARE
    ]
    few = min((row["n"] for row in result["rows"]), default=0)
    if 0 < few < 100:
        warnings.append(f"p99 rests on as few as {few} passes: it is close to the slowest of them")
    return warnings
