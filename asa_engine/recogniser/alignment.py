"""When each token was said, from what the decoder attended while it wrote it.

The method is Whisper's own (its `timing.py`): the attention of a few heads known to follow the
speech, standardised over the tokens, smoothed over time, averaged, and the cheapest monotonic path
through it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["align", "cheapest_path"]

MEDIAN_WIDTH: Final = 7
# Pairs to be put in order, one after the other, until the middle one of seven is the median.
_MEDIAN_OF_7: Final = (
    *((0, 5), (0, 3), (1, 6), (2, 4), (0, 1), (3, 5), (2, 6)),
    *((2, 3), (3, 6), (4, 5), (1, 4), (1, 3), (3, 4)),
)

_Floats = NDArray[np.floating]


def align(attended: NDArray[np.float32], first: int) -> list[int]:
    """Return the frame at which each token begins.

    Args:
        attended: What the heads attended at each step, [steps, heads, frames]; the last step is
            that of the last token.
        first: The step that wrote the first token.

    Returns:
        `steps - first` frames, never decreasing: where each token begins, and where the last ends.
    """
    shares = attended / attended.sum(axis=2, keepdims=True)
    spread = shares.std(axis=0)
    standard = (shares - shares.mean(axis=0)) / np.maximum(spread, 1e-10)
    return cheapest_path(-_median(standard).mean(axis=1)[first:])


def _median(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Replace each value by the median of the `MEDIAN_WIDTH` around it on the last axis."""
    reach = MEDIAN_WIDTH // 2
    if values.shape[-1] <= reach:
        return values
    padded = np.pad(values, [(0, 0), (0, 0), (reach, reach)], mode="reflect")
    last = values.shape[-1]
    columns = [padded[..., i : i + last] for i in range(MEDIAN_WIDTH)]
    for low, high in _MEDIAN_OF_7:
        a, b = columns[low], columns[high]
        columns[low], columns[high] = np.minimum(a, b), np.maximum(a, b)
    return columns[reach]


def cheapest_path(costs: _Floats) -> list[int]:
    """Return the first column of each row on the cheapest monotonic path through all rows.

    Dynamic time warping: from a cell the path goes right, down, or both.

    Args:
        costs: [rows, columns], at least one each.
    """
    rows, columns = costs.shape
    best = np.full((rows + 1, columns + 1), np.inf)
    best[0, 0] = 0.0
    for row, cost in enumerate(costs.astype(np.float64), start=1):
        # Entered from above at k, a row is left at j having paid for k to j: a running minimum.
        paid = np.concatenate([[0.0], np.cumsum(cost)])
        above = np.minimum(best[row - 1, 1:], best[row - 1, :-1])
        best[row, 1:] = paid[1:] + np.minimum.accumulate(above - paid[:-1])
    table = best.tolist()
    begins = [0] * rows
    row, column = rows, columns
    while row:
        begins[row - 1] = column - 1
        both, down, right = (
            table[row - 1][column - 1],
            table[row - 1][column],
            table[row][column - 1],
        )
        if both <= down and both <= right:
            row, column = row - 1, column - 1
        elif down < right:
            row -= 1
        else:
            column -= 1
    return begins
