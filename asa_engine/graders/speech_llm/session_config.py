"""Configuration of the session grader (system S4): parts, prior and bounds around a speech LLM."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from asa_engine.errors import CheckpointError
from asa_engine.files import read_json
from asa_engine.graders.aspects import AspectConfig
from asa_engine.graders.fields import ascending, bad, check_names, grader_fields, integer, number
from asa_engine.graders.speech_llm.config import SpeechLLMConfig
from asa_engine.nn.config import AudioEncoderConfig

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
    """

    levels: tuple[float, ...] = (2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5)
    width: int = 128
    position: str = "first"
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class SessionConfig:
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
    def longest_sequence(self) -> int:
        """Tokens of the longest session that is taken: no sequence is longer."""
        speech = self.speech
        # Each response may end in a window, and each window in a token, that is not full.
        audio = int(self.max_audio_s * speech.tokens_a_second) + 2 * self.max_responses
        text = sum(len(part.heading_ids) for part in self.parts)
        text += self.max_responses * len(self.between_ids) + len(self.parts) * len(self.missing_ids)
        return 1 + len(speech.prompt.prefix_ids) + text + audio + len(speech.prompt.suffix_ids)

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
        found: NDArray[np.float64] = (1 - share) * said + share * level[..., np.newaxis]
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object that `from_dict` reads."""
        fields = dataclasses.asdict(self)
        fields["speech"] = self.speech.to_dict()
        return {"grader": GRADER, "format_revision": FORMAT_REVISION, **fields}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Build and validate a configuration.

        Raises:
            CheckpointError: It is not a session grader's, is of a newer format, or a field is
                missing, unknown, of the wrong kind or out of range; the message names the field.
        """
        fields = grader_fields(cls, value, GRADER, FORMAT_REVISION)
        speech = fields.get("speech")
        if not isinstance(speech, Mapping):
            raise bad("speech", speech, "an object")
        fields["speech"] = SpeechLLMConfig.from_dict(speech)
        if isinstance(fields["speech"].encoder, AudioEncoderConfig):
            raise bad("speech.encoder.family", fields["speech"].encoder.family, "left out: Whisper")
        fields["parts"] = _parts(fields.get("parts"))
        fields["prior"] = _prior(fields.get("prior", {}))
        for name in ("between", "missing"):
            fields[name] = _text(fields.get(name), name)
            fields[f"{name}_ids"] = _ids(fields.get(f"{name}_ids"), f"{name}_ids")
        if "max_responses" in fields:
            fields["max_responses"] = integer(fields["max_responses"], "max_responses", 1000)
        if "max_audio_s" in fields:
            fields["max_audio_s"] = number(fields["max_audio_s"], "max_audio_s")
        config = cls(**fields)
        config._check()
        return config

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read `config.json` of a checkpoint.

        Raises:
            CheckpointError: It is missing, not JSON, or not valid.
        """
        return cls.from_dict(read_json(Path(folder) / "config.json", CheckpointError))

    def _check(self) -> None:
        speech = self.speech
        if speech.answer != "regression":
            raise bad("speech.answer", speech.answer, "regression")
        names = [part.name for part in self.parts]
        found = [aspect.name for aspect in speech.aspects]
        if found != [*names, OVERALL] or len(set(found)) != len(found):
            raise bad("speech.aspects", found, f"the parts, then {OVERALL!r}: {names}")
        if not self.missing_ids:
            raise bad("missing_ids", self.missing_ids, "at least one token")
        texts = [self.between_ids, self.missing_ids, *(part.heading_ids for part in self.parts)]
        highest = max(token for ids in texts for token in (*ids, 0))
        if highest >= speech.language_model.vocabulary:
            raise bad("parts", highest, "of tokens below the vocabulary")
        if self.prior.position not in POSITIONS:
            raise bad("prior.position", self.prior.position, " or ".join(POSITIONS))
        if not 0 <= self.prior.share <= 1:
            raise bad("prior.share", self.prior.share, "0 to 1")
        if self.max_audio_s <= 0:
            raise bad("max_audio_s", self.max_audio_s, "above 0")
        if self.longest_sequence > speech.language_model.positions:
            raise bad(
                "max_audio_s",
                self.max_audio_s,
                f"shorter: {self.longest_sequence} tokens do not fit the language model's "
                f"{speech.language_model.positions}",
            )


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
    return PriorConfig(**fields)


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or len(value) > 20_000:
        raise bad(name, value, "a text")
    return value


def _ids(value: object, name: str) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or len(value) > _MAX_TOKENS:
        raise bad(name, value, f"a list of at most {_MAX_TOKENS} tokens")
    return tuple(integer(item, name, _MAX_VOCABULARY, 0) for item in value)
