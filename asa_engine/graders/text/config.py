"""Configuration of the text grader: everything but the weights, validated, without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from asa_engine.graders.aspects import AspectConfig, parse_aspects
from asa_engine.graders.fields import (
    MAX_SOURCE,
    GraderConfig,
    ascending,
    bad,
    integer,
    number,
    parse_shape,
)
from asa_engine.nn.config import BertShape

__all__ = ["TextConfig"]

GRADER = "text"
FORMAT_REVISION = 1
STAGES = ("recogniser", "text_encoder")

# Far above any real encoder's, low enough that a hostile file cannot ask for terabytes.
_LIMITS = {
    "vocabulary": 500_000,
    "width": 8192,
    "layers": 128,
    "heads": 128,
    "ffn": 32_768,
    "positions": 32_768,
    "segments": 16,
}


@dataclass(frozen=True, slots=True)
class TextConfig(GraderConfig):
    """The text grader.

    Attributes:
        aspects: The one score; its `level_names` are the classes, lowest first.
        class_scores: Score s_k of each class; the grader says sum_k p_k s_k.
        backbones: Stage -> name of the model that stays as it is: `recogniser`, and
            `text_encoder`, without which the checkpoint holds all of BERT and its tokenizer.
        encoder: Shape of the BERT encoder.
        tuned_layers: How many of its top layers were trained, and so are in the checkpoint.
        tuned_embeddings: Whether its embeddings were, below all layers.
        max_pieces: Word pieces read at most, the two marks at the ends included.
        min_words: A transcript of fewer words is flagged: it says too little.
        dropout: Before the linear layer, in training.
        front: 0 for a grader that hears recordings as they are; 1 for one that hears speech and
            its surroundings alone, at one level; 2 for the same as it is (`asa_engine.audio`).
    """

    grader: ClassVar[str] = GRADER

    aspects: tuple[AspectConfig, ...]
    class_scores: tuple[float, ...]
    backbones: Mapping[str, str]
    encoder: BertShape = field(default_factory=BertShape)
    tuned_layers: int = 3
    tuned_embeddings: bool = False
    max_pieces: int = 256
    min_words: int = 3
    dropout: float = 0.1
    front: int = 0

    @property
    def aspect(self) -> AspectConfig:
        """The one score."""
        return self.aspects[0]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, lowest first, C of them."""
        return self.aspect.level_names

    @property
    def is_whole(self) -> bool:
        """Whether the checkpoint holds all of BERT instead of the tuned layers alone."""
        return "text_encoder" not in self.backbones

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> None:
        """Replace what JSON holds by what the fields are."""
        fields["aspects"] = parse_aspects(fields.get("aspects"))
        fields["backbones"] = _backbones(fields.get("backbones"))
        fields["class_scores"] = ascending(fields.get("class_scores"), "class_scores", least=2)
        if "encoder" in fields:
            fields["encoder"] = _encoder(fields["encoder"])
        for name, least, most in (
            ("tuned_layers", 0, _LIMITS["layers"]),
            ("max_pieces", 3, _LIMITS["positions"]),
            ("min_words", 0, 1000),
        ):
            if name in fields:
                fields[name] = integer(fields[name], name, most, least)
        if "dropout" in fields:
            fields["dropout"] = number(fields["dropout"], "dropout")

    def check(self) -> None:
        """Raise `CheckpointError` where fields do not go together."""
        if len(self.aspects) != 1 or not self.classes:
            raise bad("aspects", [a.name for a in self.aspects], "one aspect with level_names")
        low, high = self.aspect.scale_min, self.aspect.scale_max
        if len(self.class_scores) != len(self.classes):
            raise bad("class_scores", self.class_scores, "one score for each of level_names")
        if self.class_scores[0] < low or self.class_scores[-1] > high:
            raise bad("class_scores", self.class_scores, f"on the scale, {low:g} to {high:g}")
        if len(set(self.classes)) != len(self.classes):
            raise bad("aspects[0].level_names", self.classes, "names that differ")
        if type(self.tuned_embeddings) is not bool:
            raise bad("tuned_embeddings", self.tuned_embeddings, "true or false")
        if self.tuned_embeddings and self.tuned_layers < self.encoder.layers:
            raise bad("tuned_layers", self.tuned_layers, "all of them where embeddings are tuned")
        if self.tuned_layers > self.encoder.layers:
            raise bad("tuned_layers", self.tuned_layers, f"at most {self.encoder.layers}")
        if self.max_pieces > self.encoder.positions:
            raise bad("max_pieces", self.max_pieces, f"at most {self.encoder.positions}")
        if not 0 <= self.dropout < 1:
            raise bad("dropout", self.dropout, "at least 0 and below 1")


def _encoder(value: object) -> BertShape:
    shape = parse_shape(BertShape, value, "encoder", _LIMITS)
    if shape.width % shape.heads:
        raise bad("encoder.heads", shape.heads, f"a divisor of width {shape.width}")
    return shape


def _backbones(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping) or not set(value) <= set(STAGES) or "recogniser" not in value:
        raise bad("backbones", value, "an object with recogniser and, if need be, text_encoder")
    for stage, name in value.items():
        if not isinstance(name, str) or not 1 <= len(name) <= MAX_SOURCE:
            raise bad(f"backbones.{stage}", name, "the name of a backbone")
    return dict(value)
