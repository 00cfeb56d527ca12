"""The multi-aspect grader in PyTorch: the reference that every export is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asa_engine.features import delivery, linguistic
from asa_engine.graders.checkpoint import WEIGHTS_NAME, Saved, read_weights
from asa_engine.graders.multi_aspect.config import MultiAspectConfig

__all__ = ["Inputs", "MultiAspectGrader", "expected_scores"]

ROTARY_BASE = 10_000.0


class Inputs(NamedTuple):
    """What is graded; sequences of a batch are padded at their ends.

    Attributes:
        frames: Speech frames, float32 [B, T, frame_width].
        frame_counts: Valid frames of each, int64 [B].
        prompt: The prompt's vector, float32 [B, prompt_width]; zeros where there is none.
        delivery: Delivery features of each word, float32 [B, W, 16].
        language: Linguistic slots of each word, float32 [B, W, 263].
        word_counts: Valid words of each, int64 [B], at least 1.
    """

    frames: Tensor
    frame_counts: Tensor
    prompt: Tensor
    delivery: Tensor
    language: Tensor
    word_counts: Tensor


class Block(nn.Module):
    """One Transformer block of one attention head.

    Args:
        width: Width D.
        inner: Inner width of the feed-forward part.
        form: `paper` or `lab`, see `MultiAspectConfig`.
        rotary: Turn queries and keys by their positions (`lab`).
        dropout: On both branches.
    """

    def __init__(self, width: int, inner: int, form: str, rotary: bool, dropout: float) -> None:
        super().__init__()
        self.is_lab, self.rotary = form == "lab", rotary
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)
        if self.is_lab:
            self.gate = nn.Linear(width, inner)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Transform [B, T, D]; `bias` [B, 1, T] is added to the attention's logits."""
        if self.is_lab:
            x = x + self.dropout(self.attend(self.norm1(x), bias))
            out: Tensor = x + self.dropout(self.feed(self.norm2(x)))
            return out
        x = self.norm1(x + self.dropout(self.attend(x, bias)))
        normed: Tensor = self.norm2(x + self.dropout(self.feed(x)))
        return normed

    def attend(self, x: Tensor, bias: Tensor) -> Tensor:
        """Attend over all valid steps with one head."""
        query, key = self.query(x), self.key(x)
        if self.rotary:
            query, key = rotate(query), rotate(key)
        weights = (query @ key.transpose(1, 2) * x.shape[-1] ** -0.5 + bias).softmax(-1)
        mixed: Tensor = self.out(weights @ self.value(x))
        return mixed

    def feed(self, x: Tensor) -> Tensor:
        """Apply the feed-forward part."""
        inner = F.silu(self.gate(x)) * self.fc1(x) if self.is_lab else F.gelu(self.fc1(x))
        fed: Tensor = self.fc2(inner)
        return fed


class AspectEncoder(nn.Module):
    """Linear layer (where the width changes), blocks, attention pooling.

    Args:
        given: Width of the input.
        width: Width of the blocks.
        config: The grader's.
        rotary: Whether positions count.
    """

    def __init__(self, given: int, width: int, config: MultiAspectConfig, rotary: bool) -> None:
        super().__init__()
        self.is_lab = config.form == "lab"
        self.enter = nn.Linear(given, width) if given != width else nn.Identity()
        self.blocks = nn.ModuleList(
            Block(width, width * config.ffn_factor, config.form, rotary, config.dropout)
            for _ in range(config.layers)
        )
        self.pool = nn.Linear(width, 1)

    def forward(self, x: Tensor, counts: Tensor) -> Tensor:
        """Pool [B, T, D] of so many valid steps [B] into [B, width]."""
        valid = torch.arange(x.shape[1], device=x.device) < counts[:, None]
        bias = torch.zeros_like(valid, dtype=x.dtype).masked_fill(~valid, -1e9)
        x = self.enter(x)
        for block in self.blocks:
            x = block(x, bias[:, None, :])
        logits = self.pool(x).squeeze(2)
        weights = ((F.gelu(logits) if self.is_lab else logits) + bias).softmax(1)
        return (weights[:, None, :] @ x).squeeze(1)


class MultiAspectGrader(Saved):
    """Content, delivery and language use, each encoded and pooled, then classified together.

    The paper grades one score; here every aspect has a prediction head of its own on the shared
    projection.

    Args:
        config: Shapes, classes and scales.
    """

    config: MultiAspectConfig

    def __init__(self, config: MultiAspectConfig) -> None:
        super().__init__()
        self.config = config
        content, spoken, used = config.widths
        inputs = len(delivery.NAMES), len(linguistic.inventory())
        self.content = AspectEncoder(
            config.content_input, content, config, rotary=config.form == "lab"
        )
        self.delivery = AspectEncoder(inputs[0], spoken, config, rotary=False)
        self.language = AspectEncoder(inputs[1], used, config, rotary=False)
        self.projection = nn.Linear(config.fused_width, config.projection)
        self.head = nn.Linear(config.projection, len(config.aspects) * len(config.classes))
        self.dropout = nn.Dropout(config.dropout)
        self.frame_mean: Tensor
        self.frame_scale: Tensor
        self.delivery_mean: Tensor
        self.delivery_scale: Tensor
        for name, width in (("frame", config.frame_width), ("delivery", inputs[0])):
            self.register_buffer(f"{name}_mean", torch.zeros(width))
            self.register_buffer(f"{name}_scale", torch.ones(width))

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the logits z of every aspect's classes, [B, A, C]."""
        frames = (inputs.frames - self.frame_mean) * self.frame_scale
        late = self.config.form == "lab"
        if not late:
            beside = inputs.prompt[:, None, :].expand(-1, frames.shape[1], -1)
            frames = torch.cat((beside, frames), dim=2)
        spoken = (inputs.delivery - self.delivery_mean) * self.delivery_scale
        pooled = [
            self.content(frames, inputs.frame_counts),
            self.delivery(spoken, inputs.word_counts),
            self.language(inputs.language, inputs.word_counts),
        ]
        fused = torch.cat([*pooled, inputs.prompt] if late else pooled, dim=1)
        hidden = F.gelu(self.projection(self.dropout(fused)))
        shape = len(self.config.aspects), len(self.config.classes)
        logits: Tensor = self.head(self.dropout(hidden)).unflatten(1, shape)
        return logits

    def round_halves(self) -> None:
        """Round the weights to float16, as they are stored; figures come after it."""
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(parameter.half().float())

    def stored(self) -> dict[str, Tensor]:
        """Return the parameters as float16, buffers as float32."""
        trained = dict(self.named_parameters())
        return {
            name: value.half() if name in trained else value.float()
            for name, value in self.state_dict().items()
        }

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a checkpoint, in evaluation mode, weights as float32.

        Raises:
            CheckpointError: It is missing, damaged, or names or shapes do not fit.
        """
        folder = Path(folder)
        grader = cls(MultiAspectConfig.load(folder))
        grader.load_state_dict(read_weights(folder / WEIGHTS_NAME, grader.state_dict()))
        return grader.eval()


def expected_scores(logits: Tensor, config: MultiAspectConfig) -> Tensor:
    """Return sum_k p_k s_k of logits [..., C]."""
    return logits.softmax(-1) @ logits.new_tensor(config.class_scores)


def rotate(x: Tensor) -> Tensor:
    """Turn pairs (i, i + D/2) of [B, T, D] by the step times base^(-2i/D) (rotary positions)."""
    half = x.shape[-1] // 2
    rates = ROTARY_BASE ** (-torch.arange(half, dtype=x.dtype, device=x.device) / half)
    angles = torch.arange(x.shape[1], dtype=x.dtype, device=x.device)[:, None] * rates
    cos, sin = angles.cos(), angles.sin()
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat((a * cos - b * sin, a * sin + b * cos, rest), dim=-1)
