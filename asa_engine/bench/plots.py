"""Inline SVG: horizontal bars with raw samples as dots. No scripts, no fonts, no addresses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Bar", "bar_chart"]

_WIDTH = 900
_LABEL_WIDTH = 300
_VALUE_WIDTH = 170
_ROW_HEIGHT = 46
_TOP = 20
_AXIS_HEIGHT = 26
_DOT_ROWS = 5


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar.

    Attributes:
        label: What it is.
        note: Second line of the label, e.g. the drift.
        value: Length of the bar.
        text: What stands at its end.
        samples: Raw values, drawn as dots over it.
        mark: Style: "reference", "chosen" or "other".
    """

    label: str
    note: str
    value: float
    text: str
    samples: tuple[float, ...] = ()
    mark: str = "other"


def bar_chart(
    title: str, bars: Sequence[Bar], unit: str, *, line: float | None = None, line_text: str = ""
) -> str:
    """Draw bars from zero, so that lengths can be compared.

    Args:
        title: For screen readers and as a heading.
        bars: From top to bottom; at least one.
        unit: Of the axis.
        line: Where to draw a vertical line, such as a target.
        line_text: What stands beside it.

    Returns:
        An `<svg>` element.
    """
    # A single slow sample must not shrink all bars: dots past the axis sit at its end.
    largest = max([bar.value for bar in bars] + ([line] if line is not None else []))
    top, ticks = _axis(largest * 1.08)
    plot = _WIDTH - _LABEL_WIDTH - _VALUE_WIDTH
    height = _TOP + _ROW_HEIGHT * len(bars) + _AXIS_HEIGHT

    def x(value: float) -> float:
        return _LABEL_WIDTH + plot * min(value, top) / top

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">',
        f"<title>{escape(title)}</title>",
    ]
    bottom = _TOP + _ROW_HEIGHT * len(bars)
    for tick in ticks:
        parts.append(
            f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{_TOP}" y2="{bottom}"/>'
            f'<text class="tick" x="{x(tick):.1f}" y="{bottom + 16}">{tick:.6g}</text>'
        )
    parts.append(f'<text class="unit" x="{_WIDTH - 4}" y="{bottom + 16}">{escape(unit)}</text>')
    for index, bar in enumerate(bars):
        parts.append(_bar(bar, _TOP + _ROW_HEIGHT * index, x))
    if line is not None:
        parts.append(
            f'<line class="target" x1="{x(line):.1f}" x2="{x(line):.1f}" y1="{_TOP - 6}" '
            f'y2="{bottom}"/><text class="target-text" x="{x(line) + 5:.1f}" '
            f'y="{_TOP - 6}">{escape(line_text)}</text>'
        )
    return "".join([*parts, "</svg>"])


def _bar(bar: Bar, y: float, x: Callable[[float], float]) -> str:
    middle = y + _ROW_HEIGHT / 2
    end = x(bar.value)
    dots = "".join(
        f'<circle class="dot" cx="{x(sample):.1f}" '
        f'cy="{middle - 7 + 14 * (i % _DOT_ROWS) / (_DOT_ROWS - 1):.1f}" r="1.6"/>'
        for i, sample in enumerate(bar.samples)
    )
    text_x = max([end, *(x(sample) for sample in bar.samples)]) + 8
    label_x = _LABEL_WIDTH - 10
    return (
        f'<text class="label" x="{label_x}" y="{middle - 3:.1f}">{escape(bar.label)}</text>'
        f'<text class="note" x="{label_x}" y="{middle + 12:.1f}">{escape(bar.note)}</text>'
        f'<rect class="bar {escape(bar.mark)}" x="{_LABEL_WIDTH}" y="{middle - 11:.1f}" '
        f'width="{max(end - _LABEL_WIDTH, 1):.1f}" height="22" rx="2"/>{dots}'
        f'<text class="value" x="{text_x:.1f}" y="{middle + 4:.1f}">{escape(bar.text)}</text>'
    )


def _axis(largest: float) -> tuple[float, list[float]]:
    """Return the end of the axis and at most seven ticks at round numbers."""
    decade = 10.0 ** math.floor(math.log10(largest / 6))
    step = next(decade * factor for factor in (1, 2, 5, 10) if largest / (decade * factor) <= 6)
    return largest, [step * i for i in range(int(largest / step) + 1)]
