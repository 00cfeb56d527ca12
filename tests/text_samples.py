"""A text grader of tiny shape with random weights, and words for it; it grades nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from asa_engine.graders.aspects import AspectConfig
from asa_engine.graders.text.config import TextConfig
from asa_engine.graders.text.model import TextGrader
from asa_engine.nn.bert import bert_config
from asa_engine.nn.config import BertShape

WORDS = ("the", "cat", "sat", "on", "mat", "dog", "ran", "home", "early", "again", "we", "##s")
SHAPE = BertShape(
    vocabulary=5 + len(WORDS), width=64, layers=3, heads=4, ffn=96, positions=64, segments=2
)


def make_tokenizer(path: Path) -> Path:
    """Write a word-piece tokenizer of a few words."""
    names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, "[MASK]")
    vocabulary = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(path))
    return path


def make_config(**changes: Any) -> TextConfig:
    """Return a valid configuration; without a text encoder's backbone the checkpoint is whole."""
    settings: dict[str, Any] = {
        "aspects": (
            AspectConfig(
                "total", level_cuts=(4.5, 7.5), level_names=("A", "B", "C"), sd=((2.0, 1.5),)
            ),
        ),
        "class_scores": (3.5, 6.0, 8.5),
        "backbones": {"recogniser": "whisper-tiny.en"},
        "encoder": SHAPE,
        "tuned_layers": 2,
        "max_pieces": 16,
        **changes,
    }
    return TextConfig.from_dict(TextConfig(**settings).to_dict())


def make_grader(seed: int = 7, **changes: Any) -> TextGrader:
    """Return a grader whose weights are large enough for scores to differ."""
    torch.manual_seed(seed)
    grader = TextGrader(make_config(**changes))
    with torch.no_grad():
        for parameter in grader.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        grader.head.weight.mul_(3.0)
    grader.round_halves()
    return grader.eval()


def make_bert(folder: Path) -> Path:
    """Write a tiny BERT as Hugging Face does, with its tokenizer."""
    from transformers import BertModel

    torch.manual_seed(3)
    BertModel(bert_config(SHAPE), add_pooling_layer=False).save_pretrained(folder)
    make_tokenizer(folder / "tokenizer.json")
    return folder
