"""Tile sizes: fixed by the shapes of weights and by the precision, never by what is in a batch.

A sum's order is that of its tiles, so a choice that saw the batch would let one stream change the
last bits of another's scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asa_engine.nn.acoustic_tensors import GraderShape

__all__ = ["Tile", "attention_tile", "head_tile", "power_of_two", "product_tile", "tile_table"]


@dataclass(frozen=True, slots=True)
class Tile:
    """Sizes of a block, and how many warps and pipeline stages work on it."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


def power_of_two(number: int, least: int = 1) -> int:
    """Return the smallest power of two that is at least both numbers."""
    return 1 << (max(number, least) - 1).bit_length()


WIDE = 768


def product_tile(columns: int, depth: int, precision: str) -> Tile:
    """Return the tile of a product with a weight [columns, depth]."""
    if precision == "fp32":
        return Tile(32, 64, 32, warps=4, stages=2)
    if min(columns, depth) >= WIDE:
        return Tile(128, 128, 64, warps=8, stages=3)
    return Tile(64, 64, 64, warps=4, stages=3)


def attention_tile(head_width: int, precision: str) -> Tile:
    """Return the tile of attention: queries, keys, width of a head."""
    lanes = power_of_two(head_width, 16)
    if precision == "fp32":
        return Tile(32, 32, lanes, warps=4, stages=1)
    return Tile(64 if lanes > 64 else 128, 64, lanes, warps=8, stages=2)


FP32_TILE_LANES = 8192


def head_tile(shape: GraderShape) -> dict[str, int]:
    """Return the block sizes of `pool_and_head`: each block has about 8192 numbers."""
    lanes = power_of_two(shape.encoder.d_model, 16)
    parts = power_of_two(2 + shape.pooling_heads)
    place = power_of_two(shape.place + 1)

    def share(of: int) -> int:
        return min(32, max(1, FP32_TILE_LANES // of))

    return {
        "BM": min(4, share(lanes * parts)),
        "BD": lanes,
        "BP": parts,
        "BJ": share(lanes * parts),
        "BI": share(lanes),
        "BL": power_of_two(shape.levels),
        "BE": power_of_two(shape.prior_embedding),
        "BA": power_of_two(shape.aspects),
        "BF": min(1024, power_of_two(max(shape.moments_width // 2, 1), 16)),
        "BC": share(place),
        "BR": place,
    }


def tile_table(lengths: Sequence[int], rows: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Cut every window into tiles.

    Args:
        lengths: Frames of each window.
        rows: Frames of a tile; a tile holds frames of one window.

    Returns:
        Window and first frame of each tile, int32 [tiles, 2]; where each window's tiles begin,
        int32 [windows + 1].
    """
    counts = -(-np.asarray(lengths) // rows)
    first = np.concatenate([[0], np.cumsum(counts)])
    window = np.repeat(np.arange(len(counts)), counts)
    frame = (np.arange(first[-1]) - first[window]) * rows
    table = np.stack([window, frame], axis=1).astype(np.int32)
    return table, first.astype(np.int32)
