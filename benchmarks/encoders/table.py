"""Rows, targets and the texts made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from asa_engine.measuring.statistics import paired_ratio
from asa_engine.pages import Bar, bar_chart, page, table

__all__ = ["check_targets", "render", "summary_lines"]

BEST_PEER = "openvino/bf16"
OURS = ("native/fp32", "native/bf16", "native/int8")
# Share of the peer's time, and the largest relative error, by our precision. For bf16 that is
# what OpenVINO bf16 has: 1.1 %, or its own error on the same windows where that is more.
GOALS = {"bf16": (0.90, 0.011), "int8": (0.75, 0.02)}
_WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
_MARKS = {True: ("met", "met"), False: ("missed", "NOT MET"), None: ("soft", "not measured")}

Row = Mapping[str, Any]


def check_targets(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Compare a result with what is to be reached; what was not measured stays open.

    Returns:
        Objects with `name`, `limit`, `figure` and `met` (true, false or null).
    """
    targets = []
    threads = sorted({row["threads"] for row in result["rows"]}) or [1]
    for count in threads:
        targets += [
            _share(result, 30.0, count, "bf16", against=BEST_PEER),
            _share(result, 30.0, count, "int8", against=BEST_PEER),
            _no_slower(result, count),
        ]
        for seconds in (10.0, 5.0):
            targets += [
                _share(result, seconds, count, "bf16", against=None),
                _share(result, seconds, count, "int8", against=None),
            ]
    targets += [_short_windows(result, count, name) for count in threads for name in OURS[1:]]
    targets += [_memory(result, name) for name in OURS]
    targets.append(_drift(result))
    return targets


def _row(result: Mapping[str, Any], seconds: float, threads: int, peer: str) -> Row | None:
    """The single-stream row of tiny.en, whose targets these are."""
    for row in result["rows"]:
        key = (row["model"], row["seconds"], row["streams"], row["threads"], row["peer"])
        if key == ("tiny.en", seconds, 1, threads, peer):
            return dict(row)
    return None


def _target(name: str, limit: str, figure: str = "", met: bool | None = None) -> dict[str, Any]:
    return {"name": name, "limit": limit, "figure": figure, "met": met}


def _share(
    result: Mapping[str, Any], seconds: float, threads: int, precision: str, *, against: str | None
) -> dict[str, Any]:
    goal, error = GOALS[precision]
    whom = "OpenVINO bf16" if against else "the fastest peer"
    name = f"tiny.en, {seconds:g} s, {_threads(threads)}: {precision} against {whom}"
    best = _row(result, seconds, threads, BEST_PEER)
    if precision == "bf16" and best is not None:
        error = max(error, best["relative_error"])
    limit = f"at most {goal:.2f} of its time, relative error at most {error:.2%}"
    ours = _row(result, seconds, threads, f"native/{precision}")
    peers = [
        row
        for row in result["rows"]
        if not row["peer"].startswith("native/")
        and (row["model"], row["seconds"], row["streams"], row["threads"])
        == ("tiny.en", seconds, 1, threads)
        and against in (None, row["peer"])
    ]
    if ours is None or not peers:
        return _target(name, limit)
    peer = min(peers, key=lambda row: float(row["p50_ms"]))
    share = _ratio(ours, peer)
    figure = f"{share:.2f} of {peer['peer']}, error {ours['relative_error']:.2%}"
    return _target(name, limit, figure, share <= goal and ours["relative_error"] <= error)


def _no_slower(result: Mapping[str, Any], threads: int) -> dict[str, Any]:
    name = f"tiny.en, 30 s, {_threads(threads)}: fp32 against OpenVINO fp32"
    ours = _row(result, 30.0, threads, "native/fp32")
    peer = _row(result, 30.0, threads, "openvino/fp32")
    if ours is None or peer is None:
        return _target(name, "no slower")
    share = _ratio(ours, peer)
    return _target(name, "no slower", f"{share:.2f} of its time", share <= 1.0)


def _short_windows(result: Mapping[str, Any], threads: int, peer: str) -> dict[str, Any]:
    name = f"tiny.en, {_threads(threads)}, {peer}: 10 s against 30 s"
    short, full = (_row(result, seconds, threads, peer) for seconds in (10.0, 30.0))
    if short is None or full is None:
        return _target(name, "at most 0.30 of its time")
    share = short["p50_ms"] / full["p50_ms"]
    return _target(name, "at most 0.30 of its time", f"{share:.2f}", share <= 0.30)


def _drift(result: Mapping[str, Any]) -> dict[str, Any]:
    name = "tiny.en, native/int8: score drift RMS on a scale of width 6"
    row = next((r for r in result["rows"] if (r["model"], r["peer"]) == ("tiny.en", OURS[2])), None)
    if row is None or row["drift_rms"] is None:
        return _target(name, "at most 0.02")
    return _target(name, "at most 0.02", f"{row['drift_rms']:.4f}", row["drift_rms"] <= 0.02)


def _memory(result: Mapping[str, Any], peer: str) -> dict[str, Any]:
    name = f"tiny.en, 30 s, one thread, {peer}: memory that loading and encoding add, at the peak"
    row = _row(result, 30.0, 1, peer)
    if row is None:
        return _target(name, "at most the weights + 40 MB")
    weights = _WEIGHT_BYTES[row["precision"]] * result["parameters"]["tiny.en"] / 1e6
    limit = f"at most the weights + 40 MB = {weights + 40:.0f} MB"
    return _target(name, limit, f"{row['memory_mb']:.0f} MB", row["memory_mb"] <= weights + 40)


def _ratio(ours: Row, peer: Row) -> float:
    """Our time / the peer's, the median over rounds."""
    return 1.0 / paired_ratio(_rounds(peer), _rounds(ours)).median


def _rounds(row: Row) -> list[list[float]]:
    return [[sample] for sample in row["samples_ms"]]


def _threads(count: int) -> str:
    return "one thread" if count == 1 else f"{count} threads"


def summary_lines(result: Mapping[str, Any]) -> list[str]:
    """Return the result as lines of text: every row, then the targets."""
    table = [_HEAD, *(_cells(row) for row in result["rows"])]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(_HEAD))]
    lines = [
        "  ".join(
            cell.ljust(width) if column in _TEXT_COLUMNS else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in table
    ]
    lines += ["", "targets"]
    for target in result["targets"]:
        said = _MARKS[target["met"]][1]
        lines.append(f"  {said:12}  {target['name']}: {target['limit']}; {target['figure'] or '-'}")
    lines += [f"not timed: {entry['what']}: {entry['why']}" for entry in result["not_timed"]]
    return [*lines, *(f"warning: {text}" for text in result["warnings"])]


_HEAD = (
    "model", "window", "streams", "threads", "peer", "p50 ms", "p90 ms", "windows/s",
    "x PyTorch", "error", "drift RMS", "CPU ms", "cores", "memory", "way",
)  # fmt: skip
_TEXT_COLUMNS = frozenset({0, 4, 14})


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row["model"],
        f"{row['seconds']:g} s",
        str(row["streams"]),
        str(row["threads"]),
        row["peer"],
        f"{row['p50_ms']:.1f}",
        f"{row['p90_ms']:.1f}",
        f"{row['windows_per_s']:.2f}",
        f"{row['speedup']['median']:.2f}",
        f"{row['relative_error']:.1e}",
        "-" if row["drift_rms"] is None else f"{row['drift_rms']:.1e}",
        f"{row['p50_cpu_ms']:.1f}",
        f"{row['cores_used']:.2f}",
        f"{row['memory_mb']:.0f} MB",
        row["way"],
    )


def render(result: Mapping[str, Any]) -> str:
    """Return one self-contained HTML page: no scripts, no addresses."""
    host = result["host"]
    title = f"Whisper encoders on {host['cpu']}, {host['cores']} cores"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(result["made"])} · <code>{escape(result["command"])}</code> · '
        f"revision {escape(result['revision'] or 'unknown')}</p>",
        *(f'<p class="warning">{escape(text)}</p>' for text in result["warnings"]),
        f"<p>{escape(result['method'])}</p>",
        "<h2>Targets</h2>",
        table(("what", "target", "figure", ""), [_target_cells(t) for t in result["targets"]]),
        *_charts(result["rows"]),
        "<h2>All figures</h2>",
        table(_HEAD, [tuple(map(escape, _cells(row))) for row in result["rows"]]),
        "<h2>Not timed</h2>",
        table(
            ("what", "why"),
            [(escape(entry["what"]), escape(entry["why"])) for entry in result["not_timed"]],
        ),
        "<h2>Host and versions</h2>",
        table(("", ""), _host_cells(result)),
    ]
    return page(title, body)


def _target_cells(target: Mapping[str, Any]) -> tuple[str, ...]:
    style, said = _MARKS[target["met"]]
    texts = (target["name"], target["limit"], target["figure"] or "-")
    return (*map(escape, texts), f'<span class="{style}">{said.lower()}</span>')


def _charts(rows: Sequence[Row]) -> list[str]:
    groups: dict[tuple[str, float, int, int], list[Row]] = {}
    for row in rows:
        key = (row["model"], row["seconds"], row["streams"], row["threads"])
        groups.setdefault(key, []).append(row)
    parts = ["<h2>Times</h2>", '<p class="soft">Median; dots are single passes.</p>']
    for (model, seconds, streams, threads), group in groups.items():
        many = "" if streams == 1 else f", {streams} streams at once"
        title = f"{model}, {seconds:g} s window{many}, {_threads(threads)}"
        bars = [
            Bar(
                label=row["peer"],
                note=f"error {row['relative_error']:.1e}{_drift_note(row)}",
                value=row["p50_ms"],
                text=f"{row['p50_ms']:.3g} ms",
                samples=tuple(row["samples_ms"]),
                mark="chosen" if row["peer"].startswith("native/") else "other",
            )
            for row in sorted(group, key=lambda row: float(row["p50_ms"]))
        ]
        chart = bar_chart(title, bars, "ms")
        parts.append(f"<h3>{escape(title)}</h3><figure>{chart}</figure>")
    return parts


def _drift_note(row: Row) -> str:
    return "" if row["drift_rms"] is None else f", drift RMS {row['drift_rms']:.1e}"


def _host_cells(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    host = result["host"]
    versions = {row["library"]: row["version"] for row in result["rows"]}
    pairs = {
        "CPU": f"{host['cpu']}, {host['cores']} cores at hand",
        "instruction sets": " ".join(host["cpu_flags"]),
        "caches": ", ".join(f"{level} {size}" for level, size in host["caches"].items()),
        "memory": f"{host['memory_gib']} GiB",
        "system": host["system"],
        "Python": host["python"],
        "peers": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "native kernels use": host["kernel_isa"],
        "load before, after": f"{host['load_average']}, {host['load_average_after']}",
        "speech": result["speech"],
    }
    return [(escape(name), escape(value)) for name, value in pairs.items()]
