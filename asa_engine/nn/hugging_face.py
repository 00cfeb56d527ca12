"""The recogniser's reference: Hugging Face's Whisper with the weights of a CTranslate2 folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asa_engine.errors import CheckpointError
from asa_engine.files import read_json
from asa_engine.nn.bert import quiet
from asa_engine.nn.config import WhisperDecoderConfig
from asa_engine.nn.ct2 import LAYER_NAMES, read_ct2_variables
from asa_engine.nn.weights import load_whisper_encoder

__all__ = ["build_decoder", "build_whisper", "transcribe_frames", "transcribe_tokens"]

_MULTILINGUAL_VOCABULARY = 51865
# Tokens from the end of the text on: 107 marks and 1,501 times, in both alphabets.
_BEHIND_TEXT = 1608

# Hugging Face name -> CTranslate2 name within one decoder layer; what is fused there follows below.
_LAYER_NAMES = {
    **LAYER_NAMES,
    "encoder_attn_layer_norm.weight": "attention/layer_norm/gamma",
    "encoder_attn_layer_norm.bias": "attention/layer_norm/beta",
    "encoder_attn.q_proj.weight": "attention/linear_0/weight",
    "encoder_attn.q_proj.bias": "attention/linear_0/bias",
    "encoder_attn.out_proj.weight": "attention/linear_2/weight",
    "encoder_attn.out_proj.bias": "attention/linear_2/bias",
}
_FUSED = {
    "self_attn": ("self_attention/linear_0", "qkv"),
    "encoder_attn": ("attention/linear_1", "kv"),
}
_DECODER_NAMES = {
    "embed_tokens.weight": "embeddings/weight",
    "embed_positions.weight": "position_encodings/encodings",
    "layer_norm.weight": "layer_norm/gamma",
    "layer_norm.bias": "layer_norm/beta",
}


def build_whisper(folder: Path) -> Any:
    """Build `WhisperForConditionalGeneration`, fp32, from a CTranslate2 folder.

    Args:
        folder: `model.bin` in fp16 or fp32, and `config.json`.

    Raises:
        CheckpointError: The folder holds no whole Whisper.
        ImportError: transformers is missing.
    """
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

    encoder = load_whisper_encoder(folder)
    spec, variables = read_ct2_variables(folder / "model.bin", prefix="decoder/")
    if spec != "WhisperSpec":
        raise CheckpointError(f"{folder} holds a {spec}, not Whisper", hint="give a Whisper model")
    decoder, heads = _decoder_state(folder, variables)
    vocabulary, width = decoder["embed_tokens.weight"].shape
    end = vocabulary - _BEHIND_TEXT
    shape = encoder.config
    config = WhisperConfig(
        vocab_size=vocabulary,
        num_mel_bins=shape.n_mels,
        d_model=width,
        encoder_layers=shape.layers,
        encoder_attention_heads=shape.heads,
        encoder_ffn_dim=shape.ffn,
        max_source_positions=shape.positions,
        decoder_layers=1 + max(int(k.split(".")[1]) for k in decoder if k.startswith("layers.")),
        decoder_attention_heads=heads,
        decoder_ffn_dim=decoder["layers.0.fc1.weight"].shape[0],
        max_target_positions=decoder["embed_positions.weight"].shape[0],
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=end + 1,
    )
    model = WhisperForConditionalGeneration(config)
    state = {f"model.encoder.{name}": value for name, value in encoder.state_dict().items()}
    state |= {f"model.decoder.{name}": value for name, value in decoder.items()}
    state["proj_out.weight"] = decoder["embed_tokens.weight"]
    model.load_state_dict(state)
    known = read_json(folder / "config.json", CheckpointError)
    settings: dict[str, Any] = {
        "is_multilingual": vocabulary >= _MULTILINGUAL_VOCABULARY,
        "suppress_tokens": known.get("suppress_ids"),
        "begin_suppress_tokens": known.get("suppress_ids_begin"),
        "alignment_heads": known.get("alignment_heads"),
        "no_timestamps_token_id": vocabulary - 1502,
        "return_timestamps": False,
        "decoder_start_token_id": end + 1,
        "eos_token_id": end,
        "pad_token_id": end,
        "bos_token_id": end,
    }
    if settings["is_multilingual"]:
        settings["lang_to_id"] = {"<|en|>": end + 2}
        settings["task_to_id"] = {"transcribe": vocabulary - 1506}
    model.generation_config = GenerationConfig(**settings)  # type: ignore[no-untyped-call]
    model.eval()  # type: ignore[no-untyped-call]
    return model


def build_decoder(
    shape: WhisperDecoderConfig, variables: dict[str, NDArray[np.generic]], where: Path
) -> Any:
    """Build Hugging Face's Whisper decoder alone, fp32, whose heads' attention can be read.

    Args:
        shape: Its shape.
        variables: Its tensors by CTranslate2's names, with `decoder/` before them.
        where: What they were read from, for messages.

    Raises:
        CheckpointError: A tensor is missing.
        ImportError: transformers is missing.
    """
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperDecoder

    heads = np.array(shape.heads)
    state, _ = _decoder_state(where, {**variables, "decoder/num_heads": heads})
    config = WhisperConfig(
        vocab_size=shape.tokens,
        d_model=shape.d_model,
        decoder_layers=shape.layers,
        decoder_attention_heads=shape.heads,
        decoder_ffn_dim=shape.ffn,
        max_target_positions=shape.positions,
        pad_token_id=shape.tokens - _BEHIND_TEXT,
    )
    config._attn_implementation = "eager"  # the others do not tell what heads attend
    decoder = WhisperDecoder(config)
    decoder.load_state_dict(state)
    decoder.eval()  # type: ignore[no-untyped-call]
    return decoder


def transcribe_tokens(model: Any, mel: NDArray[np.float32], max_new_tokens: int = 224) -> list[int]:
    """Return the text tokens that Hugging Face's greedy `generate` gives for one 30 s window.

    Args:
        model: From `build_whisper`.
        mel: Log-mel, float32 [n_mels, 3000].
        max_new_tokens: Most tokens to decode.
    """
    return _generate(
        model,
        max_new_tokens,
        input_features=torch.from_numpy(mel)[None],
        attention_mask=torch.ones(1, mel.shape[1], dtype=torch.long),
    )


def transcribe_frames(model: Any, frames: Tensor, max_new_tokens: int = 224) -> list[int]:
    """Return the text tokens that the same gives for an encoder's frames, of any length.

    Args:
        model: From `build_whisper`.
        frames: Float32 [T, D], T at most 1500.
        max_new_tokens: Most tokens to decode.
    """
    from transformers.modeling_outputs import BaseModelOutput

    outputs = BaseModelOutput(last_hidden_state=frames[None])
    return _generate(model, max_new_tokens, encoder_outputs=outputs)


def _generate(model: Any, max_new_tokens: int, **inputs: Any) -> list[int]:
    multilingual = model.generation_config.is_multilingual
    how: dict[str, Any] = {"language": "en", "task": "transcribe"} if multilingual else {}
    # It would report its own defaults at every call.
    with quiet(), torch.inference_mode():
        out = model.generate(
            **inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, **how
        )
    end = model.config.eos_token_id
    return [token for token in out[0].tolist() if token < end]


def _decoder_state(
    folder: Path, variables: dict[str, NDArray[np.generic]]
) -> tuple[dict[str, Tensor], int]:
    state: dict[str, Tensor] = {}

    def take(name: str) -> NDArray[np.float32]:
        try:
            return variables["decoder/" + name].astype(np.float32)
        except KeyError:
            raise CheckpointError(f"{folder} lacks decoder/{name}", hint="fetch it again") from None

    for ours, theirs in _DECODER_NAMES.items():
        state[ours] = torch.from_numpy(take(theirs))
    layer = 0
    while f"decoder/layer_{layer}/ffn/linear_0/weight" in variables:
        source, target = f"layer_{layer}/", f"layers.{layer}."
        for ours, theirs in _LAYER_NAMES.items():
            state[target + ours] = torch.from_numpy(take(source + theirs))
        for attention, (fused, names) in _FUSED.items():
            weights = np.split(take(f"{source}{fused}/weight"), len(names))
            biases = np.split(take(f"{source}{fused}/bias"), len(names))
            for name, weight, bias in zip(names, weights, biases, strict=True):
                state[f"{target}{attention}.{name}_proj.weight"] = torch.from_numpy(weight)
                if name != "k":  # Whisper's keys have no bias; the fused one is zero there
                    state[f"{target}{attention}.{name}_proj.bias"] = torch.from_numpy(bias)
        layer += 1
    return state, int(take("num_heads"))
