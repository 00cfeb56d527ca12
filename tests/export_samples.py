"""A grader of tiny shape with random weights, for tests of shapes and parity; it scores nothing."""

from __future__ import annotations

from pathlib import Path

import torch

from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.graders.acoustic.model import AcousticGrader
from asa_engine.graders.aspects import AspectConfig
from asa_engine.nn.config import WhisperEncoderConfig


def make_checkpoint(folder: Path, **changes: object) -> Path:
    """Save a random grader; `changes` go into its configuration."""
    torch.manual_seed(7)
    settings: dict[str, object] = {
        "aspects": (AspectConfig("fluency"), AspectConfig("total", scale_min=1.0, scale_max=5.0)),
        "encoder": WhisperEncoderConfig(d_model=32, layers=2, heads=4, ffn=64, positions=100),
        "window_s": 1.0,
        "attention_heads": 3,
        "head_width": 16,
        "prior_width": 16,
        "kernel_centres": 9,
        "kernel_width": 5,
        **changes,
    }
    grader = AcousticGrader(AcousticConfig(**settings))  # type: ignore[arg-type]
    with torch.no_grad():
        # Initial values are symmetric where trained ones are not: a mix up would go unseen.
        for parameter in grader.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        grader.score_std.mul_(0.5)
        for name, buffer in grader.named_buffers():
            if name.startswith("kernel_"):
                # So small that recordings lie near some centres and far from others.
                buffer.normal_(std=0.05 if name == "kernel_projection" else 0.5)
            elif name == "blend":
                buffer.uniform_(0.2, 0.8)
        grader.round_halves()
    grader.save(folder)
    return folder
