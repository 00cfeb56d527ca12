"""Language models that come with their own audio encoder: Qwen2-Audio and Phi-4-multimodal.

Of Hugging Face's classes the speech LLM needs three parts: the encoder, log-mel -> frames; the
projector, frames -> audio tokens; and the `LanguageModel` that takes those as embeddings.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, Phi4MultimodalForCausalLM, Qwen2AudioForConditionalGeneration

from asa_engine.errors import CheckpointError
from asa_engine.files import read_json
from asa_engine.nn.config import WHISPER_ENCODER_NAMES, AudioEncoderConfig, renamed
from asa_engine.nn.language_model import LanguageModel, load_language_model, read_pretrained
from asa_engine.nn.speech_adapter import find_speech_adapter, merge_speech_adapter
from asa_engine.nn.stored_layers import open_stored
from asa_engine.nn.weights import load_whisper_encoder
from asa_engine.nn.whisper import WhisperEncoder

__all__ = [
    "AudioEncoder",
    "AudioLanguageModel",
    "AudioProjector",
    "Phi4Encoder",
    "Phi4Multimodal",
    "Qwen2Audio",
    "Qwen2Encoder",
    "audio_family",
    "load_audio_language_model",
    "load_backbones",
]

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
MEL_HZ_PER_FRAME = 2
LONGEST_CONFORMER = 500
"""Frames above which Hugging Face's conformer falls into pieces."""


class AudioProjector(nn.Module):
    """An audio language model's own projector: every encoder frame becomes one audio token.

    Args:
        linears: One linear layer, or several with a GELU between.
    """

    def __init__(self, *linears: nn.Linear) -> None:
        super().__init__()
        self.linears: Any = nn.ModuleList(linears)

    def forward(self, layers: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Map the encoder's frames, [B, 1, T, D], to audio tokens [B, T, W]."""
        x = layers[:, -1]
        for index, linear in enumerate(self.linears):
            x = linear(F.gelu(x) if index else x)
        return x

    def tokens_of(self, lengths: Tensor) -> Tensor:
        """Return how many audio tokens come of so many frames: as many."""
        return lengths


class AudioEncoder(nn.Module):
    """An audio language model's encoder and projector; it takes one unpadded clip a call.

    Called with a clip's log-mel [1, n_mels, T] it returns a list of one tensor, the last layer's
    frames [1, N, D]: as `WhisperEncoder` does, which returns those of all layers.

    Args:
        config: Shape of the encoder.
        tower: Hugging Face's encoder.
        projector: What follows it.
    """

    def __init__(
        self, config: AudioEncoderConfig, tower: nn.Module, projector: AudioProjector
    ) -> None:
        super().__init__()
        self.config = config
        self.tower: Any = tower
        self.projector = projector


# Field of the encoder's shape -> Hugging Face's name.
_PHI4_NAMES = {
    "n_mels": "input_size",
    "d_model": "hidden_size",
    "layers": "num_blocks",
    "heads": "num_attention_heads",
    "ffn": "intermediate_size",
}


class Qwen2Encoder(AudioEncoder):
    """Qwen2-Audio's encoder, run on a clip's valid frames alone.

    The class itself pads every clip to 30 s and masks what it padded; leaving it away is exact and
    costs a tenth for a 3 s clip. Only the two convolutions look beyond the last valid frame: the
    log-mel goes one frame further, an odd number of frames in all, unless the 30 s end there.

    Args:
        model: Hugging Face's `Qwen2AudioForConditionalGeneration`.
    """

    def __init__(self, model: Qwen2AudioForConditionalGeneration) -> None:
        core: Any = model.model
        shape = core.audio_tower.config
        config = AudioEncoderConfig(
            **renamed(shape, WHISPER_ENCODER_NAMES),
            family="qwen2_audio",
            stack=2,
        )
        projector = AudioProjector(core.multi_modal_projector.linear)
        super().__init__(config, core.audio_tower, projector)

    def forward(self, mel: Tensor) -> list[Tensor]:
        """Encode log-mel [1, n_mels, 2 E + 1] of a clip of E frames (50 Hz): [1, E // 2, D].

        Raises:
            CheckpointError: The clip is longer than the encoder's positions.
        """
        tower, frames = self.tower, mel.shape[2] // MEL_HZ_PER_FRAME
        if frames > self.config.positions:
            raise CheckpointError(
                f"a clip of {mel.shape[2]} mel frames is too long for this encoder",
                hint="cut audio into chunks of at most 30 s",
            )
        # Frame t of the second convolution sees mel frames up to 2 t + 2.
        x = F.gelu(tower.conv1(mel.to(tower.conv1.weight.dtype)))[..., : 2 * frames]
        x = F.gelu(tower.conv2(x)).transpose(1, 2)
        x = x + tower.embed_positions.weight[:frames]
        for layer in tower.layers:
            out = layer(x, None)
            x = out[0] if isinstance(out, tuple) else out
        return [tower.layer_norm(tower.avg_pooler(x.transpose(1, 2)).transpose(1, 2))]


class Phi4Encoder(AudioEncoder):
    """Phi-4-multimodal's conformer, with its projection for speech, one unpadded clip a call.

    Its padding mask is added to attention logits, not -inf: a padded clip gives other tokens. One
    unpadded clip a call is what this engine calls the reference.

    Args:
        model: Hugging Face's `Phi4MultimodalForCausalLM`.

    Raises:
        CheckpointError: It hears in chunks, or in another rhythm: not what Phi-4 was trained as.
    """

    def __init__(self, model: Phi4MultimodalForCausalLM) -> None:
        core: Any = model.model
        audio = core.embed_tokens_extend.audio_embed
        shape = audio.encoder.config
        for name, wanted in (
            ("chunk_size", -1),
            ("bias_symmetric", False),
            ("downsample_rate", 1),
            ("activation", "swish"),
            ("conv_activation", "swish"),
            ("conv_glu_type", "swish"),
            ("nemo_activation", "relu"),
        ):
            if (value := getattr(shape, name)) != wanted:
                raise CheckpointError(
                    f"audio_config.{name} of this Phi-4 is {value}",
                    hint=f"only {wanted} is known; give the published model's folder",
                )
        stack = shape.time_reduction // MEL_HZ_PER_FRAME
        config = AudioEncoderConfig(
            **renamed(shape, _PHI4_NAMES),
            positions=LONGEST_CONFORMER * stack,
            family="phi4_multimodal",
            stack=stack,
        )
        projector = AudioProjector(audio.up_proj_for_speech, audio.down_proj_for_speech)
        super().__init__(config, audio.encoder, projector)

    def forward(self, mel: Tensor) -> list[Tensor]:
        """Encode log-mel of Phi-4's own extractor, [1, 80, T]: [1, ceil(T / 8), D]."""
        return [self.tower(mel.transpose(1, 2).to(self.tower.embed.out.weight.dtype), None)]


class AudioLanguageModel(nn.Module):
    """Audio tokens and the language model that takes them.

    Args:
        encoder: Log-mel -> frames -> audio tokens.
        language_model: Embeddings in, hidden states out.
    """

    def __init__(self, encoder: AudioEncoder, language_model: LanguageModel) -> None:
        super().__init__()
        self.encoder = encoder
        self.language_model = language_model

    def _tokens(self, mel: Tensor) -> Tensor:
        tokens: Tensor = self.encoder.projector(torch.stack(self.encoder(mel), 1))[0]
        return tokens


class Qwen2Audio(AudioLanguageModel):
    """Qwen2-Audio: audio tokens at 25 Hz.

    Args:
        model: Hugging Face's `Qwen2AudioForConditionalGeneration`.
    """

    def __init__(self, model: Qwen2AudioForConditionalGeneration) -> None:
        core: Any = model.model
        super().__init__(Qwen2Encoder(model), LanguageModel(model, core.language_model))

    def tokens_of(self, mel_frames: int) -> int:
        """Return how many audio tokens come of so many mel frames (100 Hz)."""
        return ((mel_frames - 1) // MEL_HZ_PER_FRAME + 1) // 2

    def audio_tokens(self, features: Tensor, mel_frames: int) -> Tensor:
        """Return the audio tokens [n, W] of one clip of at most 30 s.

        Args:
            features: Log-mel of the clip zero-padded to 30 s, [n_mels, 3000].
            mel_frames: Frames of the clip itself.

        Raises:
            CheckpointError: The clip is longer than the encoder's positions.
        """
        frames = (mel_frames - 1) // MEL_HZ_PER_FRAME + 1
        return self._tokens(features[None, :, : MEL_HZ_PER_FRAME * frames + 1])


class Phi4Multimodal(AudioLanguageModel):
    """Phi-4-multimodal: audio tokens at 12.5 Hz.

    Args:
        model: Hugging Face's `Phi4MultimodalForCausalLM`.
    """

    def __init__(self, model: Phi4MultimodalForCausalLM) -> None:
        super().__init__(Phi4Encoder(model), LanguageModel(model))

    def tokens_of(self, mel_frames: int) -> int:
        """Return how many audio tokens come of so many mel frames (100 Hz)."""
        return -(-mel_frames // (MEL_HZ_PER_FRAME * self.encoder.config.stack))

    def audio_tokens(self, features: Tensor, mel_frames: int) -> Tensor:
        """Return the audio tokens [n, W] of one clip.

        Args:
            features: Log-mel of Phi-4's own extractor, [T, 80], T at least `mel_frames`.
            mel_frames: Frames of the clip itself.
        """
        return self._tokens(features[None, :mel_frames].transpose(1, 2))


_ADAPTERS: dict[str, tuple[Any, Any]] = {
    "qwen2_audio": (Qwen2AudioForConditionalGeneration, Qwen2Audio),
    "phi4_multimodal": (Phi4MultimodalForCausalLM, Phi4Multimodal),
}


def audio_family(source: str | Path) -> str | None:
    """Return the family of the audio language model in a folder or on the hub, if it is one.

    Args:
        source: A folder with `config.json`, or a name such as `Qwen/Qwen2-Audio-7B-Instruct`.

    Raises:
        CheckpointError: The configuration cannot be read.
    """
    kind: object = None
    if (file := Path(source) / "config.json").is_file():
        kind = read_json(file, CheckpointError).get("model_type")
    elif not Path(source).is_dir() and _HUB_NAME.fullmatch(str(source)):
        kind = read_pretrained(AutoConfig, source).model_type
    return kind if isinstance(kind, str) and kind in _ADAPTERS else None


def load_audio_language_model(
    kind: str,
    source: str | Path,
    dtype: torch.dtype | None = torch.float32,
    *,
    stored: bool = False,
) -> Qwen2Audio | Phi4Multimodal:
    """Read a model from a folder, or from the hub by name, its weights frozen.

    What Phi-4 keeps beside them to hear with is merged into them (`speech_adapter`).

    Args:
        kind: `qwen2_audio` or `phi4_multimodal`.
        source: Folder or name.
        dtype: What it computes in; `None` for the type that its weights are stored in.
        stored: Leave its matrices in the folder (`asa_engine.nn.stored_layers`); it computes in
            float32.

    Raises:
        CheckpointError: There is no such kind, or nothing readable is there.
    """
    if kind not in _ADAPTERS:
        raise CheckpointError(
            f"there is no audio language model of kind {kind!r}",
            hint=f"choose from {', '.join(_ADAPTERS)}",
        )
    factory, adapter = _ADAPTERS[kind]
    if stored:
        model = open_stored(factory, Path(source))
    else:
        model = read_pretrained(factory, source, dtype=dtype or "auto", attn_implementation="sdpa")
        if beside := find_speech_adapter(source):
            merge_speech_adapter(model, source, beside)
    adapted: Qwen2Audio | Phi4Multimodal = adapter(model.eval().requires_grad_(False))
    decoder: Any = adapted.language_model.decoder
    if hasattr(
        decoder, "embed_tokens_extend"
    ):  # Phi-4's vision model, and its audio encoder a second time
        del decoder.embed_tokens_extend
    return adapted


def load_backbones(
    encoder: str | Path,
    language_model: str | Path,
    positions: int | None = None,
    dtype: torch.dtype | None = torch.float32,
    *,
    stored: bool = False,
) -> tuple[WhisperEncoder | AudioEncoder, LanguageModel]:
    """Read an encoder and a language model; each may be a part of an audio language model.

    A model that is named for both is read once.

    Args:
        encoder: Folder of a Whisper, or folder or hub name of an audio language model.
        language_model: Folder or hub name of a causal or audio language model.
        positions: Rows of a Whisper's positional table to keep.
        dtype: What the language model computes in, and an encoder of its own is stored in; `None`
            for the type of its weights. Encoders compute in float32.
        stored: Leave matrices of the language model, and of what comes with it, in their folder.

    Raises:
        CheckpointError: One cannot be read.
    """
    encoder_family, model_family = audio_family(encoder), audio_family(language_model)
    whole = None
    if encoder_family:
        whole = load_audio_language_model(encoder_family, encoder, dtype, stored=stored)
        whole.encoder.float()
    if whole is not None and str(encoder) == str(language_model):
        return whole.encoder, whole.language_model
    if model_family:
        model: LanguageModel = load_audio_language_model(
            model_family, language_model, dtype, stored=stored
        ).language_model
    else:
        model = load_language_model(language_model, dtype, stored=stored)
    return (whole.encoder if whole else load_whisper_encoder(encoder, positions)), model
