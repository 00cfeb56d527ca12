"""Every tensor that an acoustic checkpoint holds: names and shapes, from its configuration."""

from __future__ import annotations

from asa_engine.graders.acoustic.config import AcousticConfig

__all__ = ["expected_tensors"]

Shapes = dict[str, tuple[int, ...]]


def expected_tensors(config: AcousticConfig) -> Shapes:
    """Return name -> shape of all tensors; a checkpoint has these and no others."""
    encoder = config.encoder
    width, heads, levels = encoder.d_model, config.attention_heads, len(config.prior_levels)
    aspects = len(config.aspects)
    features = (2 + heads) * width + config.prior_embedding + 1
    shapes: Shapes = {
        "layer_mix": (encoder.layers + 1,),
        "score_mean": (aspects,),
        "score_std": (aspects,),
        "encoder.conv1.weight": (width, encoder.n_mels, 3),
        "encoder.conv1.bias": (width,),
        "encoder.conv2.weight": (width, width, 3),
        "encoder.conv2.bias": (width,),
        "encoder.embed_positions.weight": (encoder.positions, width),
        **_norm("encoder.layer_norm", width),
        **_dense("attention", width, heads),
        **_norm("prior_norm", width),
        **_dense("prior_fc1", width, config.prior_width),
        **_dense("prior_fc2", config.prior_width, levels),
        **_dense("prior_projector", levels, config.prior_embedding),
        **_dense("head_fc1", features, config.head_width),
        **_dense("head_fc2", config.head_width, aspects),
    }
    if config.kernel_centres:
        place, layers = config.kernel_width, encoder.layers + 1
        shapes |= {
            "blend": (aspects,),
            "kernel_projection": (place, 2 * layers * width),
            "kernel_bias": (place,),
            "kernel_duration": (1,),
            "kernel_centres": (config.kernel_centres, place + 1),
            "kernel_weights": (aspects, config.kernel_centres),
            "kernel_mean": (aspects,),
        }
    for index in range(2 + heads):
        shapes |= _norm(f"pool_norms.{index}", width)
    for index in range(encoder.layers):
        name = f"encoder.layers.{index}"
        shapes |= _norm(f"{name}.self_attn_layer_norm", width)
        shapes |= _norm(f"{name}.final_layer_norm", width)
        shapes |= _dense(f"{name}.fc1", width, encoder.ffn)
        shapes |= _dense(f"{name}.fc2", encoder.ffn, width)
        for part in ("q", "k", "v", "out"):
            shapes |= _dense(f"{name}.self_attn.{part}_proj", width, width)
        del shapes[f"{name}.self_attn.k_proj.bias"]  # Whisper's keys have none
    return shapes


def _dense(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
