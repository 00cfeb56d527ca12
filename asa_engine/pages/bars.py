"""Inline SVG: horizontal bars with raw samples as dots. No scripts, no fonts, no addresses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

__all__ = ["Bar", "bar_chart"]

_TOP = 20
_AXIS_HEIGHT = 26
_DOT_ROWS = 5


class _Sizes(NamedTuple):
    width: int
    label_width: int
    value_width: int
    row_height: int


_WIDE = _Sizes(900, 300, 170, 46)
_NARROW = _Sizes(440, 190, 60, 38)


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
    title: str,
    bars: Sequence[Bar],
    unit: str,
    *,
    line: float | None = None,
    line_text: str = "",
    narrow: bool = False,
) -> str:
    """Draw bars from zero, so that lengths can be compared.

    Args:
        title: For screen readers and as a heading.
        bars: From top to bottom; at least one.
        unit: Of the axis.
        line: Where to draw a vertical line, such as a target.
        line_text: What stands beside it.
        narrow: Whether two stand side by side.

    Returns:
        An `<svg>` element.
    """
    sizes = _NARROW if narrow else _WIDE
    # A single slow sample must not shrink all bars: dots past the axis sit at its end.
    largest = max([bar.value for bar in bars] + ([line] if line is not None else []))
    top, ticks = _axis(largest * 1.08)
    plot = sizes.width - sizes.label_width - sizes.value_width
    bottom = _TOP + sizes.row_height * len(bars)

    def x(value: float) -> float:
        return sizes.label_width + plot * min(value, top) / top

    parts = [
        f'<svg viewBox="0 0 {sizes.width} {bottom + _AXIS_HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">',
        f"<title>{escape(title)}</title>",
    ]
    for tick in ticks:
        parts.append(
            f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{_TOP}" y2="{bottom}"/>'
            f'<text class="tick" x="{x(tick):.1f}" y="{bottom + 16}">{tick:.6g}</text>'
        )
    parts.append(
        f'<text class="unit" x="{sizes.width - 4}" y="{bottom + 16}">{escape(unit)}</text>'
    )
    for index, bar in enumerate(bars):
        parts.append(_bar(bar, _TOP + sizes.row_height * index, x, sizes))
    if line is not None:
        parts.append(
            f'<line class="target" x1="{x(line):.1f}" x2="{x(line):.1f}" y1="{_TOP - 6}" '
            f'y2="{bottom}"/><text class="target-text" x="{x(line) + 5:.1f}" '
            f'y="{_TOP - 6}">{escape(line_text)}</text>'
        )
    return "".join([*parts, "</svg>"])


def _bar(bar: Bar, y: float, x: Callable[[float], float], sizes: _Sizes) -> str:
    middle = y + sizes.row_height / 2
    end = x(bar.value)
    dots = "".join(
        f'<circle class="dot" cx="{x(sample):.1f}" '
        f'cy="{middle - 7 + 14 * (i % _DOT_ROWS) / (_DOT_ROWS - 1):.1f}" r="1.6"/>'
        for i, sample in enumerate(bar.samples)
    )
    text_x = max([end, *(x(sample) for sample in bar.samples)]) + 8
    label_x = sizes.label_width - 10
    return (
        f'<text class="label" x="{label_x}" y="{middle - 3:.1f}">{escape(bar.label)}</text>'
        f'<text class="note" x="{label_x}" y="{middle + 12:.1f}">{escape(bar.note)}</text>'
        f'<rect class="bar {escape(bar.mark)}" x="{sizes.label_width}" y="{middle - 11:.1f}" '
        f'width="{max(end - sizes.label_width, 1):.1f}" height="22" rx="2"/>{dots}'
        f'<text class="value" x="{text_x:.1f}" y="{middle + 4:.1f}">{escape(bar.text)}</text>'
    )


def _axis(largest: float) -> tuple[float, list[float]]:
    """Return the end of the axis and at most seven ticks at round numbers."""
    decade = 10.0 ** math.floor(math.log10(largest / 6))
    step = next(decade * factor for factor in (1, 2, 5, 10) if largest / (decade * factor) <= 6)
    return largest, [step * i for i in range(int(largest / step) + 1)]
