"""One file to ship: a grader as libasa maps it, weights, speech detector and all.

A header of 64 bytes, a description, tensors. docs/devices.md has the layout; the reader is
kernels/runtime/device_file.cc.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
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

__all__ = ["acoustic_file"]

MAGIC: Final = b"ASADEV\r\n"
REVISION: Final = 1
_ALIGNMENT: Final = 64
_FLOAT32, _FLOAT16 = 0, 1

Floats = NDArray[np.float32]


def acoustic_file(bundle: Bundle, precision: str, name: str) -> bytes:
    """Return the file of an acoustic grader.

    Args:
        bundle: Its weights are kept as they are: in float16 where that holds them exactly, else in
            float32. So scores are those of the native backend at the same precision.
        precision: What libasa packs them to when it opens the file, unless told otherwise.
        name: What the grader calls itself.

    Raises:
        CheckpointError: A tensor is missing, of another shape, or not finite.
        BackendError: The speech detector's weights are missing or not those that are known.
    """
    config = AcousticConfig.from_dict(bundle.config)
    tensors = _tensors(config, Tensors(bundle.path / WEIGHTS_NAME))
    about = (config.grader, name, bundle.version, bundle.sha256, metadata.version("asa-engine"))
    described = b"".join(_text(text) for text in (*about, precision)) + _described(config)
    return _laid_out(described, tensors)


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


def _laid_out(described: bytes, tensors: dict[str, Floats]) -> bytes:
    stored = {name: _stored(values) for name, values in tensors.items()}
    entry = struct.Struct("<IQQ")
    size = sum(len(_text(name)) + entry.size for name in stored)
    described_bytes = len(described) + 4 + size
    at = 64 + described_bytes
    table, body = [struct.pack("<I", len(stored))], []
    for name, (kind, data) in stored.items():
        padding = -at % _ALIGNMENT
        table.append(_text(name) + entry.pack(kind, at + padding, tensors[name].size))
        body.append(bytes(padding) + data)
        at += padding + len(data)
    rest = b"".join((described, *table, *body))
    header = MAGIC + struct.pack("<IIQQ", REVISION, described_bytes, 64 + len(rest), 0)
    return header + hashlib.sha256(rest).digest() + rest


def _stored(values: Floats) -> tuple[int, bytes]:
    """Return a tensor's type and bytes: float16 where that loses nothing."""
    with np.errstate(over="ignore"):
        halves = values.astype("<f2")
    if np.array_equal(halves.astype(np.float32), values):
        return _FLOAT16, halves.tobytes()
    return _FLOAT32, values.astype("<f4").tobytes()


def _described(config: AcousticConfig) -> bytes:
    encoder = config.encoder
    numbers = (
        *(encoder.n_mels, encoder.d_model, encoder.layers, encoder.heads, encoder.ffn),
        *(encoder.positions, config.window_samples, config.min_window_samples),
        *(config.window_padding == "full", config.front, config.attention_heads),
        *(config.prior_width, config.prior_embedding, config.head_width, config.kernel_centres),
        config.shape.place,
    )
    described = struct.pack(f"<{len(numbers)}I", *numbers) + _doubles(config.prior_levels)
    described += struct.pack("<I", len(config.aspects))
    return described + b"".join(_aspect(aspect) for aspect in config.aspects)


def _aspect(aspect: AspectConfig) -> bytes:
    names = struct.pack("<I", len(aspect.level_names))
    pairs = b"".join(struct.pack("<dd", *pair) for pair in aspect.sd)
    return b"".join(
        (
            _text(aspect.name),
            struct.pack("<dd", aspect.scale_min, aspect.scale_max),
            _doubles(aspect.level_cuts),
            names + b"".join(_text(name) for name in aspect.level_names),
            struct.pack("<I", len(aspect.sd)) + pairs,
        )
    )


def _doubles(values: Sequence[float]) -> bytes:
    return struct.pack(f"<I{len(values)}d", len(values), *values)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<I", len(encoded)) + encoded
