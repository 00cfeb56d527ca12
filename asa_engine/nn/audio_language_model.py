"""Language models that come with their own audio encoder: Qwen2-Audio and Phi-4-multimodal.

Each adapter gives what the speech LLM needs of Hugging Face's class: one clip's features -> audio
tokens, and the `LanguageModel` that takes them as embeddings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Phi4MultimodalForCausalLM, Qwen2AudioForConditionalGeneration

from asa_engine.errors import CheckpointError
from asa_engine.nn.language_model import LanguageModel, read_pretrained

__all__ = ["AudioLanguageModel", "Phi4Multimodal", "Qwen2Audio", "load_audio_language_model"]


class AudioLanguageModel(Protocol):
    """Audio tokens and the language model that takes them.

    Attributes:
        language_model: Embeddings in, hidden states out.
    """

    language_model: LanguageModel

    def tokens_of(self, mel_frames: int) -> int:
        """Return how many audio tokens come of so many mel frames (100 Hz)."""

    def audio_tokens(self, features: Tensor, mel_frames: int) -> Tensor:
        """Return the audio tokens [n, W] of one clip."""


class Qwen2Audio(nn.Module):
    """Qwen2-Audio's encoder and projector, run on a clip's valid frames alone.

    The class itself pads every clip to 30 s and masks what it padded; leaving it away is exact and
    costs a tenth for a 3 s clip. Only the two convolutions look beyond the last valid frame.

    Args:
        model: Hugging Face's `Qwen2AudioForConditionalGeneration`.
    """

    def __init__(self, model: Qwen2AudioForConditionalGeneration) -> None:
        super().__init__()
        hugging_face: Any = model
        self.tower = hugging_face.model.audio_tower
        self.projector = hugging_face.model.multi_modal_projector
        self.language_model = LanguageModel(model, hugging_face.model.language_model)

    def tokens_of(self, mel_frames: int) -> int:
        """Return how many audio tokens (25 Hz) come of so many mel frames (100 Hz)."""
        return self._encoder_frames(mel_frames) // 2

    def audio_tokens(self, features: Tensor, mel_frames: int) -> Tensor:
        """Return the audio tokens [n, W] of one clip of at most 30 s.

        Args:
            features: Log-mel of the clip zero-padded to 30 s, [n_mels, 3000].
            mel_frames: Frames of the clip itself.

        Raises:
            CheckpointError: The clip is longer than the encoder's positions.
        """
        frames = self._encoder_frames(mel_frames)
        if frames > self.tower.embed_positions.num_embeddings:
            raise CheckpointError(
                f"a clip of {mel_frames} mel frames is too long for this encoder",
                mend="cut audio into chunks of at most 30 s",
            )
        # Frame t of the second convolution sees mel frames up to 2 t + 2.
        mel = features[None, :, : 2 * frames + 1].to(self.tower.conv1.weight.dtype)
        x = F.gelu(self.tower.conv1(mel))[..., : 2 * frames]
        x = F.gelu(self.tower.conv2(x)).transpose(1, 2)
        x = x + self.tower.embed_positions.weight[:frames]
        for layer in self.tower.layers:
            out = layer(x, None)
            x = out[0] if isinstance(out, tuple) else out
        x = self.tower.layer_norm(self.tower.avg_pooler(x.transpose(1, 2)).transpose(1, 2))
        tokens: Tensor = self.projector(x)[0]
        return tokens

    def _encoder_frames(self, mel_frames: int) -> int:
        return (mel_frames - 1) // 2 + 1


class Phi4Multimodal(nn.Module):
    """Phi-4-multimodal's conformer and its projection for speech, one unpadded clip a call.

    Its padding mask is added to attention logits, not -inf: a padded clip gives other tokens. One
    unpadded clip a call is what this engine calls the reference.

    Args:
        model: Hugging Face's `Phi4MultimodalForCausalLM`.
    """

    def __init__(self, model: Phi4MultimodalForCausalLM) -> None:
        super().__init__()
        hugging_face: Any = model
        self.audio = hugging_face.model.embed_tokens_extend.audio_embed
        self.language_model = LanguageModel(model)

    def tokens_of(self, mel_frames: int) -> int:
        """Return how many audio tokens (12.5 Hz) come of so many mel frames (100 Hz)."""
        return -(-mel_frames // int(self.audio.encoder.config.time_reduction))

    def audio_tokens(self, features: Tensor, mel_frames: int) -> Tensor:
        """Return the audio tokens [n, W] of one clip.

        Args:
            features: Log-mel of Phi-4's own extractor, [T, 80], T at least `mel_frames`.
            mel_frames: Frames of the clip itself.
        """
        clip = features[None, :mel_frames].to(self.audio.up_proj_for_speech.weight.dtype)
        frames = self.audio.encoder(clip, None)
        hidden = F.gelu(self.audio.up_proj_for_speech(frames))
        tokens: Tensor = self.audio.down_proj_for_speech(hidden)[0]
        return tokens


_ADAPTERS: dict[str, tuple[Any, Any]] = {
    "qwen2_audio": (Qwen2AudioForConditionalGeneration, Qwen2Audio),
    "phi4_multimodal": (Phi4MultimodalForCausalLM, Phi4Multimodal),
}


def load_audio_language_model(
    kind: str, source: str | Path, dtype: torch.dtype = torch.float32
) -> AudioLanguageModel:
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
    model = read_pretrained(factory, source, dtype=dtype, attn_implementation="sdpa")
    found: AudioLanguageModel = adapter(model.eval().requires_grad_(False))
    return found
