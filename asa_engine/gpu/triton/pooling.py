"""What is left of a window's frames: sums over them."""

from __future__ import annotations

import triton
import triton.language as tl

from asa_engine.gpu.triton.functions import row_norm

__all__ = ["moments", "pool"]


@triton.jit
def moments(
    x, row_sums, norm_weight, norm_bias, stats, starts, capacity, layer,
    D: tl.constexpr, LAYERS: tl.constexpr, BASE: tl.constexpr, K: tl.constexpr,
    NORM_PARTS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Sum a layer's frames and their squares, window by window, for the kernel regressor.

    x [frames, D] float32; with NORM_PARTS > 0 the closing LayerNorm is applied first. They go to
    `stats` [windows, K] from BASE: the sums of LAYERS layers, then those of squares.
    """
    window = tl.program_id(0)
    begin, end = tl.load(starts + window), tl.load(starts + window + 1)
    if begin == end:
        return
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    total = tl.zeros((BN,), tl.float32)
    square = tl.zeros((BN,), tl.float32)
    for start in range(begin, end, BM):
        row = start + tl.arange(0, BM)
        valid = (row < end)[:, None] & (n < D)[None, :]
        value = tl.load(x + row.to(tl.int64)[:, None] * D + n[None, :], mask=valid, other=0.0)
        if NORM_PARTS > 0:
            mean, scale = row_norm(row_sums, row, capacity, row < end, D, NORM_PARTS)
            gain = tl.load(norm_weight + n, mask=n < D, other=0.0)
            shift = tl.load(norm_bias + n, mask=n < D, other=0.0)
            value = (value - mean[:, None]) * scale[:, None] * gain[None, :] + shift[None, :]
            value = tl.where(valid, value, 0.0)
        total += tl.sum(value, 0)
        square += tl.sum(value * value, 0)
    at = stats + window.to(tl.int64) * K + BASE + layer * D + n
    tl.store(at, total, mask=n < D)
    tl.store(at + LAYERS * D, square, mask=n < D)


@triton.jit
def pool(
    mixed, x, row_sums, norm_weight, norm_bias, mix, attention_weight, attention_bias,
    begin, end, capacity, D: tl.constexpr, HEADS: tl.constexpr, PARTS: tl.constexpr,
    KEEP: tl.constexpr, BM: tl.constexpr, BP: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Return the sums over the frames [begin, end) of one window: [BP, BD], and of weights [BP].

    A frame is `mixed` + `mix` times the closing LayerNorm of `x`. Row 0 is the sum of frames, row
    1 of their squares, row 2 + h of frames times w_h = exp(4 tanh((a_h . frame + c_h) / 4)).
    With KEEP the frames are written back to `mixed`.
    """
    p = tl.arange(0, BP)
    d = tl.arange(0, BD)
    is_head = (p >= 2) & (p < 2 + HEADS)
    is_width = d < D
    a_at = attention_weight + (p - 2)[:, None] * D + d[None, :]
    a = tl.load(a_at, mask=is_head[:, None] & is_width[None, :], other=0.0)
    c = tl.load(attention_bias + p - 2, mask=is_head, other=0.0)
    gain = tl.load(norm_weight + d, mask=is_width, other=0.0)
    shift = tl.load(norm_bias + d, mask=is_width, other=0.0)
    sums = tl.zeros((BP, BD), tl.float32)
    weights = tl.zeros((BP,), tl.float32)
    for start in range(begin, end, BM):
        row = start + tl.arange(0, BM)
        valid = (row < end)[:, None] & is_width[None, :]
        at = row.to(tl.int64)[:, None] * D + d[None, :]
        mean, scale = row_norm(row_sums, row, capacity, row < end, D, PARTS)
        last = tl.load(x + at, mask=valid, other=0.0)
        last = (last - mean[:, None]) * scale[:, None] * gain[None, :] + shift[None, :]
        frame = tl.load(mixed + at, mask=valid, other=0.0) + mix * last
        frame = tl.where(valid, frame, 0.0)
        if KEEP:
            tl.store(mixed + at, frame, mask=valid)
        logit = tl.sum(frame[:, None, :] * a[None, :, :], 2) + c[None, :]
        # tanh(z) = 2 sigmoid(2 z) - 1
        weight = tl.exp(8.0 * tl.sigmoid(0.5 * logit) - 4.0)
        weight = tl.where((row < end)[:, None], weight, 0.0)
        weight = tl.where((p == 0)[None, :], 1.0, weight)
        factor = tl.where((p == 1)[None, :, None], frame[:, None, :], weight[:, :, None])
        sums += tl.sum(factor * frame[:, None, :], 0)
        weights += tl.sum(weight, 0)
    return sums, weights
