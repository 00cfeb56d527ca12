"""Whatever Python can pass: a result of the right shape or an exception, never a crash.

`make sanitize` runs these on a module built with AddressSanitizer, where a read past an array is a
crash too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from asa_engine import _kernels, kernels
from asa_engine.kernels.decoder import Decoder
from asa_engine.kernels.encoder import PRECISIONS, Encoder, pool
from asa_engine.nn.config import WhisperDecoderConfig, WhisperEncoderConfig

Array = NDArray[np.generic]

CONFIG = WhisperEncoderConfig(n_mels=7, d_model=30, layers=2, heads=3, ffn=50, positions=40)
# Squares and products of the last ones overflow float32.
FILLS = (0.0, 1.0, 1e-42, np.nan, np.inf, -np.inf, 3e38)


def _zeros(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.full(shape, 0.1, np.float32)


ENCODERS = {
    (precision, threads): Encoder(CONFIG, _zeros, precision=precision, threads=threads)
    for precision in PRECISIONS
    for threads in (1, 3)
}
DECODERS = {
    precision: Decoder(
        WhisperDecoderConfig(d_model=30, layers=2, heads=3, ffn=50, tokens=70, positions=20),
        _zeros,
        precision=precision,
    )
    for precision in ("fp32", "int8")
}
LAYOUTS: tuple[Callable[[Array], Array], ...] = (
    lambda array: array,
    np.asfortranarray,
    lambda array: array[..., ::-1],
    lambda array: np.repeat(array, 2, axis=-1)[..., ::2],
    lambda array: np.broadcast_to(array[..., :1], array.shape) if array.size else array,
)


@st.composite
def arrays(draw: st.DrawFn, *sides: st.SearchStrategy[int]) -> Array:
    """Arrays mostly of float32 and of the sides asked for, and everything beside that."""
    shape = [draw(side) for side in sides]
    if draw(st.integers(0, 9)) == 0:
        shape = draw(st.lists(st.integers(0, 20), max_size=4))
    dtype = draw(st.sampled_from(["f4"] * 8 + ["f2", "f8", ">f4", "i2", "c8", "?", "O"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.standard_normal(shape)
    if values.size and draw(st.booleans()):
        values.flat[draw(st.integers(0, values.size - 1))] = draw(st.sampled_from(FILLS))
    with np.errstate(all="ignore"):
        array: Array = np.asarray(values).astype(dtype)
    return draw(st.sampled_from(LAYOUTS))(array) if array.ndim else array


def _is_float32(array: Array, ndim: int) -> bool:
    return array.ndim == ndim and array.dtype == np.float32 and bool(np.isfinite(array).all())


@settings(max_examples=300, deadline=None)
@given(
    mels=st.lists(arrays(st.sampled_from([7] * 6 + [6, 8]), st.integers(0, 83)), max_size=4),
    weights=st.none() | st.lists(st.sampled_from([0.0, 0.5, 1.0, *FILLS]), max_size=4),
    precision=st.sampled_from(PRECISIONS),
    threads=st.sampled_from([1, 3]),
    moments=st.booleans(),
)
def test_encode(
    mels: list[Array], weights: list[float] | None, precision: str, threads: int, moments: bool
) -> None:
    encoder = ENCODERS[precision, threads]
    fits = all(
        _is_float32(mel, 2) and mel.shape[0] == CONFIG.n_mels and 1 <= mel.shape[1] <= 80
        for mel in mels
    ) and (weights is None or (len(weights) == 3 and bool(np.isfinite(weights).all())))
    encode = encoder.encode_with_moments if moments else encoder.encode
    if not fits:
        with pytest.raises(ValueError, match=r"mel|layer_weights"):
            encode(mels, weights)
        return
    found = [result[0] if moments else result for result in encode(mels, weights)]
    assert [frames.shape for frames in found] == [((m.shape[1] + 1) // 2, 30) for m in mels]
    small = all(np.abs(mel).max() < 1e3 for mel in mels) and max(weights or [1.0]) <= 1.0
    assert not small or all(np.isfinite(frames).all() for frames in found)


@settings(max_examples=200, deadline=None)
@given(samples=arrays(st.integers(0, 3000)), n_mels=st.integers(-2, 130))
def test_log_mel(samples: Array, n_mels: int) -> None:
    if not (_is_float32(samples, 1) and samples.size > 200 and 1 <= n_mels <= 128):
        with pytest.raises(ValueError, match=r"samples|n_mels"):
            kernels.log_mel(samples, n_mels)
        return
    assert kernels.log_mel(samples, n_mels).shape == (n_mels, samples.size // 160)


@settings(max_examples=100, deadline=None)
@given(
    room=st.integers(201, 2000),
    steps=st.lists(st.sampled_from(["close", "reset"]) | arrays(st.integers(0, 900)), max_size=12),
)
def test_log_mel_in_any_order(room: int, steps: list[str | Array]) -> None:
    window, held = kernels.LogMel(80, room), 0
    for step in steps:
        if isinstance(step, str):
            if step == "close" and held <= 200:
                with pytest.raises(ValueError, match="200 samples"):
                    window.close()
            elif step == "close":
                assert window.close().shape == (80, held // 160)
                held = 0
            else:
                window.reset()
                held = 0
        elif _is_float32(step, 1) and step.size <= room - held:
            window.push(step)
            held += step.size
        else:
            with pytest.raises(ValueError, match="samples"):
                window.push(step)
        assert (window.samples, window.room) == (held, room - held)


@settings(max_examples=200, deadline=None)
@given(
    frames=arrays(st.integers(0, 40), st.integers(1, 33)),
    weight=arrays(st.integers(0, 4), st.integers(1, 33)),
    bias=arrays(st.integers(0, 4)),
)
def test_pool(frames: Array, weight: Array, bias: Array) -> None:
    try:
        stats = pool(frames, weight, bias)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        # nanobind takes contiguous float32 of the right rank alone; the rest is for the kernel.
        fits = frames.dtype == weight.dtype == bias.dtype == np.float32 and frames.size > 0
        assert not (
            fits
            and all(array.flags.c_contiguous for array in (frames, weight, bias))
            and frames.ndim == weight.ndim == 2
            and bias.ndim == 1
            and weight.shape == (bias.size, frames.shape[1])
        )
        return
    assert stats.shape == (1 + 2 * frames.shape[1] + bias.size * (1 + frames.shape[1]),)


@settings(max_examples=300, deadline=None)
@given(
    speech=st.none() | arrays(st.integers(0, 60), st.sampled_from([30] * 6 + [29, 31])),
    tokens=st.lists(st.integers(-1, 70), max_size=24),
    prompt=st.integers(-1, 4),
    heads=st.lists(st.integers(-1, 6), max_size=4),
    precision=st.sampled_from(["fp32", "int8"]),
    steps=st.lists(st.integers(-1, 70), max_size=3),
)
def test_decoding_in_any_order(
    speech: Array | None,
    tokens: list[int],
    prompt: int,
    heads: list[int],
    precision: str,
    steps: list[int],
) -> None:
    decoder = DECODERS[precision]
    if speech is not None:
        try:
            decoder.start(speech)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return
    for token in steps:
        try:
            logits, _ = decoder.step(token)
        except (RuntimeError, ValueError):
            continue
        assert logits.shape == (70,)
    try:
        found = decoder.force(tokens, prompt, heads)
    except (RuntimeError, ValueError):
        return
    rows = len(tokens) - prompt
    assert found.own.shape == found.rank.shape == (rows,)
    assert found.attended.shape[0] == found.states.shape[0] == rows
    assert ((found.other >= -1) & (found.other < 70)).all()


NUMBERS = st.integers(-(2**31), 2**31 - 1) | st.integers(-1, 40)


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.tuples(*[NUMBERS] * 6),
    threads=st.sampled_from([-1, 0, 1, 2, 257, 2**31 - 1]),
    tensors=st.lists(arrays(st.integers(0, 30), st.integers(0, 30)), max_size=15),
    layer=NUMBERS,
)
def test_making_an_encoder(
    sizes: tuple[int, ...], threads: int, tensors: list[Array], layer: int
) -> None:
    """The compiled class itself, which the typed one calls with care."""
    try:
        encoder = _kernels.Encoder(*sizes, "bf16", threads)
    except ValueError:
        return
    for call in (
        lambda: encoder.set_stem(tensors),  # type: ignore[arg-type]
        lambda: encoder.set_layer(layer, tensors),  # type: ignore[arg-type]
        lambda: encoder.set_final_norm(tensors),  # type: ignore[arg-type]
        lambda: encoder.encode([np.zeros((sizes[0], 1), np.float32)], [1.0], False),
    ):
        with pytest.raises((TypeError, ValueError, RuntimeError)):
            call()
