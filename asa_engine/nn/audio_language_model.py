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
from transformers.utils.hub import cached_file

from asa_engine.errors import CheckpointError
from asa_engine.files import read_json
from asa_engine.nn.config import AudioEncoderConfig
from asa_engine.nn.language_model import LanguageModel, load_language_model, read_pretrained
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
SPEECH_ADAPTER = "speech-lora/adapter_config.json"
_NOT_THERE: dict[str, Any] = {
    f"_raise_exceptions_for_{why}": False
    for why in ("gated_repo", "missing_entries", "connection_errors")
}
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
            n_mels=shape.num_mel_bins,
            d_model=shape.d_model,
            layers=shape.encoder_layers,
            heads=shape.encoder_attention_heads,
            ffn=shape.encoder_ffn_dim,
            positions=shape.max_source_positions,
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
                mend="cut audio into chunks of at most 30 s",
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
            if (found := getattr(shape, name)) != wanted:
                raise CheckpointError(
                    f"audio_config.{name} of this Phi-4 is {found}",
                    mend=f"only {wanted} is known; give the published model's folder",
                )
        stack = shape.time_reduction // MEL_HZ_PER_FRAME
        config = AudioEncoderConfig(
            n_mels=shape.input_size,
            d_model=shape.hidden_size,
            layers=shape.num_blocks,
            heads=shape.num_attention_heads,
            ffn=shape.intermediate_size,
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
    kind: str, source: str | Path, dtype: torch.dtype = torch.float32
) -> Qwen2Audio | Phi4Multimodal:
    """Read a model from a folder, or from the hub by name, its weights frozen.

    Args:
        kind: `qwen2_audio` or `phi4_multimodal`.
        source: Folder or name.
        dtype: What it computes in.

    Raises:
        CheckpointError: There is no such kind, or nothing readable is there.
    """
    if kind not in _ADAPTERS:
        raise CheckpointError(
            f"there is no audio language model of kind {kind!r}",
            mend=f"choose from {', '.join(_ADAPTERS)}",
        )
    factory, adapter = _ADAPTERS[kind]
    if cached_file(str(source), SPEECH_ADAPTER, **_NOT_THERE):
        raise CheckpointError(
            f"{source} keeps what makes it hear in an adapter of its own, {SPEECH_ADAPTER}",
            mend="merge the adapter into the weights (peft: merge_and_unload) and save the folder",
        )
    model = read_pretrained(factory, source, dtype=dtype, attn_implementation="sdpa")
    found: Qwen2Audio | Phi4Multimodal = adapter(model.eval().requires_grad_(False))
    decoder: Any = found.language_model.decoder
    if hasattr(decoder, "embed_tokens_extend"):  # Phi-4's eyes, and its ears a second time
        del decoder.embed_tokens_extend
    return found


def load_backbones(
    encoder: str | Path, language_model: str | Path, positions: int | None = None
) -> tuple[WhisperEncoder | AudioEncoder, LanguageModel]:
    """Read an encoder and a language model; each may be a part of an audio language model.

    A model that is named for both is read once.

    Args:
        encoder: Folder of a Whisper, or folder or hub name of an audio language model.
        language_model: Folder or hub name of a causal or audio language model.
        positions: Rows of a Whisper's positional table to keep.

    Raises:
        CheckpointError: One cannot be read.
    """
    hearing, speaking = audio_family(encoder), audio_family(language_model)
    ears = load_audio_language_model(hearing, encoder) if hearing else None
    if ears is not None and str(encoder) == str(language_model):
        return ears.encoder, ears.language_model
    if speaking:
        model: LanguageModel = load_audio_language_model(speaking, language_model).language_model
    else:
        model = load_language_model(language_model)
    return (ears.encoder if ears else load_whisper_encoder(encoder, positions)), model
