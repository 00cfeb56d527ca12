"""The encoder's stem: convolutions over three frames as products, window by window."""

from __future__ import annotations

import triton
import triton.language as tl

from asa_engine.gpu.triton.functions import cast, dot, gelu

__all__ = ["conv"]


@triton.jit
def conv(
    a, weight, bias, positions, out, low, row_sums, mixed,
    tiles, starts_in, starts_out, mix, capacity, N: tl.constexpr, C: tl.constexpr,
    STRIDE: tl.constexpr, EMBED: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """out = gelu(conv(a)) of every window, with one zero frame on either side of it.

    a [frames in, C]; weight [3, N, C], of the operands' type; `tiles` int32 [.., 2]: window and
    first frame of a tile, -1 where there is none; `starts_in` and `starts_out` int32
    [windows + 1]. `out` is of the operands' type.

    EMBED: `positions` [.., N], float32, is added, `out` is the float32 residual stream, and
    `low`, `row_sums` and `mixed` are written as in `linear`.
    """
    window = tl.load(tiles + 2 * tl.program_id(0))
    if window < 0:
        return
    first = tl.load(tiles + 2 * tl.program_id(0) + 1)
    begin, end = tl.load(starts_in + window), tl.load(starts_in + window + 1)
    begin_out, end_out = tl.load(starts_out + window), tl.load(starts_out + window + 1)
    t = first + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    c = tl.arange(0, BK)
    total = tl.zeros((BM, BN), tl.float32)
    for tap in tl.static_range(3):
        frame = begin + STRIDE * t + tap - 1
        inside = (frame >= begin) & (frame < end)
        for start in range(0, C, BK):
            left = c < C - start
            x_at = a + frame.to(tl.int64)[:, None] * C + start + c[None, :]
            x = tl.load(x_at, mask=inside[:, None] & left[None, :], other=0.0)
            w_at = weight + (tap * N + n)[None, :] * C + start + c[:, None]
            w = tl.load(w_at, mask=(n < N)[None, :] & left[:, None], other=0.0)
            total = dot(cast(x, w.dtype), w, total)
    total = gelu(total + tl.load(bias + n, mask=n < N, other=0.0)[None, :])
    row = begin_out + t
    valid = (row < end_out)[:, None] & (n < N)[None, :]
    at = row.to(tl.int64)[:, None] * N + n[None, :]
    if EMBED:
        total += tl.load(positions + t[:, None] * N + n[None, :], mask=valid, other=0.0)
        total = tl.where(valid, total, 0.0)
        tl.store(low + at, cast(total, low.dtype.element_ty), mask=valid)
        sums_at = row_sums + tl.program_id(1) * 2 * capacity + row
        tl.store(sums_at, tl.sum(total, 1), mask=row < end_out)
        tl.store(sums_at + capacity, tl.sum(total * total, 1), mask=row < end_out)
        tl.store(mixed + at, mix * total, mask=valid)
    tl.store(out + at, cast(total, out.dtype.element_ty), mask=valid)
