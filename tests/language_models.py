"""Language models of tiny shape with random weights, for tests of shapes and parity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, Phi3Config, Qwen2Config

from asa_export.language_model_config import DecoderConfig
from asa_export.weights import Weights

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 160,
    "max_position_embeddings": 256,
}
PARTLY_ROTATED = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.1, 1.3, 1.6, 2.0, 2.5, 3.0, 4.0],
    "long_factor": [9.0] * 8,
    "original_max_position_embeddings": 160,
}
FAMILIES = {"llama": LlamaConfig, "qwen2": Qwen2Config, "phi3": Phi3Config}


def tiny_model(family: str = "llama", **changes: Any) -> Any:
    """Return a random `...ForCausalLM`, in evaluation mode, whose tensors are all unlike."""
    torch.manual_seed(11)
    if family == "phi3":  # its defaults lie outside so small a vocabulary
        changes = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 1, **changes}
    config = FAMILIES[family](**{**SHAPE, **changes})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def save_model(model: Any, folder: Path) -> Path:
    """Write `config.json` and `model.safetensors` as Hugging Face names them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()))
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors")
    return folder


def stored_model(folder: Path) -> tuple[DecoderConfig, Weights]:
    """Write the tiny model; return its shape and its weights, as the exporter reads them."""
    save_model(tiny_model(), folder)
    config = DecoderConfig.from_hugging_face(json.loads((folder / "config.json").read_text()))
    return config, Weights(folder / "model.safetensors")
