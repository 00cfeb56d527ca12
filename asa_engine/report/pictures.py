"""Scores as pictures: dots with their uncertainty, and their course over sessions, as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from asa_engine.report.gather import Estimate

__all__ = ["Course", "course_chart", "dot_chart"]

_WIDTH: Final = 900
_LABEL_WIDTH: Final = 220
_VALUE_WIDTH: Final = 120
_ROW_HEIGHT: Final = 26
_AXIS_HEIGHT: Final = 24
_TOP, _LEFT = 14, 44
_WIDE, _NARROW = (_WIDTH, 240), (440, 180)
_MOST_LABELS, _LABEL_LETTERS = 12, 26


@dataclass(frozen=True, slots=True)
class Course:
    """One line of a chart over sessions.

    Attributes:
        estimates: One a session; `None` where there is none.
        strong: Whether it stands out, with dots and uncertainty.
    """

    estimates: Sequence[Estimate | None]
    strong: bool = True


def dot_chart(title: str, rows: Sequence[tuple[str, Estimate]]) -> str:
    """Draw a dot for each score on its whole scale, a line through it to one sd on both sides.

    Args:
        title: For screen readers.
        rows: Label and score, from top to bottom; at least one, all on one scale.

    Returns:
        An `<svg>` element.
    """
    low = min(estimate.low for _, estimate in rows)
    high = max(estimate.high for _, estimate in rows)
    bottom = _TOP + _ROW_HEIGHT * len(rows)
    plot = _WIDTH - _LABEL_WIDTH - _VALUE_WIDTH

    def x(value: float) -> float:
        return _LABEL_WIDTH + plot * (min(max(value, low), high) - low) / (high - low)

    parts = [_open(title, bottom + _AXIS_HEIGHT)]
    for tick in _ticks(low, high):
        parts.append(
            f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{_TOP}" y2="{bottom}"/>'
            f'<text class="tick" x="{x(tick):.1f}" y="{bottom + 16}">{tick:g}</text>'
        )
    for index, (label, estimate) in enumerate(rows):
        y = _TOP + _ROW_HEIGHT * (index + 0.5)
        if estimate.sd is not None:
            ends = x(estimate.value - estimate.sd), x(estimate.value + estimate.sd)
            parts.append(_spread(ends, (y, y)))
        parts.append(
            f'<text class="label" x="{_LABEL_WIDTH - 12}" y="{y + 4:.1f}">{_short(label)}</text>'
            f'<circle class="score" cx="{x(estimate.value):.1f}" cy="{y:.1f}" r="5"/>'
            f'<text class="value" x="{_WIDTH - _VALUE_WIDTH + 12}" y="{y + 4:.1f}">'
            f"{said(estimate)}</text>"
        )
    return "".join([*parts, "</svg>"])


def course_chart(
    title: str, sessions: Sequence[str], courses: Sequence[Course], *, narrow: bool = False
) -> str:
    """Draw scores over sessions, on as much of the scale as they need.

    Args:
        title: For screen readers.
        sessions: From left to right; at least one.
        courses: Lines; at least one estimate among them.
        narrow: Whether two stand side by side.

    Returns:
        An `<svg>` element.
    """
    low, high = _range(courses)
    width, height = _NARROW if narrow else _WIDE
    bottom = height - _AXIS_HEIGHT
    step = (width - _LEFT) / len(sessions)

    def x(index: int) -> float:
        return _LEFT + step * (index + 0.5)

    def y(value: float) -> float:
        return bottom - (bottom - _TOP) * (min(max(value, low), high) - low) / (high - low)

    parts = [_open(title, height, width)]
    for tick in _ticks(low, high):
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{width}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
            f'<text class="side" x="{_LEFT - 8}" y="{y(tick) + 4:.1f}">{tick:g}</text>'
        )
    every = math.ceil(len(sessions) * _WIDTH / width / _MOST_LABELS)
    for index in range(0, len(sessions), every):
        label = _short(sessions[index], max(4, int(step * every / 8)))
        parts.append(f'<text class="tick" x="{x(index):.1f}" y="{bottom + 17}">{label}</text>')
    for course in sorted(courses, key=lambda course: course.strong):
        parts.append(_course(course, x, y))
    return "".join([*parts, "</svg>"])


def said(estimate: Estimate) -> str:
    """Return a score with its uncertainty, in words."""
    return f"{estimate.value:.1f}" + ("" if estimate.sd is None else f" ± {estimate.sd:.1f}")


def _course(course: Course, x: Callable[[int], float], y: Callable[[float], float]) -> str:
    known = [(x(i), each) for i, each in enumerate(course.estimates) if each is not None]
    points = " ".join(f"{at:.1f},{y(each.value):.1f}" for at, each in known)
    if not course.strong:
        return f'<polyline class="faint" points="{points}"/>' if len(known) > 1 else ""
    parts = [f'<polyline class="course" points="{points}"/>']
    for at, each in known:
        if each.sd is not None:
            parts.append(_spread((at, at), (y(each.value - each.sd), y(each.value + each.sd))))
        parts.append(
            f'<circle class="score" cx="{at:.1f}" cy="{y(each.value):.1f}" r="5"/>'
            f'<text class="value" x="{at + 9:.1f}" y="{y(each.value) - 7:.1f}">'
            f"{each.value:.1f}</text>"
        )
    return "".join(parts)


def _spread(x: tuple[float, float], y: tuple[float, float]) -> str:
    """Return the line through a score, one standard deviation to both sides."""
    ends = f'x1="{x[0]:.1f}" x2="{x[1]:.1f}" y1="{y[0]:.1f}" y2="{y[1]:.1f}"'
    return f'<line class="spread" {ends}/>'


def _range(courses: Sequence[Course]) -> tuple[float, float]:
    """Return the part of the scale that holds everything drawn, at least two fifths of it."""
    known = [each for course in courses for each in course.estimates if each is not None]
    strong = [each for course in courses if course.strong for each in course.estimates if each]
    scale = min(each.low for each in known), max(each.high for each in known)
    values = [each.value for each in known]
    values += [each.value + sign * (each.sd or 0.0) for each in strong for sign in (-1, 1)]
    middle = (min(values) + max(values)) / 2
    half = max((max(values) - min(values)) / 2 * 1.05, 0.2 * (scale[1] - scale[0]))
    low, high = max(scale[0], middle - half), min(scale[1], middle + half)
    return (low, high) if low < high else scale


def _ticks(low: float, high: float) -> list[float]:
    """Return at most seven round numbers of an axis."""
    decade = 10.0 ** math.floor(math.log10((high - low) / 6))
    step = next(decade * f for f in (1, 2, 5, 10) if (high - low) / (decade * f) <= 6)
    first = math.ceil(low / step - 1e-9)
    return [step * i for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _open(title: str, height: float, width: int = _WIDTH) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>"
    )


def _short(text: str, most: int = _LABEL_LETTERS) -> str:
    return escape(text if len(text) <= most else f"{text[: most - 1]}…")
