"""The native kernels under the roofs of this machine: measured, and drawn as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from asa_engine.bundle import Bundle
from asa_engine.engine import load
from asa_engine.kernels.laps import measure_roofs, summarise_laps
from asa_engine.profiling import LapSource, recording

__all__ = ["measure_roofline", "roofline_chart"]

_WIDTH, _HEIGHT = 900, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 150, 16, 40
_LABEL_HEIGHT = 13.0
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def measure_roofline(
    bundle: Bundle, precisions: Sequence[str], recording_path: Path, *, repeat: int = 3
) -> dict[str, Any] | None:
    """Watch the native backend's kernels at one thread, and measure what they could reach.

    Args:
        bundle: What to run.
        precisions: Precisions of the native backend.
        recording_path: Real speech.
        repeat: Times it is scored, after once unwatched.

    Returns:
        `roofs`, and `kernels`: rows of `summarise_laps` with the `variant` they belong to; `None`
        without a native backend or kernels that tell.
    """
    rows: list[dict[str, Any]] = []
    roofs = measure_roofs(1)
    for precision in precisions:
        sources: list[LapSource] = []
        with recording(lambda span: None, lap_sources=sources):
            engine = load(bundle, backend="native", precision=precision, threads=1)
        engine.assess(recording_path)
        for source in sources:
            source()  # of the cold run
        for _ in range(repeat):
            engine.assess(recording_path)
        laps = [lap for source in sources for lap in source()]
        rows += [{"variant": f"native/{precision}", **row} for row in summarise_laps(laps, roofs)]
    return {"roofs": roofs.to_dict(), "kernels": rows} if rows else None


def roofline_chart(
    title: str, roofs: Mapping[str, Any], kernels: Sequence[Mapping[str, Any]]
) -> str:
    """Draw kernels under the roofs (Williams et al. 2009), both axes logarithmic.

    Args:
        title: For screen readers.
        roofs: `operations_per_s` and `bytes_per_s`, as `Roofs.to_dict` gives them.
        kernels: Rows with `kernel`, `precision`, `operations`, `bytes`, `gflops` and `share`;
            those that compute nothing are left out. The area of a dot is its share of the time.

    Returns:
        An `<svg>` element.
    """
    dots = [row for row in kernels if row["operations"] > 0]
    dots.sort(key=lambda row: -float(row["gflops"]))  # labels give way downwards, in this order
    peaks = {name: rate / 1e9 for name, rate in roofs["operations_per_s"].items()}
    slopes = {name: rate / 1e9 for name, rate in roofs["bytes_per_s"].items()}
    intensities = [row["operations"] / row["bytes"] for row in dots]
    corners = [max(peaks.values()) / slope for slope in slopes.values()]
    rates = [*peaks.values(), *(row["gflops"] for row in dots)]
    x_axis = _Axis(
        min([*intensities, *corners]), max([*intensities, *corners]), _LEFT, _WIDTH - _RIGHT
    )
    y_axis = _Axis(min(rates), max(rates), _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">',
        f"<title>{escape(title)}</title>",
        *_grid(x_axis, y_axis),
    ]
    for name, slope in slopes.items():
        parts.append(_slope(name, slope, max(peaks.values()), x_axis, y_axis))
    for name, peak in peaks.items():
        start = max(x_axis.low, peak / max(slopes.values()))
        y = y_axis.at(peak)
        parts.append(
            f'<line class="roof" x1="{x_axis.at(start):.1f}" x2="{_WIDTH - _RIGHT}" '
            f'y1="{y:.1f}" y2="{y:.1f}"/><text class="roof-text" x="{_WIDTH - _RIGHT + 6}" '
            f'y="{y + 4:.1f}">{escape(name)} {peak:.0f} GFLOP/s</text>'
        )
    placed: list[tuple[float, float]] = []
    for row, intensity in zip(dots, intensities, strict=True):
        parts.append(_dot(row, x_axis.at(intensity), y_axis.at(row["gflops"]), placed))
    return "".join([*parts, "</svg>"])


class _Axis:
    """A logarithmic axis over whole decades."""

    def __init__(self, least: float, most: float, start: float, end: float) -> None:
        self.first = math.floor(math.log10(least))
        self.last = max(math.ceil(math.log10(most)), self.first + 1)
        self.low, self.high = 10.0**self.first, 10.0**self.last
        self._start, self._end = start, end

    def at(self, value: float) -> float:
        share = (math.log10(value) - self.first) / (self.last - self.first)
        return self._start + (self._end - self._start) * share

    def decades(self) -> list[tuple[str, float]]:
        powers = range(self.first, self.last + 1)
        return [(f"10{str(n).translate(_SUPERSCRIPTS)}", self.at(10.0**n)) for n in powers]


def _grid(x_axis: _Axis, y_axis: _Axis) -> list[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for text, x in x_axis.decades():
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>'
            f'<text class="tick" x="{x:.1f}" y="{bottom + 16}">{text}</text>'
        )
    for text, y in y_axis.decades():
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="unit" x="{_LEFT - 6}" y="{y + 4:.1f}">{text}</text>'
        )
    return [
        *parts,
        f'<text class="unit" x="{right}" y="{bottom + 32}">operations a byte</text>',
        f'<text class="roof-text" x="{_LEFT + 6}" y="{_TOP + 12}">GFLOP/s</text>',
    ]


def _slope(name: str, slope: float, top: float, x_axis: _Axis, y_axis: _Axis) -> str:
    """A bandwidth: from where it enters the picture to the highest peak."""
    low = max(x_axis.low, y_axis.low / slope)
    high = min(x_axis.high, top / slope)
    if low >= high:
        return ""
    ends = (x_axis.at(low), y_axis.at(low * slope), x_axis.at(high), y_axis.at(high * slope))
    return (
        '<line class="roof" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'.format(*ends)
        + f'<text class="roof-text" x="{ends[0] + 6:.1f}" y="{ends[1] - 6:.1f}">'
        f"{escape(name)} {slope:.0f} GB/s</text>"
    )


def _dot(row: Mapping[str, Any], x: float, y: float, placed: list[tuple[float, float]]) -> str:
    """A kernel; its label moves down until it hides no other."""
    text_y = y + 4
    while any(
        abs(text_y - old_y) < _LABEL_HEIGHT and abs(x - old_x) < 150 for old_x, old_y in placed
    ):
        text_y += _LABEL_HEIGHT
    placed.append((x, text_y))
    radius = 2 + 16 * math.sqrt(row["share"])
    text = f"{row['kernel']}, {row['precision']}, {row['share']:.0%}"
    text_x = x + radius + 4
    leader = (
        f'<line class="grid" x1="{x:.1f}" y1="{y:.1f}" x2="{text_x:.1f}" y2="{text_y - 4:.1f}"/>'
        if text_y > y + 4
        else ""
    )
    return (
        f'{leader}<circle class="kernel" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>'
        f'<text class="kernel-text" x="{text_x:.1f}" y="{text_y:.1f}">{escape(text)}</text>'
    )
