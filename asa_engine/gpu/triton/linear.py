"""Matrix products with what stands before and behind them in a Transformer layer."""

from __future__ import annotations

import triton
import triton.language as tl

from asa_engine.gpu.triton.functions import cast, dot, gelu, row_norm

__all__ = ["linear"]


@triton.jit
def linear(
    a, weight, bias, weight_sums, out, low, row_sums, mixed,
    counts, mix, capacity, N: tl.constexpr, K: tl.constexpr,
    NORM_PARTS: tl.constexpr, GELU: tl.constexpr, RESIDUAL: tl.constexpr, MIX: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """out = [gelu](norm(a) @ weight.T + bias), or, with RESIDUAL, out += a @ weight.T + bias.

    a [capacity, K] and weight [N, K] are of the operands' type, sums are float32. The batch fills
    `counts[0]` rows; a row is computed in the same order wherever it stands.

    NORM_PARTS > 0: a LayerNorm stands before the product. Its weight is folded into `weight`, its
    bias into `bias`; with c = `weight_sums` [N], the row sums of `weight`, and the mean m and
    deviation s of a's row, norm(a) @ w = (a @ weight.T - m c) / s: nothing is normalised in
    memory, and no product waits for it.

    RESIDUAL: `out` is the float32 residual stream; `low` gets its copy of the operands' type,
    `row_sums` [cdiv(N, BN), 2, capacity] the new rows' partial sums and sums of squares, for the
    next LayerNorm. MIX: `mixed` [capacity, N] gains `mix` times the new rows.
    """
    rows = tl.load(counts)
    tiles_m = tl.cdiv(capacity, BM)
    tiles_n: tl.constexpr = (N + BN - 1) // BN
    # Programs that run together share rows and weights in the second-level cache.
    program = tl.program_id(0)
    group = program // (GROUP * tiles_n)
    height = tl.minimum(tiles_m - group * GROUP, GROUP)
    tile_m = group * GROUP + program % (GROUP * tiles_n) % height
    tile_n = program % (GROUP * tiles_n) // height
    if tile_m * BM >= rows:
        return
    m = tile_m * BM + tl.arange(0, BM)
    n = tile_n * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    a_at = a + m.to(tl.int64)[:, None] * K + k[None, :]
    w_at = weight + n[None, :] * K + k[:, None]
    total = tl.zeros((BM, BN), tl.float32)
    for start in range(0, K, BK):
        left = k < K - start
        x = tl.load(a_at + start, mask=(m < rows)[:, None] & left[None, :], other=0.0)
        w = tl.load(w_at + start, mask=(n < N)[None, :] & left[:, None], other=0.0)
        total = dot(x, w, total)
    if NORM_PARTS > 0:
        mean, scale = row_norm(row_sums, m, capacity, m < rows, K, NORM_PARTS)
        sums = tl.load(weight_sums + n, mask=n < N, other=0.0)
        total = (total - mean[:, None] * sums[None, :]) * scale[:, None]
    total += tl.load(bias + n, mask=n < N, other=0.0)[None, :]
    if GELU:
        total = gelu(total)
    valid = (m < rows)[:, None] & (n < N)[None, :]
    at = m.to(tl.int64)[:, None] * N + n[None, :]
    if RESIDUAL:
        total += tl.load(out + at, mask=valid, other=0.0)
        total = tl.where(valid, total, 0.0)
        tl.store(low + at, cast(total, low.dtype.element_ty), mask=valid)
        sums_at = row_sums + tile_n * 2 * capacity + m
        tl.store(sums_at, tl.sum(total, 1), mask=m < rows)
        tl.store(sums_at + capacity, tl.sum(total * total, 1), mask=m < rows)
        if MIX:
            before = tl.load(mixed + at, mask=valid, other=0.0)
            tl.store(mixed + at, before + mix * total, mask=valid)
    tl.store(out + at, cast(total, out.dtype.element_ty), mask=valid)
