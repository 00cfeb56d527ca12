"""Names and shapes of the acoustic grader's tensors: what native code, devices and exports read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from asa_engine.nn.config import WhisperEncoderConfig

__all__ = [
    "HEAD_NAMES",
    "REGRESSOR_NAMES",
    "GraderShape",
    "encoder_tensors",
    "layer_tensors",
    "layer_weights",
]

_STEM = ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias", "embed_positions.weight")
_CLOSING = ("layer_norm.weight", "layer_norm.bias")
HEAD_NAMES: Final[tuple[str, ...]] = (
    *("prior_norm.weight", "prior_norm.bias", "prior_fc1.weight", "prior_fc1.bias"),
    *("prior_fc2.weight", "prior_fc2.bias", "prior_projector.weight", "prior_projector.bias"),
    *("pool_norms.weight", "pool_norms.bias", "head_fc1.weight", "head_fc1.bias"),
    *("head_fc2.weight", "head_fc2.bias", "score_mean", "score_std"),
)
"""Prior and regression head, in the order in which compiled code takes them; the pooling's norms
are stacked."""
REGRESSOR_NAMES: Final[tuple[str, ...]] = (
    *("blend", "kernel_projection", "kernel_bias", "kernel_duration"),
    *("kernel_centres", "kernel_weights", "kernel_mean"),
)


def encoder_tensors(config: WhisperEncoderConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor by Hugging Face's name, in the order they are read."""
    width = config.d_model
    stem = ((width, config.n_mels, 3), (width,), (width, width, 3), (width,))
    shapes = dict(zip(_STEM, (*stem, (config.positions, width)), strict=True))
    for layer in range(config.layers):
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in layer_tensors(config).items()}
    return {**shapes, **dict.fromkeys(_CLOSING, (width,))}


def layer_tensors(config: WhisperEncoderConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a layer, in the order compiled code takes them."""
    width, inner = config.d_model, config.ffn
    return {
        "self_attn_layer_norm.weight": (width,),
        "self_attn_layer_norm.bias": (width,),
        "self_attn.q_proj.weight": (width, width),
        "self_attn.q_proj.bias": (width,),
        "self_attn.k_proj.weight": (width, width),
        "self_attn.v_proj.weight": (width, width),
        "self_attn.v_proj.bias": (width,),
        "self_attn.out_proj.weight": (width, width),
        "self_attn.out_proj.bias": (width,),
        "final_layer_norm.weight": (width,),
        "final_layer_norm.bias": (width,),
        "fc1.weight": (inner, width),
        "fc1.bias": (inner,),
        "fc2.weight": (width, inner),
        "fc2.bias": (width,),
    }


def layer_weights(layer_mix: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return what each layer's output weighs in the frames: the softmax of `layer_mix`."""
    mix = np.exp(layer_mix.astype(np.float64))
    weights: NDArray[np.float64] = mix / mix.sum()
    return weights


@dataclass(frozen=True, slots=True)
class GraderShape:
    """Shape of an acoustic grader: all a device must know to count bytes and to read weights.

    Attributes:
        encoder: Shape of the Whisper encoder.
        pooling_heads: Heads H of the attention pooling.
        prior_width: Inner width of the prior's MLP.
        levels: Levels of the prior.
        prior_embedding: Width of the prior's projection into the head.
        head_width: Inner width of the regression head.
        aspects: Scores it gives.
        centres: Recordings the kernel regressor compares with; 0 for a grader without one.
        place: Principal directions the kernel regressor compares in.
    """

    encoder: WhisperEncoderConfig
    pooling_heads: int
    prior_width: int
    levels: int
    prior_embedding: int
    head_width: int
    aspects: int
    centres: int = 0
    place: int = 0

    @property
    def moments_width(self) -> int:
        """Number of the kernel regressor's sums: 2 (layers + 1) D, or none."""
        return 2 * (self.encoder.layers + 1) * self.encoder.d_model if self.centres else 0

    @property
    def stats_width(self) -> int:
        """Number K of sums: those of `asa_engine.kernels.encoder.pool`, then the moments."""
        width, heads = self.encoder.d_model, self.pooling_heads
        return 1 + 2 * width + heads * (1 + width) + self.moments_width

    @property
    def features_width(self) -> int:
        """Inputs of the regression head: the pooled vectors, the prior, the duration."""
        return (2 + self.pooling_heads) * self.encoder.d_model + self.prior_embedding + 1

    def encoder_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every weight of the encoder, by checkpoint name."""
        return {f"encoder.{name}": size for name, size in encoder_tensors(self.encoder).items()}

    def head_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every weight that is not the encoder's, by checkpoint name."""
        width, aspects = self.encoder.d_model, self.aspects
        shapes: dict[str, tuple[int, ...]] = {
            "layer_mix": (self.encoder.layers + 1,),
            "attention.weight": (self.pooling_heads, width),
            "attention.bias": (self.pooling_heads,),
            "prior_norm.weight": (width,),
            "prior_norm.bias": (width,),
            "prior_fc1.weight": (self.prior_width, width),
            "prior_fc1.bias": (self.prior_width,),
            "prior_fc2.weight": (self.levels, self.prior_width),
            "prior_fc2.bias": (self.levels,),
            "prior_projector.weight": (self.prior_embedding, self.levels),
            "prior_projector.bias": (self.prior_embedding,),
            "head_fc1.weight": (self.head_width, self.features_width),
            "head_fc1.bias": (self.head_width,),
            "head_fc2.weight": (aspects, self.head_width),
            "head_fc2.bias": (aspects,),
            "score_mean": (aspects,),
            "score_std": (aspects,),
        }
        for i in range(2 + self.pooling_heads):
            shapes[f"pool_norms.{i}.weight"] = shapes[f"pool_norms.{i}.bias"] = (width,)
        if self.centres:
            shapes |= {
                "blend": (aspects,),
                "kernel_projection": (self.place, self.moments_width),
                "kernel_bias": (self.place,),
                "kernel_duration": (1,),
                "kernel_centres": (self.centres, self.place + 1),
                "kernel_weights": (aspects, self.centres),
                "kernel_mean": (aspects,),
            }
        return shapes
