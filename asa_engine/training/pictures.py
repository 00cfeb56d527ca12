"""Pictures of training reports, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["confusion_svg"]

_CELL, _LEFT, _TOP, _GAP = 64, 70, 76, 40


def confusion_svg(confusions: Mapping[str, Sequence[Sequence[int]]], classes: Sequence[str]) -> str:
    """Draw confusion matrices side by side, two a row: true class down, predicted class across.

    Cells hold counts over all runs; the shade is the share of the true class.
    """
    side = _CELL * len(classes)
    width, height = _LEFT + side + _GAP, _TOP + side + _GAP
    rows = -(-len(confusions) // 2)
    columns = min(2, len(confusions))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {columns * width} {rows * height}" '
        'font-family="sans-serif" font-size="14" role="img">',
        "<title>Confusion matrices: true class down, predicted class across</title>",
        f'<rect width="{columns * width}" height="{rows * height}" fill="#fff"/>',
    ]
    for index, (name, counts) in enumerate(confusions.items()):
        x, y = (index % 2) * width, (index // 2) * height
        parts.append(f'<g transform="translate({x} {y})">{_matrix(name, counts, classes)}</g>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _matrix(name: str, counts: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    middle = _LEFT + _CELL * len(classes) / 2
    parts = [
        f'<text x="{middle}" y="24" text-anchor="middle" font-weight="bold">{escape(name)}</text>',
        f'<text x="{middle}" y="46" text-anchor="middle" fill="#555">predicted class</text>',
    ]
    for column, label in enumerate(classes):
        x = _LEFT + _CELL * (column + 0.5)
        parts.append(f'<text x="{x}" y="{_TOP - 8}" text-anchor="middle">{escape(label)}</text>')
    for row, (label, values) in enumerate(zip(classes, counts, strict=True)):
        y = _TOP + _CELL * row
        base = y + _CELL / 2 + 5
        parts.append(f'<text x="{_LEFT - 8}" y="{base}" text-anchor="end">{escape(label)}</text>')
        for column, count in enumerate(values):
            share = count / max(1, sum(values))
            x = _LEFT + _CELL * column
            ink = "#fff" if share > 0.55 else "#000"
            parts.append(
                f'<rect x="{x}" y="{y}" width="{_CELL - 2}" height="{_CELL - 2}" fill="#1f4e8c" '
                f'fill-opacity="{0.04 + 0.96 * share:.3f}"/>'
                f'<text x="{x + _CELL / 2 - 1}" y="{base}" text-anchor="middle" '
                f'fill="{ink}">{count}</text>'
            )
    return "".join(parts)
