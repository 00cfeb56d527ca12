"""One self-contained HTML page from a result: no scripts, no addresses, light and dark."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from asa_engine.bench.roofline import roofline_chart
from asa_engine.files import atomic_write
from asa_engine.pages import Bar, bar_chart, page, table

__all__ = ["compact_json", "render", "write_result"]

_MARKS = {True: ("met", "met"), False: ("missed", "not met"), None: ("soft", "not measured")}
_TIME_TO_SCORE_SHARE = 10.0

_METHOD = """\
Every candidate lives in a process of its own and sleeps while the others run. Before anything is
timed, its scores on real recordings are compared with PyTorch's at fp32; over the budget of its
precision it is refused. Then candidates take turns in random order, {rounds} rounds (half as many
for streams and lists), after a first pass that is dropped; a turn is one untimed pass and {passes}
timed ones (one for lists; one for streams, with no untimed pass: feeding them is one).
"times faster" is the median over rounds of reference time / candidate time, both from the same
round. The reference is the grader's own PyTorch module under inference_mode, with the engine's
decoder and native log-mel (faster than the extractor it was trained with), without the engine's
validity checks; window by window and with up to {reference_batch} equal windows a batch, whichever
is faster at the task. All times start at a file on disk and end at the scores. Streams are fed in
{chunk_ms} ms chunks; the last {paced_chunks} come at the speed of speech; time to score runs from
the last chunk to the scores. The reference cannot stream: its figure there is its whole-file time.
The engine has no such limit, but a stream whose last chunk closes a window has a whole window
left to encode: that worst case is in the list too."""


def write_result(result: Mapping[str, Any], folder: Path) -> Path:
    """Write <host>.json and <host>.html, each whole or not at all; return the page's path.

    Raises:
        UsageError: The folder cannot be written.
    """
    page = folder / f"{result['host_slug']}.html"
    atomic_write(page.with_suffix(".json"), compact_json(result).encode())
    atomic_write(page, render(result).encode())
    return page


def render(result: Mapping[str, Any]) -> str:
    """Return the page."""
    host, bundle = result["host"], result["bundle"]
    title = f"asa_engine on {host['cpu']}, {host['cores']} cores"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(result["made"])} · <code>{escape(result["command"])}</code> · '
        f"revision {escape(result['revision'] or 'unknown')} · bundle {escape(bundle['name'])} "
        f"{escape(bundle['version'])}, grader {escape(bundle['grader'])}, chosen by itself here: "
        f"<b>{escape(bundle['auto'] or 'nothing')}</b></p>",
        *(f'<p class="warning">{escape(text)}</p>' for text in result["warnings"]),
        "<h2>Targets</h2>",
        _targets(result["targets"]),
        *_scenario(result, "TimeToScore", "Time to score", "After the last sample of a stream."),
        *_scenario(result, "SingleStream", "SingleStream", "One file, from disk to scores."),
        *_scenario(result, "Offline", "Offline", "A list of recordings; longer bars are better."),
        *_scenario(result, "LogMel", "Log-mel", "Samples in memory, one thread."),
        *_stages(result["workers"]),
        *_roofline(result.get("roofline")),
        *_cold(result["cold_run"]),
        *_install(result["install"]),
        "<h2>All figures</h2>",
        _all_rows(result["rows"]),
        *_not_timed(result),
        "<h2>Host</h2>",
        _host(result),
        "<h2>Method</h2>",
        f"<p>{escape(_METHOD.format(**result['method']))}</p>",
        f"<p>Speech: {escape(result['speech']['source'])}.</p>",
    ]
    return page(title, body)


def compact_json(result: Mapping[str, Any]) -> str:
    """Return JSON with one row a line: the raw samples of a candidate stay together."""
    rows = ",\n  ".join(json.dumps(row) for row in result["rows"])
    text = json.dumps({**result, "rows": ["@rows"]}, indent=1)
    return text.replace('"@rows"', rows, 1) + "\n"


def _targets(targets: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for target in targets:
        style, said = _MARKS[target["met"]]
        rows.append(
            (
                escape(target["name"]),
                escape(target["limit"]),
                escape(target["figure"] or "-"),
                f'<span class="{style}">{said}</span>',
            )
        )
    return table(("what", "target", "figure", ""), rows)


def _scenario(result: Mapping[str, Any], scenario: str, title: str, lead: str) -> list[str]:
    """Charts of one scenario: one for each task and thread count, in the order they were run."""
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in result["rows"]:
        if row["scenario"] == scenario:
            groups.setdefault((row["task"], row["threads"]), []).append(row)
    if not groups:
        return []
    parts = [f"<h2>{title}</h2>", f'<p class="soft">{lead}</p>']
    for (task, threads), rows in groups.items():
        heading = f"{task}, {'one thread' if threads == 1 else f'{threads} threads'}"
        parts.append(f"<h3>{escape(heading)}</h3>")
        parts.append(
            f"<figure>{_chart(heading, rows, scenario, result['bundle']['auto'])}</figure>"
        )
    return parts


def _chart(heading: str, rows: Sequence[Mapping[str, Any]], scenario: str, auto: str) -> str:
    offline = scenario == "Offline"
    bars = []
    for row in rows:
        ratio = row["speedup"]["median"]
        samples = [sample for passes in row["samples_ms"] for sample in passes]
        speed = f"{row['audio_hours_per_hour']:.0f}" if offline else f"{_short(row['p50_ms'])} ms"
        mark = "reference" if row["is_reference"] else "other"
        bars.append(
            Bar(
                label=row["candidate"],
                note=_drift_note(row),
                value=row["audio_hours_per_hour"] if offline else row["p50_ms"],
                text=f"{speed}, reference" if row["is_reference"] else f"{speed}, {ratio:.2f} x",
                samples=tuple(
                    1e3 * row["audio_s"] / sample if offline else sample for sample in samples
                ),
                mark="chosen" if row["candidate"] == auto else mark,
            )
        )
    unit = "audio hours an hour" if offline else "ms, p50; dots are passes"
    if scenario != "TimeToScore":
        return bar_chart(heading, bars, unit)
    reference = next(row for row in rows if row["is_reference"])
    line = reference["p50_ms"] / _TIME_TO_SCORE_SHARE
    return bar_chart(heading, bars, unit, line=line, line_text="1/10 of the reference")


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _drift_note(row: Mapping[str, Any]) -> str:
    drift = row["drift"]
    if drift is None:
        return "what the others are compared with"
    return f"drift RMS {drift['rms']:.1e}, max {drift['max']:.1e} {drift['unit']}"


def _stages(workers: Sequence[Mapping[str, Any]]) -> list[str]:
    staged = [worker for worker in workers if worker["stages_ms"]]
    if not staged:
        return []
    names = list(staged[0]["stages_ms"])
    rows = [
        (
            escape(worker["candidate"]),
            str(worker["threads"]),
            *(f"{worker['stages_ms'][name]:.2f}" for name in names),
            f"{worker['peak_rss_mb']:.0f}",
        )
        for worker in staged
    ]
    head = ("candidate", "threads", *(f"{name} ms" for name in names), "peak MB")
    return [
        "<h2>Where the time goes</h2>",
        '<p class="soft">Medians at the longest files. Decoding includes the validity checks; '
        "memory is that of the candidate's process.</p>",
        table(head, rows, range(1, len(head))),
    ]


def _roofline(roofline: Mapping[str, Any] | None) -> list[str]:
    """Kernels under the roofs, a picture a variant; results of older runs have none."""
    if roofline is None:
        return []
    parts = [
        "<h2>Roofline</h2>",
        '<p class="soft">The native kernels on one thread, each a dot whose area is its share of '
        "the kernels' time, under what this machine was measured to reach: multiply-adds on "
        "registers alone, and copies, counted as bytes read and written. A kernel's bytes are its "
        "weights, inputs and outputs, each once a block of rows, whichever cache they come "
        "from.</p>",
    ]
    for variant in dict.fromkeys(row["variant"] for row in roofline["kernels"]):
        kernels = [row for row in roofline["kernels"] if row["variant"] == variant]
        chart = roofline_chart(f"Roofline of {variant}", roofline["roofs"], kernels)
        parts.append(f"<h3>{escape(variant)}</h3><figure>{chart}</figure>")
    return parts


def _cold(cold: Mapping[str, Any] | None) -> list[str]:
    if cold is None:
        return []
    named = ", ".join(cold["forbidden_imported"])
    return [
        "<h2>Cold run</h2>",
        f"<p><code>{escape(cold['command'])}</code> in a fresh process: median "
        f"{cold['p50_s']:.2f} s (from {min(cold['seconds']):.2f} to {max(cold['seconds']):.2f} s, "
        f"{len(cold['seconds'])} runs), at most {cold['peak_rss_mb']:.0f} MB resident, "
        f"{cold['packages_imported']} packages imported, "
        + (
            f"<b>{escape(named)}</b> among them.</p>" if named else "no torch, no transformers.</p>"
        ),
    ]


def _install(install: Mapping[str, Any] | None) -> list[str]:
    if install is None:
        return []
    rows = [(escape(name), f"{size:.1f}") for name, size in install["largest"].items()]
    return [
        "<h2>Run-time install</h2>",
        f"<p>{install['total_mb']:.0f} MB for the whole environment, "
        f"{install['without_installer_mb']:.0f} MB without pip.</p>",
        table(("folder", "MB"), rows, {1}),
    ]


def _all_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    head = (
        "scenario", "task", "candidate", "threads", "p50 ms", "p90 ms", "p99 ms", "n",
        "times faster", "quartiles", "drift RMS", "drift max",
    )  # fmt: skip
    cells = []
    for row in rows:
        drift, ratio = row["drift"], row["speedup"]
        cells.append(
            (
                escape(row["scenario"]),
                escape(row["task"]),
                escape(row["candidate"]) + (" (reference)" if row["is_reference"] else ""),
                str(row["threads"]),
                f"{row['p50_ms']:.2f}",
                f"{row['p90_ms']:.2f}",
                f"{row['p99_ms']:.2f}",
                str(row["n"]),
                f"{ratio['median']:.2f}",
                f"{ratio['q25']:.2f} to {ratio['q75']:.2f}",
                "-" if drift is None else f"{drift['rms']:.1e}",
                "-" if drift is None else f"{drift['max']:.1e}",
            )
        )
    return table(head, cells, range(3, len(head)))


def _not_timed(result: Mapping[str, Any]) -> list[str]:
    entries = [*result["refused"], *result["skipped"]]
    if not entries:
        return []
    rows = [(escape(entry["candidate"]), escape(entry["reason"])) for entry in entries]
    return ["<h2>Not timed</h2>", table(("candidate", "why"), rows)]


def _host(result: Mapping[str, Any]) -> str:
    host = result["host"]
    pairs = {
        "CPU": f"{host['cpu']}, {host['cores']} cores at hand",
        "instruction sets": " ".join(host["cpu_flags"]),
        "kernels use": host["kernel_isa"],
        "caches": ", ".join(f"{level} {size}" for level, size in host["caches"].items()),
        "memory": f"{host['memory_gib']} GiB",
        "system": host["system"],
        "Python": host["python"],
        "libraries": ", ".join(f"{name} {found}" for name, found in host["libraries"].items()),
        "load before, after": f"{host['load_average']}, {host['load_average_after']}",
    }
    rows = [(escape(name), escape(value)) for name, value in pairs.items()]
    return table(("", ""), rows)
