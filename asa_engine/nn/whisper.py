"""Whisper's audio encoder in plain PyTorch, with Hugging Face's parameter names.

Differences from the usual implementations: any window length up to the positional table is
taken, unequal lengths in a batch are masked exactly (each item gets what it would get alone),
and every layer's output is returned.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asa_engine.nn.config import WhisperEncoderConfig

__all__ = ["EncoderLayer", "WhisperEncoder", "frames_of"]

CONV_STRIDE = 2


def frames_of(mel_frames: Tensor) -> Tensor:
    """Return how many encoder frames (50 Hz) come of so many mel frames (100 Hz)."""
    return (mel_frames + CONV_STRIDE - 1) // CONV_STRIDE


class Attention(nn.Module):
    """Multi-head self-attention; as in Whisper, keys have no bias."""

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, key_mask: Tensor | None) -> Tensor:
        """Map [B, T, D] to [B, T, D]; `key_mask` [B, 1, 1, T] is true where a key counts."""
        batch, length, width = x.shape
        shape = (batch, length, self.heads, width // self.heads)
        q, k, v = (
            proj(x).view(shape).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).reshape(batch, length, width))
        return out


class EncoderLayer(nn.Module):
    """Pre-norm Transformer layer; training may set `dropout`, on both residual branches."""

    def __init__(self, config: WhisperEncoderConfig) -> None:
        super().__init__()
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.self_attn = Attention(config.d_model, config.heads)
        self.final_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, config.ffn)
        self.fc2 = nn.Linear(config.ffn, config.d_model)
        self.dropout = nn.Dropout(0.0)

    def forward(self, x: Tensor, key_mask: Tensor | None) -> Tensor:
        """Map [B, T, D] to [B, T, D]."""
        x = x + self.dropout(self.self_attn(self.self_attn_layer_norm(x), key_mask))
        out: Tensor = x + self.dropout(self.fc2(F.gelu(self.fc1(self.final_layer_norm(x)))))
        return out


class WhisperEncoder(nn.Module):
    """Whisper's encoder (Radford et al. 2022), any size."""

    def __init__(self, config: WhisperEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv1d(config.n_mels, config.d_model, 3, padding=1)
        self.conv2 = nn.Conv1d(config.d_model, config.d_model, 3, stride=CONV_STRIDE, padding=1)
        self.embed_positions = nn.Embedding(config.positions, config.d_model)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))
        self.layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> list[Tensor]:
        """Encode log-mel windows.

        Args:
            mel: Log-mel, float32 [B, n_mels, T], T at most twice `positions`.
            lengths: Valid mel frames of each item, int64 [B]; None where all T count. What lies
                beyond them does not touch the valid frames.

        Returns:
            `layers + 1` tensors [B, ceil(T / 2), D]: the embedded input, then each layer's
            output, the last one after the closing LayerNorm.
        """
        key_mask = None
        if lengths is not None:
            valid = torch.arange(mel.shape[-1], device=mel.device) < lengths[:, None]
            mel = mel * valid[:, None]
            x = F.gelu(self.conv1(mel)) * valid[:, None]
            frames = torch.arange((mel.shape[-1] + 1) // CONV_STRIDE, device=mel.device)
            key_mask = (frames < frames_of(lengths)[:, None])[:, None, None]
        else:
            x = F.gelu(self.conv1(mel))
        x = F.gelu(self.conv2(x)).transpose(1, 2)
        x = x + self.embed_positions.weight[: x.shape[1]]
        outputs = [x]
        for layer in self.layers:
            x = layer(x, key_mask)
            outputs.append(x)
        outputs[-1] = self.layer_norm(x)
        return outputs
