"""Configuration of the pronunciation grader: everything but the weights, without PyTorch."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import numpy as np

from asa_engine.graders.aspects import AspectConfig, parse_aspects
from asa_engine.graders.fields import (
    WHISPER_LIMITS,
    GraderConfig,
    Windowed,
    bad,
    check_names,
    integer,
    number,
    parse_shape,
)
from asa_engine.graders.lm.shapes import SAMPLES_PER_FRAME
from asa_engine.nn.config import WhisperDecoderConfig, WhisperEncoderConfig

__all__ = ["GRADER", "NEVER", "PronunciationConfig", "Thresholds"]

GRADER: Final = "pronunciation"
NEVER: Final = 30.0
"""Log-odds that nothing reaches: the limit of a verdict that a checkpoint was not trained for."""
_MAX_TABLE: Final = 64


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where a number becomes a verdict; training sets them on speaker-disjoint folds.

    Attributes:
        mismatch: Log-odds above which the recording is taken to be of another text.
        omission: Log-odds above which a word is taken to be left out.
        insertion: Log-odds above which speech between two words is taken to be a word.
        mispronounced: Accuracy (0 to 10) below which a word is mispronounced.
        poor_phone: Accuracy (0 to 2) below which a sound is.
    """

    mismatch: float = 0.0
    omission: float = 0.0
    insertion: float = 0.0
    mispronounced: float = 6.0
    poor_phone: float = 1.0


@dataclass(frozen=True, slots=True)
class PronunciationConfig(Windowed, GraderConfig):
    """The pronunciation grader.

    Attributes:
        aspects: Scores of a reading of a known text.
        free_sd: Expected errors where no text is known: aspect -> table as in `AspectConfig.sd`.
        encoder: Shape of the Whisper encoder.
        decoder: Shape of its text decoder.
        alignment_heads: Decoder layer and head of those that follow the speech.
        window_s: Length of an encoder window, s.
        min_window_s: A last window shorter than this is left out, unless it is the only one.
        heads: Attention heads of the judges.
        sd_by_score: Factors on the expected errors, aspect or "free_" + aspect -> (score, factor):
            low scores are less sure than high ones.
        thresholds: Where numbers become verdicts.
        word_sd: Expected error of a word's accuracy: (score, deviation), ascending.
        max_text_s: The longest recording of a read text, s.
        front: 1 for a grader that hears speech and its surroundings alone, at one level
            (`asa_engine.audio.front`); 0 for one that hears recordings as they are.
    """

    grader: ClassVar[str] = GRADER

    aspects: tuple[AspectConfig, ...]
    free_sd: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    encoder: WhisperEncoderConfig = field(default_factory=WhisperEncoderConfig)
    decoder: WhisperDecoderConfig = field(default_factory=WhisperDecoderConfig)
    alignment_heads: tuple[tuple[int, int], ...] = ()
    window_s: float = 4.0
    min_window_s: float = 0.1
    heads: int = 4
    sd_by_score: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    thresholds: Thresholds = field(default_factory=Thresholds)
    word_sd: tuple[tuple[float, float], ...] = ()
    max_text_s: float = 300.0
    front: int = 1

    @property
    def flat_heads(self) -> tuple[int, ...]:
        """The alignment heads, counted through all layers."""
        return tuple(layer * self.decoder.heads + head for layer, head in self.alignment_heads)

    def free_aspects(self) -> tuple[AspectConfig, ...]:
        """Return the aspects as they are scored where no text is known."""
        return tuple(
            dataclasses.replace(aspect, sd=tuple(self.free_sd.get(aspect.name, ())))
            for aspect in self.aspects
        )

    def sd_of(self, key: str, aspect: AspectConfig, value: float, seconds: float) -> float | None:
        """Return the expected error of a score.

        Args:
            key: The aspect's name, with "free_" before it where no text is known.
            aspect: The aspect.
            value: The score.
            seconds: Of speech.
        """
        sd = aspect.sd_at(seconds)
        if sd is None or not (table := self.sd_by_score.get(key)):
            return sd
        xs, ys = zip(*table, strict=True)
        return round(sd * float(np.interp(value, xs, ys)), 3)

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> None:
        """Replace what JSON holds by what the fields are."""
        fields["aspects"] = parse_aspects(fields.get("aspects"))
        names = {aspect.name for aspect in fields["aspects"]}
        for name, shape in (("encoder", WhisperEncoderConfig), ("decoder", WhisperDecoderConfig)):
            if name in fields:
                fields[name] = _shape(shape, fields[name], name)
        if "free_sd" in fields:
            fields["free_sd"] = _tables(fields["free_sd"], "free_sd", names)
        if "sd_by_score" in fields:
            both = names | {f"free_{name}" for name in names}
            fields["sd_by_score"] = _tables(fields["sd_by_score"], "sd_by_score", both)
        if "word_sd" in fields:
            fields["word_sd"] = _table(fields["word_sd"], "word_sd")
        if "alignment_heads" in fields:
            fields["alignment_heads"] = _heads(fields["alignment_heads"])
        if "thresholds" in fields:
            fields["thresholds"] = _thresholds(fields["thresholds"])
        if "heads" in fields:
            fields["heads"] = integer(fields["heads"], "heads", 64)
        for name in ("window_s", "min_window_s", "max_text_s"):
            if name in fields:
                fields[name] = number(fields[name], name)

    def check(self) -> None:
        """Raise `CheckpointError` where fields do not go together."""
        frames = self.window_samples / SAMPLES_PER_FRAME
        if not 0 < frames <= self.encoder.positions or frames % 1:
            raise bad("window_s", self.window_s, "a multiple of 0.02 s, within the encoder's reach")
        if not 0.02 <= self.min_window_s <= self.window_s:
            raise bad("min_window_s", self.min_window_s, "0.02 s to window_s")
        if not 1 <= self.max_text_s <= 3600:
            raise bad("max_text_s", self.max_text_s, "1 to 3600 s")
        shape = self.decoder
        if shape.d_model != self.encoder.d_model:
            raise bad("decoder.d_model", shape.d_model, "the encoder's width")
        if not self.alignment_heads or any(
            layer >= shape.layers or head >= shape.heads for layer, head in self.alignment_heads
        ):
            raise bad("alignment_heads", self.alignment_heads, "heads that the decoder has")


def _shape(kind: Any, value: object, name: str) -> Any:
    found = parse_shape(kind, value, name, WHISPER_LIMITS)
    if found.d_model % found.heads:
        raise bad(f"{name}.heads", found.heads, f"a divisor of d_model {found.d_model}")
    return found


def _tables(
    value: object, field_name: str, names: set[str]
) -> dict[str, tuple[tuple[float, float], ...]]:
    if not isinstance(value, Mapping) or not set(value) <= names:
        raise bad(field_name, value, f"an object with {', '.join(sorted(names))}")
    return {name: _table(table, f"{field_name}.{name}") for name, table in value.items()}


def _table(value: object, name: str) -> tuple[tuple[float, float], ...]:
    if not isinstance(value, list | tuple) or len(value) > _MAX_TABLE:
        raise bad(name, value, "a list of pairs")
    pairs = []
    for pair in value:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise bad(name, value, "a list of pairs")
        pairs.append((number(pair[0], name), number(pair[1], name)))
    if any(b[0] <= a[0] for a, b in itertools.pairwise(pairs)):
        raise bad(name, value, "ascending")
    return tuple(pairs)


def _heads(value: object) -> tuple[tuple[int, int], ...]:
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= 1024:
        raise bad("alignment_heads", value, "a list of [layer, head]")
    found = []
    for pair in value:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise bad("alignment_heads", value, "a list of [layer, head]")
        layer, head = (integer(item, "alignment_heads", 1024, 0) for item in pair)
        found.append((layer, head))
    return tuple(found)


def _thresholds(value: object) -> Thresholds:
    if not isinstance(value, Mapping):
        raise bad("thresholds", value, "an object")
    check_names(Thresholds, value, "thresholds")
    return Thresholds(**{name: number(item, f"thresholds.{name}") for name, item in value.items()})
