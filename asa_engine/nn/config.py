"""Shapes of networks, readable without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "WHISPER_ENCODER_NAMES",
    "WHISPER_POSITIONS",
    "AudioEncoderConfig",
    "BertShape",
    "LanguageModelConfig",
    "WhisperDecoderConfig",
    "WhisperEncoderConfig",
    "renamed",
]

WHISPER_POSITIONS = 1500
"""Encoder frames of a full 30 s window."""
WHISPER_ENCODER_NAMES = {
    "n_mels": "num_mel_bins",
    "d_model": "d_model",
    "layers": "encoder_layers",
    "heads": "encoder_attention_heads",
    "ffn": "encoder_ffn_dim",
    "positions": "max_source_positions",
}
"""Field of an encoder's shape -> Hugging Face's name in the configuration of a Whisper."""


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
    positions: int = WHISPER_POSITIONS


@dataclass(frozen=True, slots=True)
class AudioEncoderConfig(WhisperEncoderConfig):
    """Shape of an audio language model's own encoder, which comes with a projector of its own.

    Attributes:
        family: As Hugging Face names the whole model: `qwen2_audio` or `phi4_multimodal`.
        stack: Frames (50 Hz) that become one audio token.
    """

    family: str = "qwen2_audio"
    stack: int = 2


@dataclass(frozen=True, slots=True)
class WhisperDecoderConfig:
    """Shape of a Whisper text decoder.

    Attributes:
        d_model: Width D.
        layers: Number of Transformer layers.
        heads: Attention heads; divides `d_model`.
        ffn: Inner width of the feed-forward block.
        tokens: Vocabulary.
        positions: The longest text, in tokens.
    """

    d_model: int = 384
    layers: int = 4
    heads: int = 6
    ffn: int = 1536
    tokens: int = 51_864
    positions: int = 448


@dataclass(frozen=True, slots=True)
class LanguageModelConfig:
    """Shape of a decoder-only language model; the defaults are SmolLM2-135M's.

    Attributes:
        family: As Hugging Face names it, such as `llama`.
        vocabulary: Tokens.
        width: Hidden width W.
        layers: Number of Transformer layers.
        heads: Attention heads of the queries.
        key_value_heads: Attention heads of keys and values.
        ffn: Inner width of the feed-forward blocks.
        positions: Longest sequence within which one way of computing holds.
        long_positions: Longest sequence with LongRoPE's second regime; 0 where there is none.
    """

    family: str = "llama"
    vocabulary: int = 49_152
    width: int = 576
    layers: int = 30
    heads: int = 9
    key_value_heads: int = 3
    ffn: int = 1536
    positions: int = 8192
    long_positions: int = 0

    @property
    def most_positions(self) -> int:
        """Longest sequence, read as a whole: its length tells the regime."""
        return max(self.positions, self.long_positions)


@dataclass(frozen=True, slots=True)
class BertShape:
    """Shape of a BERT encoder; the defaults are MiniLM-L6's.

    Attributes:
        vocabulary: Word pieces.
        width: Hidden width D.
        layers: Number of layers.
        heads: Attention heads.
        ffn: Inner width of the feed-forward blocks.
        positions: Longest sequence.
        segments: Token types.
    """

    vocabulary: int = 30_522
    width: int = 384
    layers: int = 6
    heads: int = 12
    ffn: int = 1536
    positions: int = 512
    segments: int = 2


def renamed(source: Any, names: Mapping[str, str]) -> dict[str, Any]:
    """Return field -> what `source` holds under another library's name."""
    return {ours: getattr(source, theirs) for ours, theirs in names.items()}
