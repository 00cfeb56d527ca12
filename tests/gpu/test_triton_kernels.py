"""Each Triton kernel against NumPy in float64: odd shapes, windows of one frame, NaN.

On a machine without a GPU they run in Triton's interpreter.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gpu_samples import random_mel, speech_like
from numpy.typing import NDArray

from asa_engine.gpu.device import mel_frames_of
from asa_engine.gpu.triton.attention import attention  # where triton is
from asa_engine.gpu.triton.conv import conv
from asa_engine.gpu.triton.linear import linear
from asa_engine.gpu.triton.log_mel import floor_mel, spectrum
from asa_engine.gpu.triton.tiles import tile_table
from asa_engine.gpu.triton.weights import spectrum_tables
from asa_engine.kernels import reference

Array = NDArray[np.float64]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# float32 sums of tens to hundreds of numbers of size 1.
FP32 = 2e-6
# bfloat16 rounds to 2^-9: the softmax's weights, values of up to 3, and the result.
BF16 = 2**-9 * 6


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32).astype(np.float64)


def put(value: NDArray[np.generic], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.from_numpy(np.array(value, order="C")).to(dtype).to(DEVICE)


def get(value: torch.Tensor) -> Array:
    return value.double().cpu().numpy()


def starts_of(lengths: list[int]) -> torch.Tensor:
    return put(np.concatenate([[0], np.cumsum(lengths)]), torch.int32)


def tiles_of(lengths: list[int], rows: int, spare: int = 2) -> torch.Tensor:
    """The tiles of the windows, and some that are not there."""
    table = tile_table(lengths, rows)[0]
    return put(np.concatenate([table, np.full((spare, 2), -1)]), torch.int32)


def rounded(value: Array, dtype: torch.dtype) -> Array:
    return get(put(value, dtype))


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, FP32), (torch.bfloat16, BF16)])
@pytest.mark.parametrize("width", [16, 20])
def test_attention(width: int, dtype: torch.dtype, atol: float) -> None:
    lengths, heads = [1, 37, 16, 3], 2
    size = heads * width
    qkv = rounded(normal(sum(lengths), 3 * size), dtype)
    out = torch.full((sum(lengths), size), math.nan, dtype=dtype, device=DEVICE)
    attention[(len(tile_table(lengths, 16)[0]) + 2, heads)](
        put(qkv, dtype), out, tiles_of(lengths, 16), starts_of(lengths),
        math.log2(math.e) / math.sqrt(width), D=size, WIDTH=width,
        BM=16, BN=16, BW=16 if width == 16 else 32,
    )  # fmt: skip
    expected = [
        reference.attend(*np.split(rows, 3, axis=1), heads)
        for rows in np.split(qkv, np.cumsum(lengths)[:-1])
    ]
    np.testing.assert_allclose(get(out), np.concatenate(expected), rtol=0, atol=atol)


def run_linear(
    a: Array, weight: Array, bias: Array, dtype: torch.dtype = torch.float32, **changes: object
) -> dict[str, torch.Tensor]:
    """One launch on buffers with more rows than the batch."""
    rows, (columns, depth), capacity = len(a), weight.shape, 48
    parts = math.ceil(columns / 16)
    padded = np.full((capacity, depth), math.nan)
    padded[:rows] = a
    b = {
        "a": put(padded, dtype),
        "weight": put(weight, dtype),
        "out": torch.zeros((capacity, columns), device=DEVICE),
        "low": torch.zeros((capacity, columns), dtype=dtype, device=DEVICE),
        "row_sums": torch.zeros((parts, 2, capacity), device=DEVICE),
        "mixed": torch.zeros((capacity, columns), device=DEVICE),
    }
    sums = b["weight"].double().sum(1).float()
    given = {"NORM_PARTS": 0, "GELU": False, "RESIDUAL": False, "MIX": False, "mix": 0.0}
    options = given | {k: v for k, v in changes.items() if k not in b}
    b |= {name: value for name, value in changes.items() if name in b}
    linear[(math.ceil(capacity / 16) * parts,)](
        b["a"], b["weight"], put(bias), sums, b["out"], b["low"], b["row_sums"], b["mixed"],
        put(np.array([rows]), torch.int32), capacity=capacity, N=columns, K=depth,
        BM=16, BN=16, BK=16, GROUP=2, **options,
    )  # fmt: skip
    return b


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_linear(dtype: torch.dtype, atol: float) -> None:
    a, weight, bias = (rounded(normal(*s), dtype) for s in ((21, 37), (35, 37), (35,)))
    found = run_linear(a, weight, bias, dtype, GELU=True)
    expected = reference.gelu(a @ weight.T + bias)
    np.testing.assert_allclose(get(found["out"])[:21], expected, rtol=0, atol=atol)
    assert not get(found["out"])[21:].any()


def test_linear_adds_to_the_residual_and_sums_its_rows_for_the_norm_behind() -> None:
    """Two launches: what the first leaves behind normalises the input of the second."""
    a, weight, bias = normal(19, 24), normal(36, 24, seed=1), normal(36, seed=2)
    before, mixed = normal(48, 36, seed=3), normal(48, 36, seed=4)
    first = run_linear(
        a, weight, bias, out=put(before), mixed=put(mixed), RESIDUAL=True, MIX=True, mix=0.25
    )
    x = before[:19] + a @ weight.T + bias
    np.testing.assert_allclose(get(first["out"])[:19], x, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(get(first["low"])[:19], get(first["out"])[:19])
    np.testing.assert_allclose(get(first["mixed"])[:19], mixed[:19] + x / 4, rtol=0, atol=1e-5)
    np.testing.assert_allclose(get(first["row_sums"]).sum(0)[0, :19], x.sum(1), atol=1e-4)
    np.testing.assert_allclose(get(first["row_sums"]).sum(0)[1, :19], (x**2).sum(1), rtol=1e-6)

    gain, shift = 1 + 0.3 * normal(36, seed=5), normal(36, seed=6)
    weight, bias = normal(22, 36, seed=7), normal(22, seed=8)
    second = run_linear(
        get(first["low"])[:19],
        weight * gain,
        bias + weight @ shift,
        row_sums=first["row_sums"],
        NORM_PARTS=3,
    )
    expected = reference.layer_norm(x, gain, shift) @ weight.T + bias
    np.testing.assert_allclose(get(second["out"])[:19], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("lengths", [[1, 2, 21, 1], [34]])
def test_conv(lengths: list[int]) -> None:
    """Both convolutions of the stem; a window sees zeros beyond its ends, not its neighbours."""
    channels, width = 21, 19
    mels = [random_mel(length, seed, channels).T for seed, length in enumerate(lengths)]
    weight, bias = normal(width, channels, 3), normal(width, seed=1)
    taps = put(weight.transpose(2, 0, 1))
    table = normal(34, width, seed=2)
    halves = [(length + 1) // 2 for length in lengths]
    for stride, embed, frames in ((1, False, lengths), (2, True, halves)):
        out, low, mixed = (torch.zeros((64, width), device=DEVICE) for _ in range(3))
        sums = torch.zeros((2, 2, 64), device=DEVICE)
        conv[(len(tile_table(frames, 16)[0]) + 2, 2)](
            put(np.concatenate(mels)), taps, put(bias), put(table), out, low, sums, mixed,
            tiles_of(frames, 16), starts_of(lengths), starts_of(frames), 0.5, 64,
            N=width, C=channels, STRIDE=stride, EMBED=embed, BM=16, BN=16, BK=16,
        )  # fmt: skip
        expected = np.concatenate(
            [
                reference.gelu(reference.convolve(mel.astype(np.float64), weight, bias, stride))
                + embed * table[: len(range(0, len(mel), stride))]
                for mel in mels
            ]
        )
        rows = len(expected)
        np.testing.assert_allclose(get(out)[:rows], expected, rtol=0, atol=1e-5)
        if embed:
            np.testing.assert_array_equal(get(low), get(out))
            np.testing.assert_allclose(get(mixed)[:rows], expected / 2, rtol=0, atol=1e-5)
            squares = get(sums).sum(0)[1, :rows]
            np.testing.assert_allclose(squares, (expected**2).sum(1), rtol=1e-5)


def test_log_mel() -> None:
    lengths = [201, 3999, 161 + 480]
    windows = [speech_like(length, seed) for seed, length in enumerate(lengths)]
    windows[2][:] = 0
    frames = [mel_frames_of(length) for length in lengths]
    table, first = tile_table(frames, 16)
    waves, filters = (put(part) for part in spectrum_tables(80))
    mel = torch.zeros((sum(frames), 80), device=DEVICE)
    tops = torch.zeros(len(table), device=DEVICE)
    sizes = {"BINS": 80, "BM": 16, "BB": 128}
    spectrum[(len(table),)](
        put(np.concatenate(windows)), waves, filters, mel, tops, put(table, torch.int32),
        starts_of(lengths), starts_of(frames), BF=64, BK=16, **sizes,
    )  # fmt: skip
    floor_mel[(len(table),)](
        mel, tops, put(table, torch.int32), put(first, torch.int32), starts_of(frames), BT=2,
        **sizes,
    )  # fmt: skip
    expected = np.concatenate([reference.log_mel(window).T for window in windows])
    # Bins 80 dB under the loudest are sums of 400 products that cancel to 1e-4 of their size.
    np.testing.assert_allclose(get(mel), expected, rtol=0, atol=3e-4)
