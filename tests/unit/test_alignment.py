"""Times of tokens: the cheapest path, and words found where the attention lies."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from asa_engine.recogniser.alignment import align, cheapest_path


def least_cost(costs: NDArray[np.float64], begins: list[int] | None = None) -> float:
    """Return the cheapest path's cost, of those only that begin rows there, if given."""
    rows, columns = costs.shape
    best = np.full((rows, columns), np.inf)
    for i in range(rows):
        for j in range(columns):
            before = 0.0 if i == j == 0 else np.inf
            fresh = [best[i - 1, j - k] for k in (0, 1) if i and j >= k]
            if begins is None:
                before = min(before, *fresh, best[i, j - 1] if j else np.inf)
            elif j == begins[i]:
                before = min([before, *fresh])
            elif j > begins[i]:
                before = best[i, j - 1]
            else:
                continue
            best[i, j] = before + costs[i, j]
    return float(best[-1, -1])


@pytest.mark.parametrize("seed", range(20))
def test_no_path_is_cheaper(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = rng.integers(1, 8, 2)
    costs = rng.normal(size=(rows, columns))
    begins = cheapest_path(costs)
    assert len(begins) == rows
    assert begins == sorted(begins)
    # Running sums of float64 leave 1e-15 of what is added.
    assert least_cost(costs, begins) == pytest.approx(least_cost(costs), abs=1e-12)


def test_tokens_begin_where_the_heads_look() -> None:
    rng = np.random.default_rng(0)
    truth = [0, 0, 20, 45, 60, 90]
    ends = [*truth[2:], 120]
    attended = rng.uniform(0, 0.02, (6, 4, 120)).astype(np.float32)
    for step, (begin, end) in enumerate(zip(truth[1:], ends, strict=True), start=1):
        attended[step, :, begin:end] += 1
    # The median over seven frames moves an edge by three at most.
    np.testing.assert_allclose(align(attended, 1), truth[1:], atol=3)


@pytest.mark.parametrize("frames", [1, 2, 3, 4])
def test_a_few_frames_are_enough(frames: int) -> None:
    attended = np.full((3, 2, frames), 1 / frames, np.float32)
    begins = align(attended, 0)
    assert len(begins) == 3
    assert begins[0] == 0
    assert max(begins) < frames
