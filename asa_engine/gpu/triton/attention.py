"""Self-attention inside each window of a ragged batch."""

from __future__ import annotations

import triton
import triton.language as tl

from asa_engine.gpu.triton.functions import cast, dot

__all__ = ["attention"]


@triton.jit
def attention(
    qkv, out, tiles, starts, scale, D: tl.constexpr, WIDTH: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """out = softmax(q k^T scale) v, head by head, over a window's own frames.

    The online softmax of FlashAttention-2 (Dao 2023, algorithm 1), without its padding: `tiles`
    and `starts` are as in `conv`. qkv [frames, 3 D] and out [frames, D] are of the operands'
    type; the softmax is float32, its weights are rounded to the operands' type. `scale` holds
    log2(e) too. WIDTH is a head's width, BW the power of two that holds it.
    """
    window = tl.load(tiles + 2 * tl.program_id(0))
    if window < 0:
        return
    first = tl.load(tiles + 2 * tl.program_id(0) + 1)
    begin, end = tl.load(starts + window), tl.load(starts + window + 1)
    rows = begin + first + tl.arange(0, BM)
    columns = tl.arange(0, BN)
    lanes = tl.arange(0, BW)
    head = tl.program_id(1) * WIDTH
    q_at = qkv + rows.to(tl.int64)[:, None] * (3 * D) + head + lanes[None, :]
    here = (rows < end)[:, None] & (lanes < WIDTH)[None, :]
    q = tl.load(q_at, mask=here, other=0.0)
    top = tl.full((BM,), float("-inf"), tl.float32)
    weights = tl.zeros((BM,), tl.float32)
    total = tl.zeros((BM, BW), tl.float32)
    for start in range(begin, end, BN):
        there = start + columns
        seen = (there < end)[:, None] & (lanes < WIDTH)[None, :]
        k_at = qkv + there.to(tl.int64)[:, None] * (3 * D) + D + head + lanes[None, :]
        k = tl.load(k_at, mask=seen, other=0.0)
        v = tl.load(k_at + D, mask=seen, other=0.0)
        score = dot(q, tl.trans(k), tl.zeros((BM, BN), tl.float32)) * scale
        score = tl.where((there < end)[None, :], score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, 1))
        shrink = tl.exp2(top - higher)
        p = tl.exp2(score - higher[:, None])
        weights = weights * shrink + tl.sum(p, 1)
        total = dot(cast(p, v.dtype), v, total * shrink[:, None])
        top = higher
    out_at = out + rows.to(tl.int64)[:, None] * D + head + lanes[None, :]
    tl.store(out_at, cast(total / weights[:, None], out.dtype.element_ty), mask=here)
