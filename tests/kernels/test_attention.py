"""Attention over plain matrices against NumPy in float64: full, windowed, masked by length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from other_isa import run_with_isa

from asa_engine import kernels
from asa_engine.kernels import reference
from asa_engine.kernels.attention import PRECISIONS, attend

Arrays = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]

# fp32: rounding of scores of a few units and of sums. bf16 keeps 8 bits of each factor: a score of
# size s moves by s / 2^9, and its weight by as large a part; values and weights lose 2^-9 each.
TOLERANCE = {"fp32": 1e-5, "bf16": 1.5e-2}
# Frames, width, heads, length, reach: heads of 64, 20 and 7 (padded inside), one frame, keys of
# many blocks, a window of one frame and of nearly all, queries too far from any key that counts.
CASES = [
    (1, 7, 1, None, None),
    (49, 60, 3, None, None),
    (1100, 128, 2, None, None),
    (700, 128, 2, 311, None),
    (300, 60, 3, None, 0),
    (301, 60, 3, None, 31),
    (1100, 128, 2, None, 64),
    (300, 7, 1, None, 298),
    (300, 60, 3, 130, 40),
    (200, 60, 3, 1, 5),
    (100, 60, 3, 10, 50),
]


def random_rows(frames: int, width: int, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    q, k, v = (rng.standard_normal((frames, width)).astype(np.float32) for _ in range(3))
    return q, k, v


def relative_error(found: NDArray[np.float32], expected: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def expect(
    arrays: Arrays, heads: int, length: int | None, reach: int | None
) -> NDArray[np.float64]:
    q, k, v = (array.astype(np.float64) for array in arrays)
    return reference.attend(q, k, v, heads, length, reach)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("frames", "width", "heads", "length", "reach"), CASES)
def test_agrees(
    frames: int, width: int, heads: int, length: int | None, reach: int | None, precision: str
) -> None:
    arrays = random_rows(frames, width)
    found = attend(*arrays, heads=heads, length=length, reach=reach, precision=precision)
    assert found.shape == (frames, width)
    assert relative_error(found, expect(arrays, heads, length, reach)) < TOLERANCE[precision]


@pytest.mark.parametrize("isa", kernels.available_isas())
def test_every_isa(isa: str, tmp_path: Path) -> None:
    """Kernels are chosen once a process."""
    for index, case in enumerate(CASES):
        np.save(tmp_path / f"{index}.npy", np.stack(random_rows(*case[:2])))
    code = (
        "import sys, numpy as np\n"
        "from asa_engine import kernels\n"
        "from asa_engine.kernels.attention import attend\n"
        "folder, isa, cases = sys.argv[1], sys.argv[2], eval(sys.argv[3], {})\n"
        "assert kernels.isa() == isa\n"
        "for index, (_, _, heads, length, reach) in enumerate(cases):\n"
        "    arrays = np.load(f'{folder}/{index}.npy')\n"
        "    for precision in ('fp32', 'bf16'):\n"
        "        out = attend(*arrays, heads=heads, length=length, reach=reach,\n"
        "                     precision=precision)\n"
        "        np.save(f'{folder}/{index}-{precision}.npy', out)\n"
    )
    done = run_with_isa(isa, "-c", code, str(tmp_path), isa, repr(CASES))
    assert done.returncode == 0, done.stderr
    for index, (frames, width, *masks) in enumerate(CASES):
        expected = expect(random_rows(frames, width), *masks)
        for precision in PRECISIONS:
            found = np.load(tmp_path / f"{index}-{precision}.npy")
            assert relative_error(found, expected) < TOLERANCE[precision], (index, precision)


FRAMES = st.integers(1, 120)


@settings(max_examples=80, deadline=None)
@given(FRAMES, st.integers(1, 4), st.integers(1, 70), FRAMES, st.none() | st.integers(0, 130))
def test_any_shape(
    frames: int, heads: int, head_width: int, length: int, reach: int | None
) -> None:
    arrays = random_rows(frames, heads * head_width)
    length = min(length, frames)
    found = attend(*arrays, heads=heads, length=length, reach=reach)
    np.testing.assert_allclose(found, expect(arrays, heads, length, reach), rtol=1e-4, atol=1e-5)


def test_what_does_not_count_is_not_seen() -> None:
    """Other values outside the window, or past the length, change no bit."""
    q, k, v = random_rows(200, 32)
    changed = v.copy()
    changed[120:] = 1e6
    for masks in ({"length": 120}, {"reach": 10}):
        before = attend(q, k, v, **masks)
        after = attend(q, k, changed, **masks)
        rows = 200 if "length" in masks else 110
        np.testing.assert_array_equal(before[:rows], after[:rows])


def test_a_query_without_keys_gives_zeros() -> None:
    found = attend(*random_rows(100, 24), heads=2, length=10, reach=50)
    assert not found[60:].any()
    assert found[:60].any(1).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_scores_far_above_the_first_keys(precision: str) -> None:
    """Whatever shift the first keys suggest overflows; one key then outweighs all others."""
    q, k, v = random_rows(300, 64)
    k[200] = 300 * q[5]
    found = attend(q, k, v, precision=precision)
    assert np.isfinite(found).all()
    # The value itself, rounded to bfloat16 in bf16.
    np.testing.assert_allclose(found[5], v[200], rtol=1e-6 if precision == "fp32" else 2**-8)


def test_non_contiguous() -> None:
    arrays = random_rows(80, 48)
    strided = [np.asfortranarray(array)[::2] for array in arrays]
    packed = [np.ascontiguousarray(array[::2]) for array in arrays]
    np.testing.assert_array_equal(attend(*strided, heads=2), attend(*packed, heads=2))


ROWS = np.zeros((5, 6), np.float32)


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ((ROWS[:0], ROWS[:0], ROWS[:0]), {}, r"\(0, 6\)"),
        ((ROWS[:, :0],) * 3, {}, r"\(5, 0\)"),
        ((ROWS, ROWS[:4], ROWS), {}, "one shape"),
        ((ROWS.astype(np.float64), ROWS, ROWS), {}, "queries must be float32"),
        ((ROWS, ROWS, ROWS[0]), {}, "values must be float32"),
        ((ROWS, ROWS + np.float32(np.nan), ROWS), {}, "keys must be finite"),
        ((ROWS,) * 3, {"heads": 0}, "heads"),
        ((ROWS,) * 3, {"heads": 4}, "heads"),
        ((ROWS,) * 3, {"length": 0}, "length"),
        ((ROWS,) * 3, {"length": 6}, "length"),
        ((ROWS,) * 3, {"reach": -1}, "reach"),
        ((ROWS,) * 3, {"precision": "int8"}, "precision"),
    ],
)
def test_bad_input(
    arrays: tuple[NDArray[np.float32], ...], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        attend(*arrays, **options)  # type: ignore[arg-type]
