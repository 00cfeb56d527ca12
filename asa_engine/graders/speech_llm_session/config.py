"""Configuration of the session grader (system S4): parts, prior and bounds around a speech LLM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from asa_engine.graders.aspects import AspectConfig
from asa_engine.graders.fields import GraderConfig, ascending, bad, check_names, integer, number
from asa_engine.graders.lm.shapes import SAMPLES_PER_FRAME, check_length, parse_sizes
from asa_engine.graders.speech_llm.config import SpeechLLMConfig
from asa_engine.nn.config import AudioEncoderConfig, WhisperEncoderConfig

__all__ = ["OVERALL", "PartConfig", "PriorConfig", "SessionConfig"]

GRADER = "speech_llm_session"
FORMAT_REVISION = 1
OVERALL = "overall"
POSITIONS = ("first", "last")
_MAX_TOKENS = 4096
_MAX_VOCABULARY = 1_000_000


@dataclass(frozen=True, slots=True)
class PartConfig:
    """One part of a session.

    Attributes:
        name: Such as `P1`; an aspect has the same name.
        heading: What stands before its responses.
        heading_ids: Its tokens.
    """

    name: str
    heading: str
    heading_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PriorConfig:
    """The acoustic proficiency prior (APP) and its one embedding.

    Attributes:
        levels: Score of each of its classes.
        width: Inner width of its MLP.
        position: `first`: before everything, as in the paper, so that nothing can be computed by
            the language model before the speech ends; `last`: before the prompt's end, so that a
            closed response can be prefilled.
        share: Weight of its own mean level in every score, beside what the language model says
            having read it; 0 leaves the scores to the language model, as in the paper.
        encoder: Shape of the Whisper encoder that it hears with, beside the ears of an audio
            language model; None where it takes the frames that become audio tokens.
        backbone: That encoder's name, a folder or a name on the hub.
    """

    levels: tuple[float, ...] = (2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5)
    width: int = 128
    position: str = "first"
    share: float = 0.0
    encoder: WhisperEncoderConfig | None = None
    backbone: str = ""


@dataclass(frozen=True, slots=True)
class SessionConfig(GraderConfig):
    """The session grader.

    [prior][prefix] then, part by part, [heading] and [audio][between] for each response, or
    [heading][missing] for a part without one, then [suffix].

    Attributes:
        speech: Backbones, windows, projector, adapters, prompt; a regression whose aspects are
            the parts, in their order, and `overall`.
        parts: In the order in which they are told.
        prior: The acoustic proficiency prior.
        between: What stands after each response.
        between_ids: Its tokens.
        missing: What stands for a part of which nothing was heard.
        missing_ids: Its tokens, at least one.
        max_responses: In a session; more are refused.
        max_audio_s: In a session, s; more is refused.
    """

    grader: ClassVar[str] = GRADER

    speech: SpeechLLMConfig
    parts: tuple[PartConfig, ...]
    prior: PriorConfig
    between: str
    between_ids: tuple[int, ...]
    missing: str
    missing_ids: tuple[int, ...]
    max_responses: int = 24
    max_audio_s: float = 600.0

    @property
    def aspects(self) -> tuple[AspectConfig, ...]:
        """What is scored: each part, then `overall`."""
        return self.speech.aspects

    @property
    def front(self) -> int:
        """What stands between the samples and the grader: that of `speech`."""
        return self.speech.front

    @property
    def prior_encoder(self) -> WhisperEncoderConfig:
        """Shape of the encoder that the prior hears with."""
        return self.prior.encoder or self.speech.encoder

    @property
    def longest_sequence(self) -> int:
        """Tokens of the longest session that is taken: no sequence is longer."""
        speech = self.speech
        # Each response may end in a window, and each window in a token, that is not full.
        audio = int(self.max_audio_s * speech.tokens_a_second) + 2 * self.max_responses
        text = sum(len(part.heading_ids) for part in self.parts)
        text += self.max_responses * len(self.between_ids) + len(self.parts) * len(self.missing_ids)
        return 1 + len(speech.prompt.prefix_ids) + text + audio + len(speech.prompt.suffix_ids)

    @property
    def keeps_beginning(self) -> bool:
        """Whether the prompt's beginning is run before the session is known.

        Not behind a prior that comes first, nor where its keys hang on the session's length.
        """
        one_regime = self.longest_sequence <= self.speech.language_model.positions
        return self.prior.position == "last" and one_regime

    def pooled(
        self, said: NDArray[np.float64], probabilities: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Give the prior its share in the language model's scores.

        Args:
            said: The head's scores, scale units, [..., A].
            probabilities: The prior, [..., L].

        Returns:
            (1 - share) said + share (p . levels), [..., A], not held to the scale.
        """
        share = self.prior.share
        level = probabilities @ np.array(self.prior.levels)
        pooled: NDArray[np.float64] = (1 - share) * said + share * level[..., np.newaxis]
        return pooled

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object that `from_dict` reads."""
        return {**super(SessionConfig, self).to_dict(), "speech": self.speech.to_dict()}

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> None:
        """Replace what JSON holds by what the fields are."""
        speech = fields.get("speech")
        if not isinstance(speech, Mapping):
            raise bad("speech", speech, "an object")
        fields["speech"] = SpeechLLMConfig.from_dict(speech)
        fields["parts"] = _parts(fields.get("parts"))
        fields["prior"] = _prior(fields.get("prior", {}))
        for name in ("between", "missing"):
            fields[name] = _text(fields.get(name), name)
            fields[f"{name}_ids"] = _ids(fields.get(f"{name}_ids"), f"{name}_ids")
        if "max_responses" in fields:
            fields["max_responses"] = integer(fields["max_responses"], "max_responses", 1000)
        if "max_audio_s" in fields:
            fields["max_audio_s"] = number(fields["max_audio_s"], "max_audio_s")

    def check(self) -> None:
        """Raise `CheckpointError` where fields do not go together."""
        speech = self.speech
        if speech.answer != "regression":
            raise bad("speech.answer", speech.answer, "regression")
        names = [part.name for part in self.parts]
        stated = [aspect.name for aspect in speech.aspects]
        if stated != [*names, OVERALL] or len(set(stated)) != len(stated):
            raise bad("speech.aspects", stated, f"the parts, then {OVERALL!r}: {names}")
        if not self.missing_ids:
            raise bad("missing_ids", self.missing_ids, "at least one token")
        texts = [self.between_ids, self.missing_ids, *(part.heading_ids for part in self.parts)]
        highest = max(token for ids in texts for token in (*ids, 0))
        if highest >= speech.language_model.vocabulary:
            raise bad("parts", highest, "of tokens below the vocabulary")
        if self.prior.position not in POSITIONS:
            raise bad("prior.position", self.prior.position, " or ".join(POSITIONS))
        own_ears = isinstance(speech.encoder, AudioEncoderConfig)
        if own_ears != (self.prior.encoder is not None):
            wanted = "a Whisper's shape beside an audio encoder" if own_ears else "left out"
            raise bad("prior.encoder", self.prior.encoder, wanted)
        heard = self.prior_encoder
        if heard.d_model % heard.heads:
            raise bad("prior.encoder.heads", heard.heads, "a divisor of d_model")
        if speech.window_samples / SAMPLES_PER_FRAME > heard.positions:
            raise bad("speech.window_s", speech.window_s, f"at most {heard.positions / 50:g} s")
        if not 0 <= self.prior.share <= 1:
            raise bad("prior.share", self.prior.share, "0 to 1")
        if self.max_audio_s <= 0:
            raise bad("max_audio_s", self.max_audio_s, "above 0")
        model = speech.language_model
        longest = model.most_positions
        check_length("max_audio_s", self.max_audio_s, self.longest_sequence, model, longest)


def _parts(value: object) -> tuple[PartConfig, ...]:
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= 32:
        raise bad("parts", value, "a list of 1 to 32 parts")
    parts = []
    for index, item in enumerate(value):
        where = f"parts[{index}]"
        if not isinstance(item, Mapping):
            raise bad(where, item, "an object")
        check_names(PartConfig, item, where)
        name = _text(item.get("name"), f"{where}.name")
        if not name:
            raise bad(f"{where}.name", name, "a name")
        parts.append(
            PartConfig(
                name,
                _text(item.get("heading"), f"{where}.heading"),
                _ids(item.get("heading_ids"), f"{where}.heading_ids"),
            )
        )
    return tuple(parts)


def _prior(value: object) -> PriorConfig:
    if not isinstance(value, Mapping):
        raise bad("prior", value, "an object")
    check_names(PriorConfig, value, "prior")
    fields: dict[str, Any] = dict(value)
    if "levels" in fields:
        fields["levels"] = ascending(fields["levels"], "prior.levels", least=2)
    if "width" in fields:
        fields["width"] = integer(fields["width"], "prior.width", 8192)
    if "share" in fields:
        fields["share"] = number(fields["share"], "prior.share")
    if fields.get("encoder") is not None:
        fields["encoder"] = parse_sizes(fields, "encoder", WhisperEncoderConfig)
    if "backbone" in fields:
        fields["backbone"] = _text(fields["backbone"], "prior.backbone")
    return PriorConfig(**fields)


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or len(value) > 20_000:
        raise bad(name, value, "a text")
    return value


def _ids(value: object, name: str) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or len(value) > _MAX_TOKENS:
        raise bad(name, value, f"a list of at most {_MAX_TOKENS} tokens")
    return tuple(integer(item, name, _MAX_VOCABULARY, 0) for item in value)
