"""One file to ship: a grader as libasa maps it, weights, speech detector and all.

A header of 64 bytes, a description, tensors. docs/devices.md has the layout; the reader is
kernels/runtime/device_file.cc.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Final

import numpy as np
from numpy.typing import NDArray

from asa_engine.artifacts.safetensors import Tensors
from asa_engine.audio.vad import detector_weights
from asa_engine.bundle import WEIGHTS_NAME, Bundle
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.graders.aspects import AspectConfig
from asa_engine.nn.acoustic_tensors import (
    HEAD_NAMES,
    REGRESSOR_NAMES,
    encoder_tensors,
    layer_weights,
)
from asa_engine.nn.config import WhisperEncoderConfig

__all__ = [
    "Stored",
    "acoustic_file",
    "described_aspect",
    "doubles",
    "laid_out",
    "pairs",
    "text",
    "windows",
]

MAGIC: Final = b"ASADEV\r\n"
REVISION: Final = 2
_ALIGNMENT: Final = 64
_FLOAT32, _FLOAT16, _INT8, _BYTES, _FLOAT15, _FLOAT29 = range(6)

Floats = NDArray[np.float32]
Stored = Floats | NDArray[np.int8] | bytes
"""A tensor; one in 8 bits, whose scales stand beside it; or what is none."""


def acoustic_file(bundle: Bundle, precision: str, name: str) -> bytes:
    """Return the file of an acoustic grader.

    Args:
        bundle: Its weights are kept as they are: in float16 where that holds them exactly, else in
            float32, and of either in fewer bits where that loses nothing. So scores are those of
            the native backend at the same precision.
        precision: What libasa packs them to when it opens the file, unless told otherwise.
        name: What the grader calls itself.

    Raises:
        CheckpointError: A tensor is missing, of another shape, or not finite.
        BackendError: The speech detector's weights are missing or not those that are known.
    """
    config = AcousticConfig.from_dict(bundle.config)
    tensors = _tensors(config, Tensors(bundle.path / WEIGHTS_NAME))
    about = (config.grader, name, bundle.version, bundle.sha256, metadata.version("asa-engine"))
    described = b"".join(text(said) for said in (*about, precision)) + _described(config)
    return laid_out(described, tensors)


def _tensors(config: AcousticConfig, source: Tensors) -> dict[str, Floats]:
    """Return every tensor that libasa reads, by name and in its order."""
    found = {
        f"encoder.{name}": source.read(f"encoder.{name}", shape)
        for name, shape in encoder_tensors(config.encoder).items()
    }
    head = {name: source.read(name, shape) for name, shape in config.shape.head_shapes().items()}
    for kind in ("weight", "bias"):
        norms = [head[f"pool_norms.{i}.{kind}"] for i in range(2 + config.attention_heads)]
        head[f"pool_norms.{kind}"] = np.stack(norms)
    found["layer_weights"] = layer_weights(head["layer_mix"]).astype(np.float32)
    names = ("attention.weight", "attention.bias", *HEAD_NAMES)
    for name in names + (REGRESSOR_NAMES if config.kernel_centres else ()):
        found[name] = head[name]
    return found | detector_weights()


def laid_out(described: bytes, tensors: Mapping[str, Stored]) -> bytes:
    """Return a file of a description and what it lists, in this order."""
    stored = {name: _stored(values) for name, values in tensors.items()}
    entry = struct.Struct("<IQQ")
    size = sum(len(text(name)) + entry.size for name in stored)
    described_bytes = len(described) + 4 + size
    at = 64 + described_bytes
    table, body = [struct.pack("<I", len(stored))], []
    for name, (kind, count, data) in stored.items():
        padding = -at % _ALIGNMENT
        table.append(text(name) + entry.pack(kind, at + padding, count))
        body.append(bytes(padding) + data)
        at += padding + len(data)
    rest = b"".join((described, *table, *body))
    header = MAGIC + struct.pack("<IIQQ", REVISION, described_bytes, 64 + len(rest), 0)
    return header + hashlib.sha256(rest).digest() + rest


def _stored(values: Stored) -> tuple[int, int, bytes]:
    """Return a tensor's type, count and bytes: in the fewest bits that lose nothing."""
    if isinstance(values, bytes):
        return _BYTES, len(values), values
    if values.dtype == np.int8:
        return _INT8, values.size, values.tobytes()
    with np.errstate(over="ignore"):
        halves = values.astype("<f2")
    if np.array_equal(halves.astype(np.float32), values):
        return _narrowest(halves.view("<u2"), (_FLOAT16, _FLOAT15), [14], 0)
    return _narrowest(values.astype("<f4").view("<u4"), (_FLOAT32, _FLOAT29), [28, 29, 30], 0b011)


def _narrowest(
    words: NDArray[np.uint16] | NDArray[np.uint32],
    kinds: tuple[int, int],
    left_out: list[int],
    alike: int,
) -> tuple[int, int, bytes]:
    """Return numbers without those bits of the exponent that all have alike, end to end.

    Zeros have other ones and are told by having no bit but the sign, which no other number may.
    Where a number does not fit, all are returned as they are, and of the first kind.
    """
    width = 8 * words.itemsize
    mask = sum(1 << bit for bit in left_out)
    whole = (1 << (width - 1)) - 1
    fits = ((words & mask) == alike << left_out[0]) & ((words & (whole ^ mask)) != 0)
    if not np.all(fits | ((words & whole) == 0)):
        return kinds[0], words.size, words.tobytes()
    bits = np.unpackbits(words.ravel().view(np.uint8), bitorder="little").reshape(-1, width)
    packed = np.packbits(np.delete(bits, left_out, axis=1), bitorder="little")
    return kinds[1], words.size, packed.tobytes()


def _described(config: AcousticConfig) -> bytes:
    numbers = (
        *windows(config.encoder, config.window_samples, config.min_window_samples),
        *(config.window_padding == "full", config.front, config.attention_heads),
        *(config.prior_width, config.prior_embedding, config.head_width, config.kernel_centres),
        config.shape.place,
    )
    described = struct.pack(f"<{len(numbers)}I", *numbers) + doubles(config.prior_levels)
    described += struct.pack("<I", len(config.aspects))
    return described + b"".join(described_aspect(aspect) for aspect in config.aspects)


def windows(encoder: WhisperEncoderConfig, window: int, least: int) -> tuple[int, ...]:
    """Return an encoder's shape, the samples of a window and of the least last one."""
    shape = (encoder.n_mels, encoder.d_model, encoder.layers, encoder.heads, encoder.ffn)
    return (*shape, encoder.positions, window, least)


def described_aspect(aspect: AspectConfig) -> bytes:
    """Return an aspect as the file has it."""
    names = struct.pack("<I", len(aspect.level_names))
    return b"".join(
        (
            text(aspect.name),
            struct.pack("<dd", aspect.scale_min, aspect.scale_max),
            doubles(aspect.level_cuts),
            names + b"".join(text(name) for name in aspect.level_names),
            pairs(aspect.sd),
        )
    )


def pairs(table: Sequence[tuple[float, float]]) -> bytes:
    """Return a list of pairs of numbers."""
    return struct.pack("<I", len(table)) + b"".join(struct.pack("<dd", *pair) for pair in table)


def doubles(values: Sequence[float]) -> bytes:
    """Return a list of numbers."""
    return struct.pack(f"<I{len(values)}d", len(values), *values)


def text(said: str) -> bytes:
    """Return a text: its bytes' number, and UTF-8."""
    encoded = said.encode()
    return struct.pack("<I", len(encoded)) + encoded
