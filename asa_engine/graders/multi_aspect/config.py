"""Configuration of the multi-aspect grader: everything but the weights, without PyTorch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from asa_engine.errors import CheckpointError
from asa_engine.features import delivery, linguistic
from asa_engine.files import read_json
from asa_engine.graders.aspects import AspectConfig, parse_aspects
from asa_engine.graders.fields import ascending, bad, check_names, grader_fields, integer, number
from asa_engine.nn.config import WhisperEncoderConfig

__all__ = ["FORMS", "MultiAspectConfig"]

GRADER = "multi_aspect"
FORMAT_REVISION = 1
SAMPLE_RATE_HZ = 16_000
FRAME_RATE_HZ = 50
FORMS = ("paper", "lab")
STAGES = ("recogniser", "text_encoder", "speech_encoder")
_MAX_WIDTH = 8192
_MAX_LAYERS = 32
_ENCODER_LIMITS = {
    "n_mels": 512,
    "d_model": 8192,
    "layers": 128,
    "heads": 128,
    "ffn": 32768,
    "positions": 6000,
}


@dataclass(frozen=True, slots=True)
class MultiAspectConfig:
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
    """

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

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object that `from_dict` reads."""
        fields = dataclasses.asdict(self)
        return {"grader": GRADER, "format_revision": FORMAT_REVISION, **fields}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Build and validate a configuration.

        Raises:
            CheckpointError: It is not a multi-aspect grader's, is of a newer format, or a field is
                missing, unknown, of the wrong kind or out of range; the message names the field.
        """
        fields = grader_fields(cls, value, GRADER, FORMAT_REVISION)
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
            fields["speech_encoder"] = _encoder(fields["speech_encoder"])
        for name in ("window_s", "dropout"):
            if name in fields:
                fields[name] = number(fields[name], name)
        config = cls(**fields)
        config._check()
        return config

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read `config.json` of a checkpoint or bundle.

        Raises:
            CheckpointError: It is missing, not JSON, or not valid.
        """
        return cls.from_dict(read_json(Path(folder) / "config.json", CheckpointError))

    def _check(self) -> None:
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
            if not isinstance(name, str) or not 1 <= len(name) <= 100:
                raise bad(f"backbones.{stage}", name, "the name of a backbone")


def _encoder(value: object) -> WhisperEncoderConfig:
    if not isinstance(value, Mapping):
        raise bad("speech_encoder", value, "an object")
    check_names(WhisperEncoderConfig, value, "speech_encoder")
    sizes = {
        name: integer(size, f"speech_encoder.{name}", _ENCODER_LIMITS[name])
        for name, size in value.items()
    }
    return WhisperEncoderConfig(**sizes)
