"""Configuration of the speech LLM: everything but the weights, validated, without PyTorch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from asa_engine.graders.aspects import AspectConfig, parse_aspects
from asa_engine.graders.fields import (
    GraderConfig,
    Windowed,
    ascending,
    bad,
    check_names,
    integer,
    number,
)
from asa_engine.graders.lm.shapes import (
    MODEL_LIMITS,
    SAMPLE_RATE_HZ,
    SAMPLES_PER_FRAME,
    LoraConfig,
    PromptConfig,
    check_length,
    check_shapes,
    parse_backbones,
    parse_lora,
    parse_sizes,
)
from asa_engine.nn.config import AudioEncoderConfig, LanguageModelConfig, WhisperEncoderConfig

__all__ = [
    "SAMPLES_PER_FRAME",
    "SAMPLE_RATE_HZ",
    "LoraConfig",
    "PriorConfig",
    "PromptConfig",
    "SpeechLLMConfig",
]

GRADER = "speech_llm"
FORMAT_REVISION = 1
STAGES = ("encoder", "language_model")
ANSWERS = ("soft", "hard", "regression")
MAX_CHUNK_S = 30.0

# Audio language models whose own encoder is known, and the mel bins that it can be given.
AUDIO_FAMILIES = {"qwen2_audio": (80, 128), "phi4_multimodal": (80,)}
_MAX_UNITS = 65_536
_MAX_PRIOR = {"centres": 100_000, "width": 4096}
_MAX_PROMPT_TOKENS = 4096
_MAX_WIDTH = 8192


@dataclass(frozen=True, slots=True)
class PriorConfig:
    """The acoustic prior: a kernel regressor on sums of the encoder's layers.

    Attributes:
        centres: Recordings that it compares with; 0 leaves the prior out.
        width: Principal directions that it compares along.
        share: Its weight in the pool with the language model's answer.
        sd: Spread of its score over the labels, scale units.
    """

    centres: int = 0
    width: int = 0
    share: float = 0.5
    sd: float = 1.0


@dataclass(frozen=True, slots=True)
class SpeechLLMConfig(Windowed, GraderConfig):
    """The speech LLM.

    Attributes:
        aspects: What is scored: one for labels, any number for a regression.
        prompt: What stands around the audio.
        answer: `soft`: the label scores' mean under the label tokens' probabilities; `hard`: the
            likeliest label's score; `regression`: a linear layer on the last hidden state.
        backbones: Stage -> name of the backbone that stays as it is.
        encoder: Shape of the Whisper encoder, or of an audio language model's own.
        language_model: Shape of the language model.
        lora: Its adapters.
        window_s: Length of an encoder window, s; each is encoded alone.
        min_window_s: A last window shorter than this is left out, unless it is the only one.
        chunk_s: Longest audio that the language model judges at once, s; scores of longer audio
            are averaged over chunks.
        min_chunk_s: A last chunk shorter than this is left out, unless it is the only one.
        stack: Encoder frames (50 Hz) that become one audio token; divides a window's.
        projector_width: Inner width of the projector; an audio language model brings its own.
        prior: What the encoder's sums say beside the language model.
        units: Entries of the codebook that audio tokens are rounded to; 0 leaves them as they are.
        front: 0 for a grader that hears recordings as they are; 1 for one that hears speech and
            its surroundings alone, at one level; 2 for the same as it is (`asa_engine.audio`).
    """

    grader: ClassVar[str] = GRADER

    aspects: tuple[AspectConfig, ...]
    prompt: PromptConfig
    answer: str = "soft"
    backbones: Mapping[str, str] = field(default_factory=dict)
    encoder: WhisperEncoderConfig = field(default_factory=WhisperEncoderConfig)
    language_model: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    window_s: float = 4.0
    min_window_s: float = 0.1
    chunk_s: float = 28.0
    min_chunk_s: float = 1.0
    stack: int = 10
    projector_width: int = 384
    prior: PriorConfig = field(default_factory=PriorConfig)
    units: int = 0
    front: int = 0

    @property
    def chunk_windows(self) -> int:
        """Windows in a full chunk."""
        return round(self.chunk_s / self.window_s)

    @property
    def window_tokens(self) -> int:
        """Audio tokens of a full window."""
        return self.window_samples // SAMPLES_PER_FRAME // self.stack

    @property
    def min_chunk_tokens(self) -> int:
        """Audio tokens below which a last chunk is left out."""
        return math.ceil(self.min_chunk_s * self.tokens_a_second)

    @property
    def tokens_a_second(self) -> float:
        """Audio tokens a second of speech."""
        return SAMPLE_RATE_HZ / SAMPLES_PER_FRAME / self.stack

    @property
    def bits_a_second(self) -> float:
        """Bits that a second of speech takes as units."""
        return self.tokens_a_second * math.ceil(math.log2(self.units)) if self.units > 1 else 0.0

    @property
    def moments_width(self) -> int:
        """Sums of a chunk besides its count of frames: h and h^2 of every layer."""
        return 2 * (self.encoder.layers + 1) * self.encoder.d_model

    @property
    def longest_sequence(self) -> int:
        """Tokens of a full chunk with its prompt: no sequence is longer."""
        prompt = len(self.prompt.prefix_ids) + len(self.prompt.suffix_ids)
        return prompt + self.chunk_windows * self.window_tokens

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> None:
        """Replace what JSON holds by what the fields are."""
        fields["aspects"] = parse_aspects(fields.get("aspects"))
        fields["prompt"] = _prompt(fields.get("prompt"))
        fields["encoder"] = _encoder(fields)
        fields["language_model"] = parse_sizes(fields, "language_model", LanguageModelConfig)
        fields["lora"] = parse_lora(fields.get("lora", {}))
        fields["prior"] = _prior(fields.get("prior", {}))
        fields["backbones"] = parse_backbones(fields.get("backbones", {}), STAGES)
        for name in ("window_s", "min_window_s", "chunk_s", "min_chunk_s"):
            if name in fields:
                fields[name] = number(fields[name], name)
        for name in ("stack", "projector_width"):
            if name in fields:
                fields[name] = integer(fields[name], name, _MAX_WIDTH)
        if "units" in fields:
            fields["units"] = integer(fields["units"], "units", _MAX_UNITS, 0)

    def check(self) -> None:
        """Raise `CheckpointError` where fields do not go together."""
        self._check_audio()
        self._check_prompt()

    def _check_audio(self) -> None:
        if isinstance(self.encoder, AudioEncoderConfig):
            self._check_audio_encoder(self.encoder)
        check_shapes(self.encoder, self.language_model, self.lora)
        if not 0.1 <= self.window_s <= MAX_CHUNK_S:
            raise bad("window_s", self.window_s, f"0.1 to {MAX_CHUNK_S} s")
        frames = self.window_samples / SAMPLES_PER_FRAME
        if frames % self.stack:
            raise bad("stack", self.stack, f"a divisor of a window's {frames:g} frames")
        if frames > self.encoder.positions:
            raise bad("window_s", self.window_s, f"at most {self.encoder.positions / 50:g} s")
        if not 0.02 <= self.min_window_s <= self.window_s:
            raise bad("min_window_s", self.min_window_s, "0.02 s to window_s")
        if self.chunk_s > MAX_CHUNK_S or abs(self.chunk_windows * self.window_s - self.chunk_s) > (
            1e-6
        ):
            raise bad("chunk_s", self.chunk_s, f"windows in whole, at most {MAX_CHUNK_S} s")
        if not self.chunk_windows:
            raise bad("chunk_s", self.chunk_s, "at least window_s")
        if not 0 <= self.min_chunk_s <= self.chunk_s:
            raise bad("min_chunk_s", self.min_chunk_s, "0 to chunk_s")

    def _check_audio_encoder(self, encoder: AudioEncoderConfig) -> None:
        if encoder.family not in AUDIO_FAMILIES:
            raise bad("encoder.family", encoder.family, " or ".join(AUDIO_FAMILIES))
        if encoder.n_mels not in (bins := AUDIO_FAMILIES[encoder.family]):
            raise bad("encoder.n_mels", encoder.n_mels, " or ".join(map(str, bins)))
        if self.stack != encoder.stack:
            raise bad("stack", self.stack, f"the encoder's own, {encoder.stack}")
        if self.prior.centres:
            raise bad("prior.centres", self.prior.centres, f"0 with {encoder.family}'s encoder")

    def _check_prompt(self) -> None:
        prompt, vocabulary = self.prompt, self.language_model.vocabulary
        if self.answer not in ANSWERS:
            raise bad("answer", self.answer, " or ".join(ANSWERS))
        if not prompt.suffix_ids:
            raise bad("prompt.suffix_ids", prompt.suffix_ids, "at least one token")
        ids = (*prompt.prefix_ids, *prompt.suffix_ids, *prompt.label_ids)
        if max(ids) >= vocabulary:
            raise bad("prompt", max(ids), f"of tokens below the vocabulary's {vocabulary}")
        count = len(prompt.labels)
        if self.answer == "regression":
            if count:
                raise bad("prompt.labels", prompt.labels, "empty for a regression")
        elif len(self.aspects) != 1 or count < 2:
            raise bad("prompt.labels", prompt.labels, "two or more, with one aspect")
        if not count == len(prompt.label_scores) == len(prompt.label_ids):
            raise bad("prompt.label_ids", prompt.label_ids, "one, with a score, for each label")
        if len(set(prompt.label_ids)) != count:
            raise bad("prompt.label_ids", prompt.label_ids, "tokens that differ")
        check_length("chunk_s", self.chunk_s, self.longest_sequence, self.language_model)


def _prompt(value: object) -> PromptConfig:
    if not isinstance(value, Mapping):
        raise bad("prompt", value, "an object")
    check_names(PromptConfig, value, "prompt")
    fields: dict[str, Any] = {"prefix": "", "suffix": "", **value}
    for name in ("prefix", "suffix"):
        if not isinstance(fields[name], str) or len(fields[name]) > 20_000:
            raise bad(f"prompt.{name}", fields[name], "a text")
    labels = fields.get("labels", ())
    if not isinstance(labels, list | tuple) or not all(isinstance(x, str) and x for x in labels):
        raise bad("prompt.labels", labels, "a list of texts")
    fields["labels"] = tuple(labels)
    fields["label_scores"] = ascending(fields.get("label_scores", ()), "prompt.label_scores")
    for name in ("prefix_ids", "suffix_ids", "label_ids"):
        ids = fields.get(name, ())
        if not isinstance(ids, list | tuple) or len(ids) > _MAX_PROMPT_TOKENS:
            raise bad(f"prompt.{name}", ids, f"a list of at most {_MAX_PROMPT_TOKENS} tokens")
        fields[name] = tuple(
            integer(item, f"prompt.{name}", MODEL_LIMITS["vocabulary"], 0) for item in ids
        )
    return PromptConfig(**fields)


def _encoder(fields: Mapping[str, Any]) -> WhisperEncoderConfig:
    value = fields.get("encoder")
    own = isinstance(value, Mapping) and "family" in value
    encoder: WhisperEncoderConfig = parse_sizes(
        fields, "encoder", AudioEncoderConfig if own else WhisperEncoderConfig
    )
    return encoder


def _prior(value: object) -> PriorConfig:
    if not isinstance(value, Mapping):
        raise bad("prior", value, "an object")
    check_names(PriorConfig, value, "prior")
    fields: dict[str, Any] = dict(value)
    for name in fields.keys() & {"centres", "width"}:
        fields[name] = integer(fields[name], f"prior.{name}", _MAX_PRIOR[name], 0)
    for name in fields.keys() & {"share", "sd"}:
        fields[name] = number(fields[name], f"prior.{name}")
    prior = PriorConfig(**fields)
    if prior.centres and not prior.width:
        raise bad("prior.width", prior.width, "at least 1")
    if not 0 <= prior.share <= 1:
        raise bad("prior.share", prior.share, "0 to 1")
    if prior.sd <= 0:
        raise bad("prior.sd", prior.sd, "above 0")
    return prior
