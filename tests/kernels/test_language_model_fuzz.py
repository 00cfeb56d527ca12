"""Whatever Python can pass to a language model's kernels: a result or an exception, never a crash.

`make sanitize` runs these on a module built with AddressSanitizer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from asa_engine import _kernels

# Neither width, inner width nor a head is a multiple of any panel or group.
WIDTH, LAYERS, HEADS, KV_HEADS, HEAD, INNER, ROTATED, POSITIONS = 60, 2, 4, 2, 18, 50, 10, 40
Sizes = tuple[int, ...]
SIZES = (WIDTH, LAYERS, HEADS, KV_HEADS, HEAD, INNER, ROTATED, POSITIONS)


def model(precision: str, threads: int = 1, sizes: Sizes = SIZES) -> Any:
    kind: Any = _kernels.LanguageModel
    return kind(*sizes, 1e-5, precision, threads)


def filled(precision: str, threads: int) -> Any:
    made, rng = model(precision, threads), np.random.default_rng(4)

    def noise(*shape: int) -> NDArray[np.float32]:
        return rng.normal(0, 0.1, shape).astype(np.float32)

    queries, keys = HEADS * HEAD, KV_HEADS * HEAD
    shapes = [(queries, WIDTH), (keys, WIDTH), (keys, WIDTH), (WIDTH, queries)]
    shapes += [(INNER, WIDTH), (INNER, WIDTH), (WIDTH, INNER)]
    for layer in range(LAYERS):
        norms = [np.ones(WIDTH, np.float32)] * 2
        if precision == "int8" and threads == 1:
            steps = [rng.integers(-127, 128, shape).astype(np.int8) for shape in shapes]
            scales = [np.full((rows, 1), 1e-3, np.float32) for rows, _ in shapes]
            made.set_layer_steps(layer, norms, steps, scales, [])
        else:
            biases = [noise(queries), noise(keys), noise(keys)]
            made.set_layer(layer, norms, [noise(*shape) for shape in shapes], biases)
    angles = np.ones((POSITIONS, ROTATED // 2), np.float32)
    made.set_closing([np.ones(WIDTH, np.float32), angles, angles])
    return made


MODELS = [filled(p, t) for p in ("fp32", "bf16", "int8") for t in (1, 3)]


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(-1, 70), min_size=8, max_size=8),
    precision=st.sampled_from(["fp32", "bf16", "int8"]),
    likely=st.booleans(),
)
def test_any_shape(sizes: list[int], precision: str, likely: bool) -> None:
    if likely:  # heads that are divided, and an even number of channels that are turned
        sizes[2] = sizes[3] * max(sizes[2] // 20, 1)
        sizes[6] = min(sizes[6], sizes[4]) // 2 * 2
    width, _, heads, kv_heads, head, _, rotated, _ = sizes
    fits = min(sizes) >= 1 and heads % kv_heads == 0 and rotated <= head and rotated % 2 == 0
    fits = fits and heads <= 256
    if not fits:
        with pytest.raises(ValueError, match="not the shape"):
            model(precision, sizes=tuple(sizes))
        return
    made = model(precision, sizes=tuple(sizes))
    with pytest.raises(RuntimeError, match="not all set"):
        made.packed()
    with pytest.raises(RuntimeError, match="not all set"):
        made.extend([_kernels.Past(made, 1)], [np.zeros((1, width), np.float32)], [0])


CALLS = st.lists(
    st.tuples(
        st.sampled_from(["extend"] * 5 + ["rewind", "fork", "state"]),
        st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 24), st.integers(0, 25)), max_size=3),
        st.sampled_from([0.0, 1.0, np.nan, np.inf, 3e38]),
    ),
    max_size=6,
)


@settings(max_examples=150, deadline=None)
@given(calls=CALLS, index=st.integers(0, len(MODELS) - 1))
def test_calls_in_any_order(calls: Any, index: int) -> None:
    made = MODELS[index]
    pasts = [_kernels.Past(made, capacity) for capacity in (1, 17, POSITIONS)]
    for what, parts, fill in calls:
        chosen = [pasts[which] for which, _, _ in parts]
        lengths = [past.length for past in chosen]
        rows = [np.full((max(count, 0), WIDTH), fill, np.float32) for _, count, _ in parts]
        try:
            if what == "extend":
                wanted = [wanted for _, _, wanted in parts]
                found = made.extend(chosen, rows, wanted)
                assert [x.shape for x in found] == [(count, WIDTH) for count in wanted]
                for past, length, new in zip(chosen, lengths, rows, strict=True):
                    assert past.length == length + len(new)
            for past, (_, count, _) in zip(chosen, parts, strict=True):
                if what == "rewind":
                    past.rewind(count)
                    assert past.length == count
                elif what == "fork":
                    past.begin_like(pasts[2], count)
                    assert past.length == count
                elif what == "state":
                    state, length = past.read(), past.length
                    past.write(state, length)
                    np.testing.assert_array_equal(past.read(), state)
        except ValueError:
            continue  # refused: no room, twice in a batch, a beginning that is not there


def test_wrong_arrays_are_refused() -> None:
    made = MODELS[0]
    past = _kernels.Past(made, POSITIONS)
    for rows in (np.zeros((2, WIDTH + 1), np.float32), np.zeros((41, WIDTH), np.float32)):
        with pytest.raises(ValueError, match="do not fit"):
            made.extend([past], [rows], [0])
    with pytest.raises(ValueError, match="as many sequences"):
        made.extend([past], [], [])
    with pytest.raises(ValueError, match="another size"):
        past.write(np.zeros(3, np.float32), 1)
    with pytest.raises(ValueError, match="not the packed weights"):
        model("fp32").adopt(np.zeros(16, np.int32))
    with pytest.raises(ValueError, match="1 to 40 positions"):
        _kernels.Past(made, POSITIONS + 1)
    assert past.length == 0
