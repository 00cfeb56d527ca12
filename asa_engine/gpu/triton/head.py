"""From a window's frames, or a recording's sums, to prior and scores in one launch."""

from __future__ import annotations

import triton
import triton.language as tl

from asa_engine.gpu.triton.functions import gelu
from asa_engine.gpu.triton.pooling import pool

__all__ = ["pool_and_head"]


@triton.jit
def layer_norm(x, gain, shift, inside, width):
    """Normalise the last axis of x [rows, lanes]; what is not `inside` becomes 0."""
    x = tl.where(inside, x, 0.0)
    centred = tl.where(inside, x - (tl.sum(x, 1) / width)[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 1) / width + 1e-5)
    return tl.where(inside, centred * scale[:, None] * gain + shift, 0.0)


@triton.jit
def kernel_regressor(
    total, place, projection, bias, duration_scale, centres, weights, means, count, duration,
    A: tl.constexpr, M: tl.constexpr, R: tl.constexpr, CENTRES: tl.constexpr,
    BA: tl.constexpr, BJ: tl.constexpr, BF: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """Return mean + sum_i w_i exp(-|p - c_i|^2), [BA], p the place of the summed moments.

    `total` [M]: sums, then sums of squares; `place` [R + 1] is room to put p.
    """
    HALF: tl.constexpr = M // 2
    j = tl.arange(0, BJ)
    for first in range(0, R, BJ):
        row = first + j
        value = tl.load(bias + row, mask=row < R, other=0.0)
        for start in range(0, HALF, BF):
            f = start + tl.arange(0, BF)
            mean = tl.load(total + f, mask=f < HALF, other=0.0) / count
            square = tl.load(total + HALF + f, mask=f < HALF, other=0.0) / count
            deviation = tl.sqrt(tl.maximum(square - mean * mean, 1e-5))
            at = projection + row[:, None] * M + f[None, :]
            inside = (row < R)[:, None] & (f < HALF)[None, :]
            value += tl.sum(tl.load(at, mask=inside, other=0.0) * mean[None, :], 1)
            value += tl.sum(tl.load(at + HALF, mask=inside, other=0.0) * deviation[None, :], 1)
        tl.store(place + row, value, mask=row < R)
    tl.store(place + R, duration * tl.load(duration_scale))
    tl.debug_barrier()
    aspect = tl.arange(0, BA)
    r = tl.arange(0, BR)
    here = tl.load(place + r, mask=r < R + 1, other=0.0)
    kernel = tl.load(means + aspect, mask=aspect < A, other=0.0)
    for first in range(0, CENTRES, BC):
        i = first + tl.arange(0, BC)
        inside = (i < CENTRES)[:, None] & (r < R + 1)[None, :]
        centre = tl.load(centres + i[:, None] * (R + 1) + r[None, :], mask=inside, other=0.0)
        apart = tl.where(inside, here[None, :] - centre, 0.0)
        near = tl.exp(-tl.sum(apart * apart, 1))
        both = (aspect < A)[:, None] & (i < CENTRES)[None, :]
        w = tl.load(weights + aspect[:, None] * CENTRES + i[None, :], mask=both, other=0.0)
        kernel += tl.sum(w * near[None, :], 1)
    return kernel


@triton.jit
def pool_and_head(
    # Frames and what pools them.
    mixed, x, row_sums, final_weight, final_bias, mix, attention_weight, attention_bias,
    starts, capacity,
    # In and out.
    stats, sums, total, place, scores, prior,
    # Weights.
    prior_norm_weight, prior_norm_bias, prior_fc1_weight, prior_fc1_bias,
    prior_fc2_weight, prior_fc2_bias, projector_weight, projector_bias,
    norms_weight, norms_bias, fc1_weight, fc1_bias, fc2_weight, fc2_bias,
    score_mean, score_std, blend, projection, kernel_bias, kernel_duration,
    centres, kernel_weights, kernel_mean,
    POOL: tl.constexpr, KEEP: tl.constexpr, PARTS: tl.constexpr,
    D: tl.constexpr, HEADS: tl.constexpr, PRIOR_WIDTH: tl.constexpr, LEVELS: tl.constexpr,
    EMBEDDING: tl.constexpr, WIDTH: tl.constexpr, A: tl.constexpr, M: tl.constexpr,
    R: tl.constexpr, CENTRES: tl.constexpr,
    BM: tl.constexpr, BD: tl.constexpr, BP: tl.constexpr, BJ: tl.constexpr, BI: tl.constexpr,
    BL: tl.constexpr, BE: tl.constexpr, BA: tl.constexpr, BF: tl.constexpr, BC: tl.constexpr,
    BR: tl.constexpr,
):  # fmt: skip
    """Pool one window, add the recording's earlier sums, and compute prior and scores.

    POOL: `stats` [windows, K] float32 gets the pooled sums; its moments are there already, from
    `moments`; `sums` [windows, K] float64 is what came before. Otherwise `stats` is what is
    scored. `total` [windows, K] and `place` [windows, R + 1] float32 are room to work in.
    What the numbers mean is told in `asa_engine.kernels.reference.pool` and `head`.
    """
    window = tl.program_id(0).to(tl.int64)
    K: tl.constexpr = 1 + 2 * D + HEADS + HEADS * D + M
    FEATURES: tl.constexpr = (2 + HEADS) * D + EMBEDDING + 1
    stats += window * K
    sums += window * K
    total += window * K
    p = tl.arange(0, BP)
    d = tl.arange(0, BD)
    is_part = p < 2 + HEADS
    inside = is_part[:, None] & (d < D)[None, :]
    parts_at = (1 + p * D + tl.where(p >= 2, HEADS, 0))[:, None] + d[None, :]
    weights_at = 1 + 2 * D + p - 2
    is_head = is_part & (p >= 2)
    if POOL:
        begin, end = tl.load(starts + window), tl.load(starts + window + 1)
        if begin == end:
            return
        parts, weights = pool(
            mixed, x, row_sums, final_weight, final_bias, mix, attention_weight, attention_bias,
            begin, end, capacity, D, HEADS, PARTS, KEEP, BM, BP, BD,
        )  # fmt: skip
        count = (end - begin).to(tl.float32)
        tl.store(stats, count)
        tl.store(stats + parts_at, parts, mask=inside)
        tl.store(stats + weights_at, weights, mask=is_head)
        # float64, as on the host: the score of a recording does not depend on who adds.
        count = (tl.load(sums) + count.to(tl.float64)).to(tl.float32)
        before = tl.load(sums + parts_at, mask=inside, other=0.0)
        parts = (before + parts.to(tl.float64)).to(tl.float32)
        before = tl.load(sums + weights_at, mask=is_head, other=0.0)
        weights = (before + weights.to(tl.float64)).to(tl.float32)
        for start in range(K - M, K, BF):
            k = start + tl.arange(0, BF)
            value = tl.load(stats + k, mask=k < K, other=0.0).to(tl.float64)
            value += tl.load(sums + k, mask=k < K, other=0.0)
            tl.store(total + k, value.to(tl.float32), mask=k < K)
        tl.debug_barrier()
        moments_at = total + K - M
    else:
        count = tl.load(stats)
        parts = tl.load(stats + parts_at, mask=inside, other=0.0)
        weights = tl.load(stats + weights_at, mask=is_head, other=0.0)
        moments_at = stats + K - M
    pooled = parts / tl.where(is_head, weights, count)[:, None]
    mean = tl.sum(tl.where((p == 0)[:, None], pooled, 0.0), 0)[None, :]
    deviation = tl.sqrt(tl.maximum(pooled - mean * mean, 1e-5))
    pooled = tl.where((p == 1)[:, None], deviation, pooled)

    is_width = (d < D)[None, :]
    gain = tl.load(prior_norm_weight + d[None, :], mask=is_width, other=0.0)
    shift = tl.load(prior_norm_bias + d[None, :], mask=is_width, other=0.0)
    normal = layer_norm(mean, gain, shift, is_width, D)
    level = tl.arange(0, BL)
    logits = tl.load(prior_fc2_bias + level, mask=level < LEVELS, other=0.0)
    i = tl.arange(0, BI)
    for first in range(0, PRIOR_WIDTH, BI):
        row = first + i
        at = prior_fc1_weight + row[:, None] * D + d[None, :]
        w = tl.load(at, mask=(row < PRIOR_WIDTH)[:, None] & is_width, other=0.0)
        hidden = tl.sum(w * normal, 1)
        hidden = gelu(hidden + tl.load(prior_fc1_bias + row, mask=row < PRIOR_WIDTH, other=0.0))
        both = (level < LEVELS)[:, None] & (row < PRIOR_WIDTH)[None, :]
        at = prior_fc2_weight + level[:, None] * PRIOR_WIDTH + row[None, :]
        logits += tl.sum(tl.load(at, mask=both, other=0.0) * hidden[None, :], 1)
    logits = tl.where(level < LEVELS, logits, float("-inf"))
    share = tl.exp(logits - tl.max(logits, 0))
    share = share / tl.sum(share, 0)
    tl.store(prior + window * LEVELS + level, share, mask=level < LEVELS)

    gain = tl.load(norms_weight + p[:, None] * D + d[None, :], mask=inside, other=0.0)
    shift = tl.load(norms_bias + p[:, None] * D + d[None, :], mask=inside, other=0.0)
    features = layer_norm(pooled, gain, shift, inside, D)
    e = tl.arange(0, BE)
    in_projector = (e < EMBEDDING)[:, None] & (level < LEVELS)[None, :]
    projector_at = projector_weight + e[:, None] * LEVELS + level[None, :]
    projector = tl.load(projector_at, mask=in_projector, other=0.0)
    embedded = tl.sum(projector * share[None, :], 1)
    embedded += tl.load(projector_bias + e, mask=e < EMBEDDING, other=0.0)
    duration = tl.log(count / 175.0) / 0.5
    duration = tl.where(duration < -2.0, -2.0, tl.where(duration > 3.5, 3.5, duration))
    aspect = tl.arange(0, BA)
    score = tl.load(fc2_bias + aspect, mask=aspect < A, other=0.0)
    j = tl.arange(0, BJ)
    for first in range(0, WIDTH, BJ):
        row = first + j
        is_row = row < WIDTH
        at = fc1_weight + row[:, None, None] * FEATURES + p[None, :, None] * D + d[None, None, :]
        w = tl.load(at, mask=is_row[:, None, None] & inside[None, :, :], other=0.0)
        hidden = tl.sum(tl.sum(w * features[None, :, :], 2), 1)
        at = fc1_weight + row[:, None] * FEATURES + (2 + HEADS) * D + e[None, :]
        w = tl.load(at, mask=is_row[:, None] & (e < EMBEDDING)[None, :], other=0.0)
        hidden += tl.sum(w * embedded[None, :], 1)
        w = tl.load(fc1_weight + row * FEATURES + FEATURES - 1, mask=is_row, other=0.0)
        hidden = gelu(hidden + w * duration + tl.load(fc1_bias + row, mask=is_row, other=0.0))
        both = (aspect < A)[:, None] & is_row[None, :]
        w = tl.load(fc2_weight + aspect[:, None] * WIDTH + row[None, :], mask=both, other=0.0)
        score += tl.sum(w * hidden[None, :], 1)
    score *= tl.load(score_std + aspect, mask=aspect < A, other=0.0)
    score += tl.load(score_mean + aspect, mask=aspect < A, other=0.0)
    if CENTRES > 0:
        kernel = kernel_regressor(
            moments_at, place + window * (R + 1), projection, kernel_bias, kernel_duration,
            centres, kernel_weights, kernel_mean, count, duration,
            A, M, R, CENTRES, BA, BI, BF, BC, BR,
        )  # fmt: skip
        part = tl.load(blend + aspect, mask=aspect < A, other=0.0)
        score = kernel + part * (score - kernel)
    tl.store(scores + window * A + aspect, score, mask=aspect < A)
