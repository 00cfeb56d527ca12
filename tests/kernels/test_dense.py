"""Products on the compiled kernel against NumPy in float64; a row's bits depend on no other row."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from asa_engine.kernels.dense import Dense, matrix_vector, product


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("rows", "matrix"),
    [
        ((5,), (5, 3)),
        ((1, 1), (1, 1)),
        ((0, 7), (7, 4)),
        ((13, 127), (127, 33)),
        ((301, 129), (129, 64)),
        ((2, 11, 40), (40, 17)),
        ((11, 40), (3, 40, 17)),
        ((3, 11, 40), (3, 40, 17)),
        ((2, 3, 11, 40), (3, 40, 17)),
        ((2, 1, 11, 40), (1, 3, 40, 17)),
    ],
)
def test_a_product_is_numpys(rows: tuple[int, ...], matrix: tuple[int, ...]) -> None:
    x, w = normal(*rows), normal(*matrix, seed=1)
    found = product(x, w)
    assert found.dtype == np.float32
    expected = x.astype(np.float64) @ w
    assert found.shape == expected.shape
    assert_allclose(found, expected, atol=3e-6 * np.sqrt(matrix[-2]) * 4)


def test_a_row_has_the_same_bits_alone_and_in_company() -> None:
    rows, dense = normal(200, 70), Dense(normal(70, 45, seed=1))
    together = dense(rows)
    for index in (0, 1, 97, 199):
        assert_array_equal(dense(rows[index]), together[index])
        assert_array_equal(dense(rows[index:]), together[index:])


def test_turned_and_strided_matrices_are_read_as_they_are_seen() -> None:
    x, w = normal(9, 40), normal(34, 80, seed=1)
    assert_array_equal(product(x, w.T[::2]), product(x, np.ascontiguousarray(w.T[::2])))
    assert_array_equal(product(x[::-1], w.T[::2]), product(x, w.T[::2])[::-1])


@pytest.mark.parametrize("shape", [(3,), (0, 3), (3, 0), (2, 0, 3)])
def test_what_is_no_matrix_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="a matrix is"):
        Dense(np.zeros(shape, np.float32))


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit a matrix"):
        product(normal(2, 4), normal(5, 3))


def test_a_matrix_times_a_vector_in_float64() -> None:
    matrix, vector = normal(6, 4000).astype(np.float64), normal(4000, seed=1).astype(np.float64)
    assert_allclose(matrix_vector(matrix, vector), matrix @ vector, rtol=1e-12, atol=1e-12)
