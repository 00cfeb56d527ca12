"""Room for a batch on the GPU, and the tables that tell kernels what is in it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from asa_engine.gpu.device import Limits, Ragged, mel_frames_of
from asa_engine.gpu.triton.tiles import Tile, attention_tile, product_tile, tile_table
from asa_engine.gpu.triton.weights import DTYPES
from asa_engine.nn.acoustic_tensors import GraderShape

__all__ = [
    "MEL_TILE",
    "Bucket",
    "buffer_bytes",
    "buffer_shapes",
    "conv_tiles",
    "table_sizes",
    "tables_of",
]

MEL_TILE = {"BM": 32, "BF": 64, "BK": 16}
SAMPLES_PER_FRAME = 320
# A window of 2 T - 1 log-mel frames, and an odd sample rest, still makes T encoder frames.
SPARE_SAMPLES = 159


@dataclass(frozen=True, slots=True)
class Bucket:
    """Sizes that launches are made for; one captured graph each.

    Attributes:
        windows: Windows it has room for.
        frames: Encoder frames it has room for.
        samples: Whether windows come as samples, not as log-mels.
        keep: Whether the frames are wanted.
    """

    windows: int
    frames: int
    samples: bool
    keep: bool


def buffer_shapes(
    shape: GraderShape, precision: str, limits: Limits
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return name -> (shape, type) of every buffer a model of these limits makes."""
    low, full = DTYPES[precision], torch.float32
    width = shape.encoder.d_model
    windows, frames = limits.windows, limits.frames
    mel_frames = 2 * frames
    parts = math.ceil(width / product_tile(width, width, precision).columns)
    tables = table_sizes(shape, precision, Bucket(windows, frames, True, False))
    return {
        "samples": ((frames * SAMPLES_PER_FRAME + windows * SPARE_SAMPLES,), full),
        "mel": ((mel_frames, shape.encoder.n_mels), full),
        "tops": ((tables["mel_tiles"] // 2,), full),
        "stem": ((mel_frames, width), low),
        "x": ((frames, width), full),
        "low": ((frames, width), low),
        "mixed": ((frames, width), full),
        "row_sums": ((parts, 2, frames), full),
        "qkv": ((frames, 3 * width), low),
        "attended": ((frames, width), low),
        "inner": ((frames, shape.encoder.ffn), low),
        "stats": ((windows, shape.stats_width), full),
        "total": ((windows, shape.stats_width), full),
        "sums": ((windows, shape.stats_width), torch.float64),
        "place": ((windows, shape.place + 1), full),
        "scores": ((windows, shape.aspects), full),
        "prior": ((windows, shape.levels), full),
        "tables": ((sum(tables.values()),), torch.int32),
    }


def buffer_bytes(shape: GraderShape, precision: str, limits: Limits) -> int:
    """Return the bytes of all of them."""
    sizes = buffer_shapes(shape, precision, limits).values()
    return sum(math.prod(size) * dtype.itemsize for size, dtype in sizes)


ALIGNED = 4


def table_sizes(shape: GraderShape, precision: str, bucket: Bucket) -> dict[str, int]:
    """Return name -> int32 numbers of each table of a bucket, in the order they are stored."""

    def tiles(frames: int, rows: int) -> int:
        return 2 * (frames // rows + bucket.windows)

    config = shape.encoder
    starts = bucket.windows + 1
    conv1, conv2 = conv_tiles(shape, precision)
    sizes = {
        "counts": 1,
        "sample_starts": starts,
        "mel_starts": starts,
        "starts": starts,
        "mel_tile_starts": starts,
        "mel_tiles": tiles(2 * bucket.frames, MEL_TILE["BM"]),
        "conv1_tiles": tiles(2 * bucket.frames, conv1.rows),
        "conv2_tiles": tiles(bucket.frames, conv2.rows),
        "attention_tiles": tiles(
            bucket.frames, attention_tile(config.d_model // config.heads, precision).rows
        ),
    }
    # Every table begins at a multiple of 16 bytes: Triton compiles anew for pointers that do not.
    return {name: -(-size // ALIGNED) * ALIGNED for name, size in sizes.items()}


def conv_tiles(shape: GraderShape, precision: str) -> tuple[Tile, Tile]:
    """Return the tiles of the two convolutions."""
    width = shape.encoder.d_model
    return (
        product_tile(width, shape.encoder.n_mels, precision),
        product_tile(width, width, precision),
    )


def tables_of(
    shape: GraderShape, precision: str, batch: Ragged, bucket: Bucket
) -> NDArray[np.int32]:
    """Return what the kernels look up: where windows begin, and which tiles there are."""
    lengths = batch.frames
    mel_lengths = np.diff(batch.starts).tolist()
    if bucket.samples:
        mel_lengths = [mel_frames_of(length) for length in mel_lengths]
    conv1, conv2 = conv_tiles(shape, precision)
    config = shape.encoder
    queries = attention_tile(config.d_model // config.heads, precision).rows
    mel_tiles, first_mel_tiles = tile_table(mel_lengths, MEL_TILE["BM"])
    tables = {
        "counts": np.array([sum(lengths)]),
        "sample_starts": batch.starts,
        "mel_starts": np.concatenate([[0], np.cumsum(mel_lengths)]),
        "starts": np.concatenate([[0], np.cumsum(lengths)]),
        "mel_tile_starts": first_mel_tiles,
        "mel_tiles": mel_tiles,
        "conv1_tiles": tile_table(mel_lengths, conv1.rows)[0],
        "conv2_tiles": tile_table(lengths, conv2.rows)[0],
        "attention_tiles": tile_table(lengths, queries)[0],
    }
    sizes = table_sizes(shape, precision, bucket)
    packed = np.empty(sum(sizes.values()), np.int32)
    at = 0
    for name, size in sizes.items():
        values = tables[name].ravel()
        packed[at : at + len(values)] = values
        # Windows that are not there begin and end at the end; tiles that are not are -1.
        packed[at + len(values) : at + size] = -1 if "tiles" in name else values[-1]
        at += size
    return packed
