"""Paths of the compiled kernel against NumPy, step by step the same."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from asa_engine.kernels import reference
from asa_engine.kernels.viterbi import best_path


def random_case(
    frames: int, states: int, seed: int
) -> tuple[NDArray[np.float32], list[int], list[bool]]:
    """Return whole numbers, so that there are ties, some of them impossible."""
    rng = np.random.default_rng(seed)
    log_p = -rng.integers(0, 6, (frames, 5)).astype(np.float32)
    log_p[rng.random(log_p.shape) < 0.05] = -np.inf
    return log_p, rng.integers(0, 5, states).tolist(), (rng.random(states) < 0.4).tolist()


@settings(max_examples=300, deadline=None)
@given(
    frames=st.integers(1, 40),
    states=st.integers(2, 30),
    seed=st.integers(0, 2**32 - 1),
    whole=st.booleans(),
)
def test_paths_are_those_of_numpy(frames: int, states: int, seed: int, whole: bool) -> None:
    case = random_case(frames, states, seed)
    found, score = best_path(*case, whole=whole)
    path, expected = reference.best_path(*case, whole=whole)
    np.testing.assert_array_equal(found, path)
    assert score == expected


@pytest.mark.parametrize("seed", range(20))
def test_no_path_is_likelier(seed: int) -> None:
    """All paths of four frames through five states, one by one."""
    log_p, emits, optional = random_case(4, 5, seed)
    scores = [-np.inf]
    for path in itertools.product(range(5), repeat=4):
        steps = np.diff(path)
        skipped = [
            optional[state + 1] for state, step in zip(path, steps, strict=False) if step == 2
        ]
        if path[0] < 2 and path[-1] > 2 and {*steps.tolist()} <= {0, 1, 2} and all(skipped):
            scores.append(float(sum(log_p[t, emits[s]] for t, s in enumerate(path))))
    assert best_path(log_p, emits, optional)[1] == max(scores)


def test_misuse_is_refused() -> None:
    log_p = np.zeros((3, 4), np.float32)
    for emits, optional in (
        ([], []),
        ([0], [False]),
        ([0, 4], [False] * 2),
        ([0, -1], [False] * 2),
    ):
        with pytest.raises(ValueError, match=r"states|class"):
            best_path(log_p, emits, optional)
    with pytest.raises(ValueError, match="states"):
        best_path(log_p, [0, 1], [False])
    with pytest.raises(ValueError, match="frames"):
        best_path(log_p[:0], [0, 1], [False] * 2)
    with pytest.raises(ValueError, match="NaN"):
        best_path(np.full((3, 4), np.nan, np.float32), [0, 1], [False] * 2)
    with pytest.raises(TypeError):
        best_path(log_p.astype(float), [0, 1], [False] * 2)
    path, score = best_path(log_p, [0, 1, 2, 3, 0, 1], [False] * 6)
    assert len(path) == 0
    assert score == -np.inf
