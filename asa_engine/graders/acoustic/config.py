"""Configuration of the acoustic grader: everything but the weights, validated, without PyTorch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from asa_engine.graders.aspects import AspectConfig, parse_aspects
from asa_engine.graders.fields import (
    WHISPER_LIMITS,
    GraderConfig,
    Windowed,
    ascending,
    bad,
    integer,
    number,
    parse_shape,
)
from asa_engine.nn.acoustic_tensors import GraderShape
from asa_engine.nn.config import WhisperEncoderConfig

__all__ = ["AcousticConfig"]

GRADER = "acoustic"
FORMAT_REVISION = 1
HOP_SAMPLES = 160
MEL_FRAMES_PER_FRAME = 2
PADDINGS = ("valid", "full")

_MAX_WINDOW_S = 60.0
_MAX_WIDTH = 8192
_MAX_CENTRES = 65536


@dataclass(frozen=True, slots=True)
class AcousticConfig(Windowed, GraderConfig):
    """The acoustic grader.

    Attributes:
        aspects: What is scored, in the order of the head's outputs.
        encoder: Shape of the Whisper encoder.
        window_s: Length of an encoder window, s.
        window_padding: `valid`: the last window is as long as what is left of the audio; `full`:
            it is zero-padded to `window_s`, as in the paper at 30 s.
        min_window_s: A last window shorter than this is left out, unless it is the only one.
        attention_heads: Heads H of the attention pooling.
        prior_levels: Score of each level of the acoustic proficiency prior.
        prior_width: Inner width of the prior's MLP.
        prior_embedding: Width of the prior's projection into the head.
        head_width: Inner width of the regression head.
        kernel_centres: Recordings N that the kernel regressor compares with; 0 for a grader
            without one.
        kernel_width: Principal directions R it compares in.
        front: 0 for a grader that hears recordings as they are; 1 for one that hears speech and
            its surroundings alone, at one level; 2 for the same as it is (`asa_engine.audio`).
    """

    grader: ClassVar[str] = GRADER

    aspects: tuple[AspectConfig, ...]
    encoder: WhisperEncoderConfig = dataclasses.field(default_factory=WhisperEncoderConfig)
    window_s: float = 4.0
    window_padding: str = "valid"
    min_window_s: float = 0.1
    attention_heads: int = 4
    prior_levels: tuple[float, ...] = (3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0)
    prior_width: int = 128
    prior_embedding: int = 32
    head_width: int = 256
    kernel_centres: int = 0
    kernel_width: int = 256
    front: int = 0

    @property
    def window_frames(self) -> int:
        """Encoder frames (50 Hz) in a full window."""
        mel_frames = self.window_samples // HOP_SAMPLES
        return -(-mel_frames // MEL_FRAMES_PER_FRAME)

    @property
    def stats_width(self) -> int:
        """Number K of pooled sums: count, sum, sum of squares, H weights, H weighted sums.

        With a kernel regressor, sum and sum of squares of each layer's outputs follow.
        """
        width, heads = self.encoder.d_model, self.attention_heads
        return 1 + 2 * width + heads * (1 + width) + self.moments_width

    @property
    def shape(self) -> GraderShape:
        """Shapes of all tensors."""
        return GraderShape(
            encoder=self.encoder,
            pooling_heads=self.attention_heads,
            prior_width=self.prior_width,
            levels=len(self.prior_levels),
            prior_embedding=self.prior_embedding,
            head_width=self.head_width,
            aspects=len(self.aspects),
            centres=self.kernel_centres,
            place=self.kernel_width if self.kernel_centres else 0,
        )

    @property
    def moments_width(self) -> int:
        """Number of the kernel regressor's sums: 2 (layers + 1) D, or none."""
        return 2 * (self.encoder.layers + 1) * self.encoder.d_model if self.kernel_centres else 0

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> None:
        """Replace what JSON holds by what the fields are."""
        fields["aspects"] = parse_aspects(fields.get("aspects"))
        if "encoder" in fields:
            fields["encoder"] = _encoder(fields["encoder"])
        if "prior_levels" in fields:
            fields["prior_levels"] = ascending(fields["prior_levels"], "prior_levels", least=2)
        for name in ("attention_heads", "prior_width", "prior_embedding", "head_width"):
            if name in fields:
                fields[name] = integer(fields[name], name, _MAX_WIDTH)
        for name, least, most in (
            ("kernel_centres", 0, _MAX_CENTRES),
            ("kernel_width", 1, _MAX_WIDTH),
        ):
            if name in fields:
                fields[name] = integer(fields[name], name, most, least)
        for name in ("window_s", "min_window_s"):
            if name in fields:
                fields[name] = number(fields[name], name)

    def check(self) -> None:
        """Raise `CheckpointError` where fields do not go together."""
        if self.window_padding not in PADDINGS:
            raise bad("window_padding", self.window_padding, " or ".join(PADDINGS))
        if not 0.1 <= self.window_s <= _MAX_WINDOW_S:
            raise bad("window_s", self.window_s, f"0.1 to {_MAX_WINDOW_S} s")
        if self.window_samples % (HOP_SAMPLES * MEL_FRAMES_PER_FRAME):
            raise bad("window_s", self.window_s, "a multiple of 0.02 s")
        if not 0.02 <= self.min_window_s <= self.window_s:
            raise bad("min_window_s", self.min_window_s, "0.02 s to window_s")
        if self.window_frames > self.encoder.positions:
            raise bad(
                "window_s",
                self.window_s,
                f"at most {self.encoder.positions / 50:g} s (encoder.positions frames)",
            )


def _encoder(value: object) -> WhisperEncoderConfig:
    encoder = parse_shape(WhisperEncoderConfig, value, "encoder", WHISPER_LIMITS)
    if encoder.d_model % encoder.heads:
        raise bad("encoder.heads", encoder.heads, f"a divisor of d_model {encoder.d_model}")
    return encoder
