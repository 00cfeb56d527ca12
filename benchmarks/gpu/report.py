"""Targets, lines of text and one HTML page, from a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from asa_engine.pages import page, table

__all__ = ["DRY_WARNING", "check_targets", "render", "summary_lines"]

DRY_WARNING = (
    "DRY RUN ON A CPU. Tiny shapes, stand-ins for the kernels: no figure here is of a GPU, and "
    "none means anything."
)
COMPILED = ("torch-compile-bf16", "torch-compile-max-bf16")
_MARKS = {True: ("met", "met"), False: ("missed", "NOT MET"), None: ("soft", "not measured")}

Figures = Mapping[str, Any]


def check_targets(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Compare a result with what is to be reached; a dry run, or a missing figure, leaves it open.

    Returns:
        Objects with `name`, `limit`, `figure` and `met` (true, false or null).
    """
    peak = _only(result, "peaks", "bf16_tflops")
    ours, compiled = (
        _best(result, "encoder", "windows_per_s", size="large-v3", names=names)
        for names in (("ours-",), COMPILED)
    )
    share = _best(result, "encoder", "tflops", size="large-v3", names=("ours-",))
    quickest = _best(result, "latency", "p50_ms", names=("ours-",), lowest=True)
    uneven = _best(result, "ragged", "speech_s_per_s", size="large-v3", names=("ours-",))
    padded = _best(result, "ragged", "speech_s_per_s", size="large-v3", names=("torch-",))
    drift = _best(result, "drift", "rms", names=("ours-",), lowest=False)
    budget = _best(result, "drift", "budget_rms", names=("ours-",))
    differ = _best(result, "stability", "windows_that_differ", names=("ours-",))
    targets = [
        _ratio("large-v3, throughput against torch.compile's best bf16", ours, compiled, 1.2),
        _ratio("large-v3, share of the measured bf16 matrix peak", share, peak, 0.6),
        _most("shipped bundle, one window, audio in host memory to score, ms", quickest, 1.5),
        _ratio("windows of 1 to 30 s against the padded reference", uneven, padded, 2.5),
        _most("score drift RMS", drift, budget),
        _most("windows whose bits depend on their batch", differ, 0),
    ]
    if result["dry"]:
        targets = [{**target, "figure": "", "met": None} for target in targets]
    return targets


def _cells(result: Mapping[str, Any], section: str) -> list[tuple[Mapping[str, Any], Figures]]:
    return [
        (entry["cell"], entry["figures"])
        for entry in result["cells"].values()
        if entry["cell"]["section"] == section and "figures" in entry
    ]


def _only(result: Mapping[str, Any], section: str, name: str) -> float | None:
    return next((figures[name] for _, figures in _cells(result, section)), None)


def _best(
    result: Mapping[str, Any],
    section: str,
    name: str,
    *,
    names: Sequence[str],
    size: str | None = None,
    lowest: bool = False,
) -> float | None:
    figures_of = [
        figures[name]
        for cell, figures in _cells(result, section)
        if cell["contender"].startswith(tuple(names)) and size in (None, cell.get("size"))
    ]
    return (min if lowest else max)(figures_of, default=None)


def _target(name: str, limit: str, figure: str = "", met: bool | None = None) -> dict[str, Any]:
    return {"name": name, "limit": limit, "figure": figure, "met": met}


def _ratio(name: str, ours: float | None, theirs: float | None, least: float) -> dict[str, Any]:
    limit = f"at least {least:g}"
    if ours is None or not theirs:
        return _target(name, limit)
    return _target(name, limit, f"{ours / theirs:.3g}", ours / theirs >= least)


def _most(name: str, figure: float | None, most: float | None) -> dict[str, Any]:
    if figure is None or most is None:
        return _target(name, "within its budget" if most is None else f"at most {most:g}")
    return _target(name, f"at most {most:.3g}", f"{figure:.3g}", figure <= most)


_COLUMNS = {
    "peaks": ("bf16_tflops", "fp16_tflops", "copy_gb_s"),
    "encoder": ("n", "p50_ms", "p99_ms", "windows_per_s", "tflops", "share_of_peak",
                "share_of_copy", "relative_error"),
    "ragged": ("n", "p50_ms", "p99_ms", "speech_s", "speech_s_per_s", "padded"),
    "latency": ("n", "p50_ms", "p99_ms", "window_s"),
    "streams": ("streams", "p99_ms", "window_s"),
    "drift": ("recordings", "scale", "rms", "budget_rms", "max", "budget_max"),
    "stability": ("windows", "windows_that_differ"),
}  # fmt: skip


def _rows(result: Mapping[str, Any], section: str) -> list[list[str]]:
    peak, copy = (_only(result, "peaks", name) for name in ("bf16_tflops", "copy_gb_s"))
    rows = []
    for cell, found in _cells(result, section):
        figures = dict(found)
        if section == "encoder":
            figures["share_of_peak"] = figures["tflops"] / peak if peak else None
            figures["share_of_copy"] = figures["least_gb_s"] / copy if copy else None
        who = [str(cell.get(name, "")) for name in ("size", "contender", "batch")]
        if result["dry"]:
            who[1] += " (stand-in)"
        rows.append(who + [_text(figures.get(name)) for name in _COLUMNS[section]])
    return rows


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _head(section: str) -> list[str]:
    return ["size", "contender", "batch", *(name.replace("_", " ") for name in _COLUMNS[section])]


def summary_lines(result: Mapping[str, Any]) -> list[str]:
    """Return every figure, then the targets, as lines of text."""
    lines = [DRY_WARNING] if result["dry"] else []
    for section in _COLUMNS:
        if rows := _rows(result, section):
            table = [_head(section), *rows]
            widths = [max(map(len, column)) for column in zip(*table, strict=True)]
            lines += ["", section]
            lines += [
                "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
                for row in table
            ]
    lines += ["", "targets"]
    for target in result["targets"]:
        said = _MARKS[target["met"]][1]
        lines.append(f"  {said:12}  {target['name']}: {target['limit']}; {target['figure'] or '-'}")
    return lines + [f"not timed: {what}: {why}" for what, why in _not_timed(result)]


def _not_timed(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (key, entry["not_timed"]) for key, entry in result["cells"].items() if "not_timed" in entry
    ]


def render(result: Mapping[str, Any]) -> str:
    """Return one self-contained HTML page: no scripts, no addresses."""
    title = f"The acoustic grader on {result['gpu']['name']}"
    targets = [
        [
            *map(escape, (target["name"], target["limit"], target["figure"] or "-")),
            f'<span class="{_MARKS[target["met"]][0]}">{_MARKS[target["met"]][1].lower()}</span>',
        ]
        for target in result["targets"]
    ]
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(result["made"])} · <code>{escape(result["command"])}</code> · '
        f"revision {escape(result['revision'] or 'unknown')}</p>",
        *([f'<p class="warning">{escape(DRY_WARNING)}</p>'] if result["dry"] else []),
        "<h2>Targets</h2>",
        table(("what", "target", "figure", ""), targets),
    ]
    for section in _COLUMNS:
        if rows := _rows(result, section):
            cells = [list(map(escape, row)) for row in rows]
            body += [f"<h2>{section}</h2>", table(_head(section), cells)]
    about = {**result["gpu"], **result["libraries"], "CPU": result["host"]["cpu"]}
    body += [
        "<h2>Not timed</h2>",
        table(("what", "why"), [list(map(escape, pair)) for pair in _not_timed(result)]),
        "<h2>Machine and versions</h2>",
        table(("", ""), [[escape(str(k)), escape(str(v))] for k, v in about.items()]),
    ]
    return page(title, body)
