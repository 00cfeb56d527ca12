"""The paper's baselines: one vector a recording, and a linear layer or prototypes on it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asa_engine.graders.multi_aspect.config import MultiAspectConfig
from asa_engine.graders.multi_aspect.model import Inputs

__all__ = ["BASELINES", "Baseline", "Prototypes", "class_weights"]

BASELINES = {
    "w2v": ("frames",),
    "bert": ("transcript",),
    "w2v_bert": ("frames", "transcript"),
    "w2v_pt": ("frames",),
    "bert_pt": ("transcript",),
}
"""Name -> what it looks at: the mean speech frame, the transcript's vector, or both."""
PROTOTYPES = 3
COSINE_SCALE, COSINE_SHIFT = 10.0, -5.0


class Prototypes(nn.Module):
    """Logits from distances to K prototypes a class.

    z_c = mean_k -|h - p_ck|^2, or with cosines mean_k w cos(h, p_ck) + b, w = 10 and b = -5.

    Args:
        width: Of h.
        classes: Number of classes C.
        cosine: Use scaled cosines.
    """

    def __init__(self, width: int, classes: int, *, cosine: bool = False) -> None:
        super().__init__()
        self.cosine = cosine
        self.prototypes = nn.Parameter(torch.randn(classes, PROTOTYPES, width) * width**-0.5)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return logits [B, C] of hidden vectors [B, width]."""
        if self.cosine:
            near = F.cosine_similarity(hidden[:, None, None], self.prototypes, dim=3)
            return (COSINE_SCALE * near + COSINE_SHIFT).mean(2)
        apart = (hidden[:, None, None] - self.prototypes).square().sum(3)
        return -apart.mean(2)


class Baseline(nn.Module):
    """A baseline on frozen encoders.

    Args:
        name: Key of `BASELINES`.
        config: The grader's configuration: widths, aspects, classes, dropout.
    """

    def __init__(self, name: str, config: MultiAspectConfig) -> None:
        super().__init__()
        self.sources = BASELINES[name]
        self.shape = len(config.aspects), len(config.classes)
        widths = {"frames": config.frame_width, "transcript": config.prompt_width}
        given = sum(widths[source] for source in self.sources)
        self.enter = nn.Linear(given, config.projection)
        self.dropout = nn.Dropout(config.dropout)
        self.frame_mean: Tensor
        self.frame_scale: Tensor
        self.register_buffer("frame_mean", torch.zeros(config.frame_width))
        self.register_buffer("frame_scale", torch.ones(config.frame_width))
        aspects, classes = self.shape
        self.prototypes = nn.ModuleList()
        if name.endswith("_pt"):
            self.prototypes.extend(Prototypes(config.projection, classes) for _ in range(aspects))
        else:
            self.head = nn.Linear(config.projection, aspects * classes)

    def forward(self, inputs: Inputs, transcript: Tensor) -> Tensor:
        """Return logits [B, A, C]; `transcript` is the words' vector, [B, prompt_width]."""
        parts = []
        if "frames" in self.sources:
            frames = (inputs.frames - self.frame_mean) * self.frame_scale
            valid = torch.arange(frames.shape[1]) < inputs.frame_counts[:, None]
            mean = (frames * valid[..., None]).sum(1) / inputs.frame_counts[:, None]
            parts.append(mean)
        if "transcript" in self.sources:
            parts.append(transcript)
        hidden = self.enter(self.dropout(torch.cat(parts, dim=1)))
        if self.prototypes:
            return torch.stack([layer(hidden) for layer in self.prototypes], dim=1)
        logits: Tensor = self.head(self.dropout(F.gelu(hidden))).unflatten(1, self.shape)
        return logits


def class_weights(counts: Sequence[int], alpha: float = 0.5) -> Tensor:
    """Return w_c = (p_c^a / sum p^a) / p_c of training counts; classes without examples get 0."""
    share = torch.tensor(counts, dtype=torch.float32) / sum(counts)
    raised = torch.where(share > 0, share**alpha, 0.0)
    return torch.where(share > 0, raised / raised.sum() / share.clamp_min(1e-12), 0.0)
