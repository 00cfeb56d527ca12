"""Softmax attention on the compiled kernels, full, windowed or over the first keys alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from asa_engine import _kernels
from asa_engine.kernels import isa

__all__ = ["PRECISIONS", "attend"]

PRECISIONS = ("fp32", "bf16")

_UNLIMITED = 2**30


def attend(
    queries: ArrayLike,
    keys: ArrayLike,
    values: ArrayLike,
    *,
    heads: int = 1,
    length: int | None = None,
    reach: int | None = None,
    precision: str = "fp32",
) -> NDArray[np.float32]:
    """Compute softmax(q k^T / sqrt(D / heads)) v, head by head, on one thread.

    Nothing of size T x T is made, and work grows with the keys within reach (Dao et al. 2022;
    Beltagy et al. 2020 for the window).

    Args:
        queries: float32 [T, D], heads side by side; T up to 2^20, D up to 8192.
        keys: float32 [T, D].
        values: float32 [T, D].
        heads: Heads, 1 to 256; they divide D.
        length: Keys that count, the first ones, 1 to T; `None`: all.
        reach: A query attends keys at most so many frames away, on either side; `None`: all.
        precision: `fp32`, or `bf16`: products of bfloat16, sums in float32.

    Returns:
        float32 [T, D]; zeros where a query has no key that counts within reach.

    Raises:
        ValueError: A wrong shape, dtype or number, NaN or infinity.
        BackendError: `ASA_CPU_ISA` names an instruction set this CPU lacks.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; it must be one of {PRECISIONS}")
    q, k, v = _matrix("queries", queries), _matrix("keys", keys), _matrix("values", values)
    if not q.shape == k.shape == v.shape:
        raise ValueError(
            f"queries, keys and values must be of one shape, not {q.shape}, {k.shape}, {v.shape}"
        )
    frames, width = q.shape
    if not (1 <= frames <= 2**20 and 1 <= width <= 8192):
        raise ValueError(f"queries must be [T, D], T in [1, 2^20], D in [1, 8192], not {q.shape}")
    if not 1 <= heads <= 256 or width % heads:
        raise ValueError(f"heads is {heads}; it must be in [1, 256] and divide {width}")
    counted = frames if length is None else length
    if not 1 <= counted <= frames:
        raise ValueError(f"length is {length}; it must be in [1, {frames}]")
    if reach is not None and reach < 0:
        raise ValueError(f"reach is {reach}; it must be at least 0")
    isa()
    within = _UNLIMITED if reach is None else min(reach, _UNLIMITED)
    return _kernels.attend(q, k, v, heads, counted, within, precision)


def _matrix(name: str, array: ArrayLike) -> NDArray[np.float32]:
    matrix = np.asarray(array)
    if matrix.ndim != 2 or matrix.dtype != np.float32:
        raise ValueError(f"{name} must be float32 [T, D], not {matrix.dtype} {list(matrix.shape)}")
    if not np.isfinite(matrix).all():
        raise ValueError(f"{name} must be finite")
    return np.ascontiguousarray(matrix)
