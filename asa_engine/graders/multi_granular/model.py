"""The multi-granular grader in PyTorch: the reference that every export is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asa_engine.bundle import WEIGHTS_NAME
from asa_engine.errors import CheckpointError
from asa_engine.graders.lm.checkpoint import (
    Checkpointed,
    add_adapters,
    backbone_source,
    check_backbones,
    read_tuned,
)
from asa_engine.graders.multi_granular.config import MultiGranularConfig
from asa_engine.graders.multi_granular.parts import MEASURES
from asa_engine.language_model.tokens import TextTokens
from asa_engine.nn.language_model import (
    LanguageModel,
    PrefixCache,
    load_language_model,
    load_tokenizer,
)
from asa_engine.nn.lora import LoraLinear, lora_parameters
from asa_engine.nn.weights import load_whisper_encoder
from asa_engine.nn.whisper import WhisperEncoder

__all__ = [
    "LEXICON_NAME",
    "AudioProjector",
    "MultiGranular",
    "PhoneLayer",
    "Slots",
]

LEXICON_NAME = "lexicon.txt"
"""Words of the training speakers' texts, as the corpus transcribes them."""


class PhoneLayer(nn.Module):
    """Frames [..., D] -> log-probabilities [..., C] of silence and the phones."""

    def __init__(self, config: MultiGranularConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.encoder.d_model)
        self.fc1 = nn.Linear(config.encoder.d_model, config.phone_width)
        self.fc2 = nn.Linear(config.phone_width, config.classes)
        self.dropout = nn.Dropout(0.0)  # training sets it

    def forward(self, frames: Tensor) -> Tensor:
        """Classify frames."""
        x = self.dropout(self.norm(frames))
        return F.log_softmax(self.fc2(self.dropout(F.silu(self.fc1(x)))), -1)


class AudioProjector(nn.Module):
    """Frames -> audio tokens: norm, stack, two linear layers, norm.

    Args:
        config: Shapes.
        embedding_rms: Root mean square of the language model's embeddings.
    """

    def __init__(self, config: MultiGranularConfig, embedding_rms: float) -> None:
        super().__init__()
        width = config.encoder.d_model
        self.stack = config.stack
        self.frame_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width * config.stack, config.projector_width)
        self.fc2 = nn.Linear(config.projector_width, config.language_model.width)
        self.norm = _rms_norm(config, embedding_rms)
        self.dropout = nn.Dropout(0.0)  # training sets it

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Map frames [B, T, D], of which `lengths` [B] count, to tokens [B, ceil(T / stack), W].

        Windows hold whole tokens, so that a recording's frames may come in one row.
        """
        valid = torch.arange(frames.shape[1]) < lengths[:, None]
        x = self.frame_norm(frames) * valid[..., None]
        x = F.pad(x, (0, 0, 0, -x.shape[1] % self.stack))
        x = self.dropout(x.reshape(len(x), -1, self.stack * x.shape[2]))
        tokens: Tensor = self.norm(self.fc2(self.dropout(F.silu(self.fc1(x)))))
        return tokens


class Slots(nn.Module):
    """How each phone was said -> tokens of the recording, its words and its phones.

    Args:
        config: Shapes.
        embedding_rms: Root mean square of the language model's embeddings.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: MultiGranularConfig, embedding_rms: float) -> None:
        super().__init__()
        size = config.encoder.d_model + config.classes + MEASURES
        width, wide = config.slot_width, config.language_model.width
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("deviation", torch.ones(size))
        self.phone = nn.Parameter(torch.randn(config.classes, width))
        self.fc1 = nn.Linear(size, width)
        self.fc2 = nn.Linear(width, width)
        self.all, self.word, self.one = (nn.Linear(n * width, width) for n in (1, 3, 3))
        self.all_out, self.word_out, self.one_out = (nn.Linear(width, wide) for _ in range(3))
        self.all_norm, self.word_norm, self.one_norm = (
            _rms_norm(config, embedding_rms) for _ in range(3)
        )
        self.dropout = nn.Dropout(0.0)  # training sets it

    def forward(
        self, features: Tensor, phones: Tensor, words: Tensor, recordings: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Make the tokens of several recordings.

        Args:
            features: `parts.sound_features` of every phone of all recordings, [P, F].
            phones: Class of each, int64 [P].
            words: Which word each is of, counted through all recordings, int64 [P].
            recordings: Which recording each word is of, int64 [N].

        Returns:
            Tokens of the recordings [R, W], the words [N, W] and the phones [P, W].
        """
        x = (features - self.mean) / self.deviation
        x = F.silu(self.fc1(self.dropout(x)) + self.phone[phones])
        x = F.silu(self.fc2(self.dropout(x)))
        count = len(recordings)
        means = _means(x, words, count)
        owners = words[:, None].expand_as(x)
        peaks = torch.full_like(means, -torch.inf).scatter_reduce(0, owners, x, "amax")
        whole = _means(x, recordings[words], int(recordings[-1]) + 1)
        word = torch.cat((means, peaks, whole[recordings]), 1)
        one = torch.cat((x, means[words], whole[recordings[words]]), 1)
        return (
            self.all_norm(self.all_out(F.silu(self.all(self.dropout(whole))))),
            self.word_norm(self.word_out(F.silu(self.word(self.dropout(word))))),
            self.one_norm(self.one_out(F.silu(self.one(self.dropout(one))))),
        )


class MultiGranular(Checkpointed):
    """Whisper encoder, phone layer, audio projector, slots, language model with adapters.

    Args:
        config: Shapes, prompt, scales.
        encoder: With its weights; it is frozen.
        language_model: With its weights; adapters are added to it.
        tokens: The language model's tokenizer.

    Raises:
        CheckpointError: A backbone is not of the configured shape.
    """

    config: MultiGranularConfig

    def __init__(
        self,
        config: MultiGranularConfig,
        encoder: WhisperEncoder,
        language_model: LanguageModel,
        tokens: TextTokens,
    ) -> None:
        super().__init__()
        check_backbones(config, encoder, language_model)
        self.config = config
        self.tokens = tokens
        self.encoder = encoder.requires_grad_(False)
        self.language_model = language_model.requires_grad_(False)
        rms = language_model.embedding_rms()
        self.phones = PhoneLayer(config)
        self.projector = AudioProjector(config, rms)
        self.slots = Slots(config, rms)
        add_adapters(language_model, config.lora)

    @property
    def layers(self) -> int:
        """Layers of the language model."""
        return self.config.language_model.layers

    def adapters(self) -> dict[str, nn.Parameter]:
        """Return the adapters' factors by name."""
        return {f"language_model.{k}": v for k, v in lora_parameters(self.language_model)}

    def tuned(self) -> dict[str, Tensor]:
        """Return everything that is not a backbone's, by name."""
        ours = {
            f"{part}.{name}": value
            for part in ("phones", "projector", "slots")
            for name, value in getattr(self, part).state_dict().items()
        }
        return {**ours, **self.adapters()}

    def set_dropout(self, parts: float, lora: float) -> None:
        """Set the dropout of training."""
        for part in (self.phones, self.projector, self.slots):
            part.dropout.p = parts
        for module in self.language_model.modules():
            if isinstance(module, LoraLinear):
                module.dropout.p = lora

    def frames(self, mel: Tensor) -> Tensor:
        """Return the frames [T, D] of a window's log-mel [n_mels, 2 T]: a mix of all layers."""
        layers = torch.stack(self.encoder(mel[None]))[:, 0]
        weights = layers.new_tensor(self.config.layer_weights)
        return torch.einsum("l,ltd->td", weights, layers)

    def embed(self, ids: Sequence[int], slots: Tensor) -> Tensor:
        """Return the embeddings [n, W] of tokens, those from the vocabulary's end on from slots."""
        vocabulary = self.config.language_model.vocabulary
        wanted = torch.tensor(ids, dtype=torch.long)
        rows = self.language_model.embed(wanted.clamp(max=vocabulary - 1))
        special = wanted >= vocabulary
        if special.any():
            rows = rows.clone()
            rows[special] = slots[wanted[special] - vocabulary].to(rows.dtype)
        return rows

    def prefix(
        self, first: int, last: int, hidden: Tensor | None = None
    ) -> tuple[Tensor, PrefixCache]:
        """Run the prompt's beginning through layers `first` to `last` - 1.

        Args:
            first: 0, or where `hidden` left off.
            last: The layer to stop before.
            hidden: Output of layer `first` - 1, [P, W]; None takes the embeddings.
        """
        if hidden is None:
            ids = torch.tensor(self.config.prefix_ids, dtype=torch.long)
            hidden = self.language_model.embed(ids)
        return self.language_model.run_prefix(hidden, first, last)

    def run(
        self, sequences: Sequence[Tensor], first: int, last: int, prefix: PrefixCache
    ) -> list[Tensor]:
        """Run sequences [n, W] behind the prompt's beginning through some layers."""
        batch = nn.utils.rnn.pad_sequence(list(sequences), batch_first=True)
        start = len(self.config.prefix_ids)
        hidden = self.language_model.run(batch, first, last, prefix, start)
        return [row[: len(item)] for row, item in zip(hidden, sequences, strict=True)]

    def logits(self, hidden: Tensor, ids: Sequence[int] | None = None) -> Tensor:
        """Return logits of some tokens, or of all, from the last layer's outputs [n, W]."""
        closed = self.language_model.close(hidden)
        rows = self.language_model.output.weight
        if ids is not None:
            return F.linear(closed.float(), rows[list(ids)].float())
        return F.linear(closed, rows).float()

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a checkpoint and its backbones, in evaluation mode, weights as float32.

        Raises:
            CheckpointError: Something is missing or damaged; the prompt's tokens are others here;
                the weights are of other backbones, or not finite.
        """
        config = MultiGranularConfig.load(folder)
        source = _source(config, "language_model")
        tokenizer = load_tokenizer(source)
        _check_prompt(config, tokenizer)
        grader = cls(
            config,
            load_whisper_encoder(_source(config, "encoder"), config.encoder.positions),
            load_language_model(source),
            TextTokens(tokenizer.backend_tokenizer.to_str()),
        )
        tensors = read_tuned(Path(folder) / WEIGHTS_NAME, grader.tuned())
        grader.load_state_dict(tensors, strict=False)
        return grader.eval()


def _source(config: MultiGranularConfig, stage: str) -> str | Path:
    if stage not in config.backbones:
        raise CheckpointError(f"the checkpoint names no backbone for its {stage}")
    return backbone_source(config.backbones[stage])


def _check_prompt(config: MultiGranularConfig, tokenizer: Any) -> None:
    for name in ("prefix", "middle", "suffix"):
        ids = tuple(tokenizer(getattr(config, name), add_special_tokens=False).input_ids)
        if ids != getattr(config, f"{name}_ids"):
            raise CheckpointError(
                f"the tokens of {name} are not those of this language model's tokenizer",
                hint="use the language model that the checkpoint was trained with",
            )


def _rms_norm(config: MultiGranularConfig, scale: float) -> nn.RMSNorm:
    norm = nn.RMSNorm(config.language_model.width, eps=1e-5)
    nn.init.constant_(norm.weight, scale)
    return norm


def _means(x: Tensor, owner: Tensor, count: int) -> Tensor:
    sums = x.new_zeros(count, x.shape[1]).index_add(0, owner, x)
    return sums / torch.bincount(owner, minlength=count)[:, None]
