"""Whisper's log-mel spectrogram of every window of a ragged batch."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["floor_mel", "spectrum"]


@triton.jit
def spectrum(
    samples, waves, filters, mel, tops, tiles, starts, starts_out, BINS: tl.constexpr,
    BM: tl.constexpr, BB: tl.constexpr, BF: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """mel = log10 of the mel power of every frame, at least -10; tops = each tile's largest.

    samples [n]; frames of 400 every 160, mirrored at both ends of the window. `waves` float32
    [2, 400, 256]: Hann times cosines, Hann times sines, zero beyond bin 200, so that the spectrum
    is a product; `filters` float32 [256, BB], zero beyond BINS. Tables as in `conv`.
    """
    tile = tl.program_id(0)
    window = tl.load(tiles + 2 * tile)
    if window < 0:
        return
    begin, end = tl.load(starts + window), tl.load(starts + window + 1)
    begin_out, end_out = tl.load(starts_out + window), tl.load(starts_out + window + 1)
    t = tl.load(tiles + 2 * tile + 1) + tl.arange(0, BM)
    valid = begin_out + t < end_out
    length = end - begin
    k = tl.arange(0, BK)
    b = tl.arange(0, BB)
    power = tl.zeros((BM, BB), tl.float32)
    for bins in range(0, 256, BF):
        f = bins + tl.arange(0, BF)
        real = tl.zeros((BM, BF), tl.float32)
        imaginary = tl.zeros((BM, BF), tl.float32)
        for start in range(0, 400, BK):
            at = tl.abs(t[:, None] * 160 - 200 + start + k[None, :])
            at = tl.where(at < length, at, 2 * (length - 1) - at)
            x = tl.load(samples + begin + at, mask=valid[:, None], other=0.0)
            wave = waves + (start + k)[:, None] * 256 + f[None, :]
            # Short sums first, then sums of these: the weakest bins decide how exact it must be.
            real += tl.dot(x, tl.load(wave), input_precision="ieee")
            imaginary += tl.dot(x, tl.load(wave + 400 * 256), input_precision="ieee")
        bank = tl.load(filters + f[:, None] * BB + b[None, :])
        power += tl.dot(real * real + imaginary * imaginary, bank, input_precision="ieee")
    # NaN must stay NaN: a maximum that drops it would turn a broken window into silence.
    level = tl.log2(tl.where(power < 1e-10, 1e-10, power)) * 0.30102999566398120
    at = (begin_out + t)[:, None] * BINS + b[None, :]
    valid = valid[:, None] & (b < BINS)[None, :]
    tl.store(mel + at, level, mask=valid)
    tl.store(tops + tile, tl.max(tl.max(tl.where(valid, level, float("-inf")), 1), 0))


@triton.jit
def floor_mel(
    mel, tops, tiles, first_tiles, starts_out, BINS: tl.constexpr,
    BM: tl.constexpr, BB: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """mel = (max(mel, the window's largest - 8) + 4) / 4, in place.

    `first_tiles` int32 [windows + 1]: where each window's tiles begin.
    """
    tile = tl.program_id(0)
    window = tl.load(tiles + 2 * tile)
    if window < 0:
        return
    top = tl.full((BT,), float("-inf"), tl.float32)
    end = tl.load(first_tiles + window + 1)
    for start in range(tl.load(first_tiles + window), end, BT):
        at = start + tl.arange(0, BT)
        top = tl.maximum(top, tl.load(tops + at, mask=at < end, other=float("-inf")))
    floor = tl.max(top, 0) - 8.0
    row = tl.load(starts_out + window) + tl.load(tiles + 2 * tile + 1) + tl.arange(0, BM)
    b = tl.arange(0, BB)
    valid = (row < tl.load(starts_out + window + 1))[:, None] & (b < BINS)[None, :]
    at = mel + row[:, None] * BINS + b[None, :]
    level = tl.load(at, mask=valid, other=0.0)
    tl.store(at, (tl.where(level < floor, floor, level) + 4.0) * 0.25, mask=valid)
