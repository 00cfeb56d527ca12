"""Products of rows and matrices, each with one order of summing.

NumPy leaves `@` to a BLAS, whose sums depend on how many threads it has: the same recording would
score differently in a process that limits them. Here a row's result depends on nothing but the
row, the matrix and, for the compiled kernel of float32, the instruction set.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from asa_engine import _kernels

__all__ = ["Dense", "matrix_vector", "product"]

Array = NDArray[np.float32]


class Dense:
    """One matrix or a stack of them, packed once, to multiply rows with.

    Args:
        matrix: float32 [K, N], or a stack of them [..., K, N].

    Raises:
        ValueError: Fewer than two dimensions, or one that is 0.
    """

    def __init__(self, matrix: Array) -> None:
        if matrix.ndim < 2 or 0 in matrix.shape:
            raise ValueError(f"a matrix is [..., K, N], not {list(matrix.shape)}")
        self._stack = matrix.shape[:-2]
        self._packed = [_kernels.Dense(one) for one in _matrices(matrix)]

    def __call__(self, rows: Array) -> Array:
        """Return what `rows @ matrix` is: each stack of rows times its matrix.

        Args:
            rows: float32 [K] or [..., T, K]; what stands before is broadcast with the stack.

        Raises:
            ValueError: The shapes do not fit.
        """
        if rows.ndim == 1:
            found: Array = self(rows[None])[..., 0, :]
            return found
        if not self._stack:
            flat = self._packed[0].run(
                _matrices(rows).reshape(math.prod(rows.shape[:-1]), rows.shape[-1])
            )
            return flat.reshape(*rows.shape[:-1], flat.shape[-1])
        stack = np.broadcast_shapes(self._stack, rows.shape[:-2])
        which = np.broadcast_to(np.arange(len(self._packed)).reshape(self._stack), stack)
        stacked = _matrices(np.broadcast_to(rows, (*stack, *rows.shape[-2:])))
        flat = np.stack(
            [self._packed[i].run(one) for i, one in zip(which.flat, stacked, strict=True)]
        )
        return flat.reshape(*stack, *flat.shape[-2:])


def product(rows: Array, matrix: Array) -> Array:
    """Return `rows @ matrix` of a matrix that is used but once; see `Dense`."""
    return Dense(matrix)(rows)


def matrix_vector(
    matrix: NDArray[np.floating], vector: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return `matrix @ vector` in float64, [N, K] times [K]: for the few outputs of a head."""
    found: NDArray[np.float64] = np.multiply(matrix, vector, dtype=np.float64).sum(axis=1)
    return found


def _matrices(stack: Array) -> Array:
    whole = np.ascontiguousarray(stack, np.float32)
    found: Array = whole.reshape(math.prod(stack.shape[:-2]), *stack.shape[-2:])
    return found
