"""Configuration of the multi-aspect grader: everything but the weights, without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from asa_engine.features import delivery, linguistic
from asa_engine.graders.aspects import AspectConfig, parse_aspects
from asa_engine.graders.fields import (
    MAX_SOURCE,
    SAMPLE_RATE_HZ,
    WHISPER_LIMITS,
    GraderConfig,
    ascending,
    bad,
    integer,
    number,
    parse_shape,
)
from asa_engine.nn.config import WhisperEncoderConfig

__all__ = ["FORMS", "MultiAspectConfig"]

GRADER = "multi_aspect"
FORMAT_REVISION = 1
FRAME_RATE_HZ = 50
FORMS = ("paper", "lab")
STAGES = ("recogniser", "text_encoder", "speech_encoder")
_MAX_WIDTH = 8192
_MAX_LAYERS = 32


@dataclass(frozen=True, slots=True)
class MultiAspectConfig(GraderConfig):
    """The multi-aspect grader; the defaults are the paper's sizes.

    Attributes:
        aspects: What is scored; all share the classes, which are their levels.
        class_scores: Score s_k of each class; a score is sum_k p_k s_k.
        form: `paper`: post-norm blocks with GELU, prompt beside every frame. `lab`: pre-norm
            blocks with SwiGLU, rotary positions on the content, prompt beside the pooled frames.
        frame_width: Width of a speech frame.
        prompt_width: Width of the prompt's vector.
        content_width: Width of the content encoder; 0: that of what it is given, as in the paper.
        delivery_width: Width of the delivery encoder; 0: 16.
        language_width: Width of the language-use encoder; 0: 263.
        ffn_factor: Inner width of the feed-forward blocks over their width.
        layers: Blocks of each encoder, of one attention head.
        projection: Width of the projection of the three pooled vectors.
        window_s: Speech is encoded in windows of this length, which are final when they close.
        frame_pool: Neighbouring encoder frames that are averaged to one; 1 keeps all 50 a second.
        mixed_layers: Average all layers of the speech encoder instead of taking the last.
        prompt_pooling: `cls` as in the paper, or `mean` over the prompt's pieces, which encoders
            trained on sentence similarity are made for.
        max_pieces: Word pieces of the prompt that are read, the two marks included.
        speech_encoder: Shape of the speech encoder, a Whisper's.
        analyser: Key of `asa_engine.features.linguistic.ANALYSERS`.
        backbones: Stage -> name of the backbone. A `speech_encoder` is a wav2vec2, as in the paper,
            and hears the waveform; without one the recogniser's encoder hears the log-mel.
        dropout: In training.
        front: 0 for a grader that hears recordings as they are; 1 for one that hears speech and
            its surroundings alone, at one level; 2 for the same as it is (`asa_engine.audio`).
    """

    grader: ClassVar[str] = GRADER

    aspects: tuple[AspectConfig, ...]
    class_scores: tuple[float, ...]
    form: str = "paper"
    frame_width: int = 768
    prompt_width: int = 768
    content_width: int = 0
    delivery_width: int = 0
    language_width: int = 0
    ffn_factor: int = 4
    layers: int = 1
    projection: int = 768
    window_s: float = 30.0
    frame_pool: int = 1
    mixed_layers: bool = False
    prompt_pooling: str = "cls"
    max_pieces: int = 256
    speech_encoder: WhisperEncoderConfig = field(default_factory=WhisperEncoderConfig)
    analyser: str = "spacy"
    backbones: Mapping[str, str] = field(default_factory=dict)
    dropout: float = 0.1
    front: int = 0

    @property
    def content_input(self) -> int:
        """Width of what the content encoder is given."""
        return self.frame_width + (self.prompt_width if self.form == "paper" else 0)

    @property
    def widths(self) -> tuple[int, int, int]:
        """Widths of the content, delivery and language-use encoders."""
        return (
            self.content_width or self.content_input,
            self.delivery_width or len(delivery.NAMES),
            self.language_width or len(linguistic.inventory()),
        )

    @property
    def fused_width(self) -> int:
        """Width of the three pooled vectors side by side, with a late prompt's."""
        return sum(self.widths) + (self.prompt_width if self.form == "lab" else 0)

    @property
    def window_samples(self) -> int:
        """Samples (16 kHz) in a window."""
        return round(self.window_s * SAMPLE_RATE_HZ)

    @property
    def hears_waves(self) -> bool:
        """Whether a wav2vec2 encodes the speech."""
        return "speech_encoder" in self.backbones

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, lowest first."""
        return self.aspects[0].level_names

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> None:
        """Replace what JSON holds by what the fields are."""
        fields["aspects"] = parse_aspects(fields.get("aspects"))
        fields["class_scores"] = ascending(fields.get("class_scores"), "class_scores", least=2)
        for name, least, most in (
            ("frame_width", 1, _MAX_WIDTH),
            ("prompt_width", 1, _MAX_WIDTH),
            ("content_width", 0, _MAX_WIDTH),
            ("delivery_width", 0, _MAX_WIDTH),
            ("language_width", 0, _MAX_WIDTH),
            ("ffn_factor", 1, 16),
            ("layers", 1, _MAX_LAYERS),
            ("projection", 1, _MAX_WIDTH),
            ("frame_pool", 1, 500),
            ("max_pieces", 3, 512),
        ):
            if name in fields:
                fields[name] = integer(fields[name], name, most, least)
        if "speech_encoder" in fields:
            fields["speech_encoder"] = parse_shape(
                WhisperEncoderConfig, fields["speech_encoder"], "speech_encoder", WHISPER_LIMITS
            )
        for name in ("window_s", "dropout"):
            if name in fields:
                fields[name] = number(fields[name], name)

    def check(self) -> None:
        """Raise `CheckpointError` where fields do not go together."""
        for aspect in self.aspects:
            if aspect.level_names != self.classes or len(self.classes) != len(self.class_scores):
                raise bad("aspects", aspect.name, "aspects with a level name for each class")
            low, high = aspect.scale_min, aspect.scale_max
            if self.class_scores[0] < low or self.class_scores[-1] > high:
                raise bad("class_scores", self.class_scores, f"on the scale, {low:g} to {high:g}")
        for name, choices in (
            ("form", FORMS),
            ("prompt_pooling", ("cls", "mean")),
            ("analyser", tuple(linguistic.ANALYSERS)),
        ):
            if getattr(self, name) not in choices:
                raise bad(name, getattr(self, name), " or ".join(choices))
        if type(self.mixed_layers) is not bool:
            raise bad("mixed_layers", self.mixed_layers, "true or false")
        if not 0.1 <= self.window_s <= 30 or self.window_samples % (
            SAMPLE_RATE_HZ // FRAME_RATE_HZ * self.frame_pool
        ):
            raise bad("window_s", self.window_s, "0.1 to 30 s, in whole pooled frames")
        if not 0 <= self.dropout < 1:
            raise bad("dropout", self.dropout, "at least 0 and below 1")
        stages = self.backbones
        if not isinstance(stages, Mapping) or not set(stages) <= set(STAGES):
            raise bad("backbones", stages, f"an object with {' and '.join(STAGES)}")
        for stage, name in stages.items():
            if not isinstance(name, str) or not 1 <= len(name) <= MAX_SOURCE:
                raise bad(f"backbones.{stage}", name, "the name of a backbone")
