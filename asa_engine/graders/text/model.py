"""The text grader in PyTorch: the reference that every export is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Self

import torch
from torch import Tensor, nn
from transformers import BertModel

from asa_engine.errors import CheckpointError
from asa_engine.features.word_pieces import TOKENIZER_NAME
from asa_engine.graders.checkpoint import WEIGHTS_NAME, read_weights, write_checkpoint
from asa_engine.graders.text.config import TextConfig
from asa_engine.nn.bert import bert_config, load_bert, shape_of

__all__ = ["TextGrader", "masked_mean"]

BERT_PREFIX = "bert."


class TextGrader(nn.Module):
    """Word pieces -> BERT -> mean over the pieces -> dropout -> linear -> classes (system S1).

    Args:
        config: Shapes, classes and scale.
        bert: Hugging Face's encoder, without its pooler; random weights by default.
    """

    def __init__(self, config: TextConfig, bert: BertModel | None = None) -> None:
        super().__init__()
        self.config = config
        self.bert = BertModel(bert_config(config.encoder), False) if bert is None else bert
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.encoder.width, len(config.classes))
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.class_scores: Tensor
        self.register_buffer("class_scores", torch.tensor(config.class_scores), persistent=False)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return logits.

        Args:
            ids: Word pieces with both marks, int64 [B, T].
            mask: 1 where there is a piece, 0 in the padding, int64 [B, T].

        Returns:
            float32 [B, C]; nothing is added to them outside of training's objective.
        """
        hidden = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        return self.classify(masked_mean(hidden, mask))

    def classify(self, pooled: Tensor) -> Tensor:
        """Return the logits [B, C] of mean encoder outputs [B, D]."""
        logits: Tensor = self.head(self.dropout(pooled))
        return logits

    def expected_score(self, logits: Tensor) -> Tensor:
        """Return sum_k p_k s_k, held to the scale, [B]."""
        aspect = self.config.aspect
        expected = logits.softmax(-1) @ self.class_scores.to(logits)
        return expected.clamp(aspect.scale_min, aspect.scale_max)

    def tuned(self) -> dict[str, nn.Parameter]:
        """Return what training changes, by name: BERT's top layers, or all of it, and the head."""
        first = self.config.encoder.layers - self.config.tuned_layers
        layers = tuple(
            f"{BERT_PREFIX}encoder.layer.{i}." for i in range(first, self.config.encoder.layers)
        )
        if self.config.tuned_embeddings:
            layers += (f"{BERT_PREFIX}embeddings.",)
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if name.startswith((*layers, "head."))
        }

    def round_halves(self) -> None:
        """Round BERT's tuned weights to float16, as they are stored; figures come after it."""
        with torch.no_grad():
            for name, parameter in self.tuned().items():
                if name.startswith(BERT_PREFIX):
                    parameter.copy_(parameter.half().float())

    def save(
        self,
        folder: Path,
        extra: Mapping[str, str] = MappingProxyType({}),
        *,
        tokenizer: Path | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write a checkpoint: `config.json`, `weights.safetensors`, and other text files.

        Args:
            folder: What is made, whole or not at all.
            extra: File name -> text.
            tokenizer: The `tokenizer.json` to put in, where the checkpoint holds all of BERT.
            overwrite: Replace what stands there.
        """
        tuned = self.tuned()
        state = self.state_dict() if self.config.is_whole else tuned
        stored = {
            name: value.detach().half()
            if name in tuned and name.startswith(BERT_PREFIX)
            else value.detach()
            for name, value in state.items()
        }
        write_checkpoint(
            folder,
            self.config.to_dict(),
            stored,
            overwrite=overwrite,
            extra=extra,
            files={TOKENIZER_NAME: tokenizer} if tokenizer and self.config.is_whole else {},
        )

    @classmethod
    def load(cls, folder: str | Path, backbone: Path | None = None) -> Self:
        """Read a checkpoint, in evaluation mode, weights as float32.

        Args:
            folder: The checkpoint.
            backbone: Folder of the BERT that it was tuned from; not needed where the checkpoint
                holds all of it.

        Raises:
            CheckpointError: It is missing, damaged, or names, shapes or values do not fit.
        """
        folder = Path(folder)
        config = TextConfig.load(folder)
        grader = cls(config, None if backbone is None or config.is_whole else load_bert(backbone))
        if shape_of(grader.bert.config) != config.encoder:
            raise CheckpointError(
                f"{backbone} is not of the shape that {folder} was trained from",
                hint=f"fetch the backbone {config.backbones.get('text_encoder')!r} again",
            )
        wanted = grader.state_dict() if config.is_whole else grader.tuned()
        grader.load_state_dict(read_weights(folder / WEIGHTS_NAME, wanted), strict=False)
        return grader.eval()


def masked_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of [B, T, D] over the steps where mask [B, T] is 1, [B, D]."""
    kept = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * kept).sum(1) / kept.sum(1)
