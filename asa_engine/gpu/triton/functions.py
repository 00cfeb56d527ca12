"""Small device functions that several kernels share."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["cast", "dot", "gelu", "row_norm"]

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def cast(x, dtype: tl.constexpr):
    """Round float32 to the nearest of a type, ties to even."""
    if INTERPRETED and dtype == tl.bfloat16 and x.dtype == tl.float32:  # it would cut bits off
        bits = x.to(tl.int32, bitcast=True)
        nearest = (bits + 0x7FFF + ((bits >> 16) & 1)).to(tl.float32, bitcast=True)
        x = tl.where(x == x, nearest, x)
    return x.to(dtype)


@triton.jit
def dot(a, b, total):
    """Return total + a @ b in float32, without TF32."""
    if INTERPRETED:  # the interpreter multiplies the bits of bfloat16, not its values
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def gelu(x):
    """Return x (1 + erf(x / sqrt 2)) / 2, float32."""
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def row_norm(row_sums, rows, capacity, valid, width, PARTS: tl.constexpr):
    """Return mean and 1 / deviation of rows from their partial sums, float32 [rows] each.

    `row_sums` is float32 [PARTS, 2, capacity]: sums, then sums of squares, of each part of a row,
    written by the product that made the row. They are added in the order of the parts.
    """
    total = tl.zeros(rows.shape, tl.float32)
    square = tl.zeros(rows.shape, tl.float32)
    for part in tl.static_range(PARTS):
        at = row_sums + part * 2 * capacity + rows
        total += tl.load(at, mask=valid, other=0.0)
        square += tl.load(at + capacity, mask=valid, other=0.0)
    mean = total / width
    return mean, tl.rsqrt(square / width - mean * mean + 1e-5)
