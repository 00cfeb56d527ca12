"""Shapes of networks, readable without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["WhisperEncoderConfig"]


@dataclass(frozen=True, slots=True)
class WhisperEncoderConfig:
    """Shape of a Whisper encoder.

    Attributes:
        n_mels: Mel bins of the input, 80 or 128.
        d_model: Width D.
        layers: Number of Transformer layers.
        heads: Attention heads; divides `d_model`.
        ffn: Inner width of the feed-forward block.
        positions: Rows of the positional table: the most frames (50 Hz) a window can have.
    """

    n_mels: int = 80
    d_model: int = 384
    layers: int = 4
    heads: int = 6
    ffn: int = 1536
    positions: int = 1500
