"""What is timed: graders with random weights, and windows for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asa_engine.artifacts.safetensors import Tensors
from asa_engine.bundle import WEIGHTS_NAME
from asa_engine.gpu.device import Read
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.graders.aspects import AspectConfig
from asa_engine.nn.acoustic_tensors import GraderShape
from asa_engine.nn.config import WhisperEncoderConfig

__all__ = [
    "SIZES",
    "Size",
    "bytes_of_window",
    "describe",
    "flops_of_window",
    "mels",
    "prepare",
    "samples",
]


@dataclass(frozen=True, slots=True)
class Size:
    """A grader to time. Random weights are right for time, never for quality.

    Attributes:
        encoder: Shape of its encoder.
        window_s: Length of a full window.
    """

    encoder: WhisperEncoderConfig
    window_s: float

    def config(self) -> AcousticConfig:
        """The grader's configuration: four aspects, no kernel regressor."""
        aspects = tuple(AspectConfig(name) for name in ("accuracy", "fluency", "prosodic", "total"))
        return AcousticConfig(aspects=aspects, encoder=self.encoder, window_s=self.window_s)


SIZES = {
    "tiny": Size(WhisperEncoderConfig(80, 384, 4, 6, 1536, 1500), 30.0),
    "large-v3": Size(WhisperEncoderConfig(128, 1280, 32, 20, 5120, 1500), 30.0),
    # Only for a dry run.
    "dry": Size(WhisperEncoderConfig(80, 32, 1, 2, 64, 50), 1.0),
}


def prepare(size: Size, folder: Path) -> tuple[AcousticConfig, GraderShape, Read]:
    """Write a checkpoint of random weights, once, and return how to read it."""
    config = size.config()
    if not (folder / WEIGHTS_NAME).is_file():
        import torch

        from asa_engine.graders.acoustic.model import AcousticGrader

        torch.manual_seed(0)
        AcousticGrader(config).save(folder, overwrite=True)
    tensors = Tensors(folder / WEIGHTS_NAME)
    return config, config.shape, tensors.read


def mels(size: Size, seconds: list[float], seed: int = 0) -> list[NDArray[np.float32]]:
    """Log-mels of the usual range, [n_mels, T] each."""
    rng = np.random.default_rng(seed)
    bins = size.encoder.n_mels
    return [rng.uniform(-1, 1, (bins, round(100 * s))).astype(np.float32) for s in seconds]


def samples(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    """Noise as loud as speech, 16 kHz."""
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal(round(16_000 * seconds))).astype(np.float32)


def flops_of_window(config: WhisperEncoderConfig, frames: int) -> float:
    """Operations of the matrix products and convolutions of one window; a multiply-add is two."""
    width, inner = config.d_model, config.ffn
    stem = 2 * frames * 3 * config.n_mels * width + frames * 3 * width * width
    layer = frames * (4 * width * width + 2 * width * inner) + 2 * frames * frames * width
    return 2.0 * (stem + config.layers * layer)


def bytes_of_window(config: WhisperEncoderConfig, frames: int, windows: int) -> float:
    """Least bytes that must move for one window at 16 bits.

    The weights once a batch, and each layer's activations once in and once out.
    """
    width, inner = config.d_model, config.ffn
    weights = config.layers * (4 * width * width + 2 * width * inner)
    weights += 3 * width * (config.n_mels + width)
    return 2.0 * weights / windows + 2.0 * 2 * config.layers * frames * width


def describe(size: Size) -> dict[str, Any]:
    """The size as JSON values."""
    config = size.encoder
    return {
        "d_model": config.d_model,
        "layers": config.layers,
        "window_s": size.window_s,
        "gflop_a_window": flops_of_window(config, round(50 * size.window_s)) / 1e9,
    }
