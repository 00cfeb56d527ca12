"""What an assessment holds. Frozen dataclasses; units stand in the field names."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import resources
from typing import Any, Self

from asa_engine.audio import Channels
from asa_engine.audio.validity import Validity
from asa_engine.errors import BundleError

__all__ = [
    "SCHEMA_VERSION",
    "WORD_ERRORS",
    "Assessment",
    "Grade",
    "PartResult",
    "Phone",
    "Prior",
    "Score",
    "Timing",
    "Word",
    "schema",
]

SCHEMA_VERSION = "1.2"
WORD_ERRORS = ("none", "mispronunciation", "omission", "insertion", "repetition")
_SCHEMA_FILE = "assessment.schema.json"


@dataclass(frozen=True, slots=True)
class Score:
    """One score on the grader's scale.

    Attributes:
        value: The score, between `scale_min` and `scale_max`.
        scale_min: Lowest score of the scale.
        scale_max: Highest score of the scale.
        level: Name of the band that the value falls in, where the scale has bands.
        sd: Expected error: standard deviation of (score - experts' score) on the dev speakers for
            this much speech, where it was measured.
        probabilities: Probability of each class, lowest first, from graders that classify; their
            value is the expected score.
    """

    value: float
    scale_min: float
    scale_max: float
    level: str | None = None
    sd: float | None = None
    probabilities: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        """Check that the numbers are some.

        Raises:
            BundleError: NaN or infinity, which a broken model makes.
        """
        _check_finite((self.value, self.sd or 0.0, *(self.probabilities or {}).values()))

    @property
    def likeliest_class(self) -> str | None:
        """The class of the highest probability, which need not be `level`; the first of equals."""
        shares = self.probabilities
        return max(shares, key=shares.__getitem__) if shares else None

    def to_dict(self) -> dict[str, Any]:
        """Return the score as JSON values, without what it does not have."""
        values = {
            "value": self.value,
            "scale_min": self.scale_min,
            "scale_max": self.scale_max,
            "level": self.level,
            "likeliest_class": self.likeliest_class,
            "sd": self.sd,
            "probabilities": None if self.probabilities is None else dict(self.probabilities),
        }
        return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Prior:
    """The acoustic proficiency prior.

    Attributes:
        levels: Score value of each level, [8] for the shipped grader.
        probabilities: Probability of each level, same length, summing to one.
    """

    levels: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check that the numbers are some.

        Raises:
            BundleError: NaN or infinity, which a broken model makes.
        """
        _check_finite(self.probabilities)

    @property
    def expected(self) -> float:
        """The prior's mean, in score units."""
        return sum(v * p for v, p in zip(self.levels, self.probabilities, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Return the prior as JSON values."""
        return {
            "levels": list(self.levels),
            "probabilities": list(self.probabilities),
            "expected": self.expected,
        }


@dataclass(frozen=True, slots=True)
class Phone:
    """One phone of a word, judged.

    Attributes:
        phone: Its symbol, e.g. ARPAbet.
        label: The label it got, where the grader labels phones.
        score: Its score, where the grader scores phones.
        ipa: The same phone in the International Phonetic Alphabet.
        start_s: When it begins, in seconds of the recording; `None` if not known.
        end_s: When it ends.
        heard: The phone that was said in its place, where the grader tells.
    """

    phone: str
    label: str | None = None
    score: Score | None = None
    ipa: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    heard: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the phone as JSON values, without what it does not have."""
        values = _known(self, ("phone", "ipa", "start_s", "end_s", "label", "heard"))
        if self.score is not None:
            values["score"] = self.score.to_dict()
        return values


@dataclass(frozen=True, slots=True)
class Word:
    """One word that was heard, or that was to be said.

    Attributes:
        text: The word.
        start_s: When it begins, in seconds of the recording; `None` if not known.
        end_s: When it ends.
        probability: The recogniser's probability of it, 0 to 1.
        label: The label it got, from graders that label words.
        scores: Score name -> score, from graders that score words in several ways.
        phones: Its phones, from graders that judge them.
        score: Its score, from graders that score words in one way.
        error: One of `WORD_ERRORS`, from graders that look for them.
        confidence: Probability that `error` is right, 0 to 1.
        spoken: The word as it is read, where `text` is something else: "five" of "$5".
        pronunciation_confidence: Probability that its phones are how it is pronounced, where they
            were read from its letters; `None` where a dictionary has them.
    """

    text: str
    start_s: float | None = None
    end_s: float | None = None
    probability: float | None = None
    label: str | None = None
    scores: Mapping[str, Score] = field(default_factory=dict)
    phones: tuple[Phone, ...] = ()
    score: Score | None = None
    error: str | None = None
    confidence: float | None = None
    spoken: str | None = None
    pronunciation_confidence: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the word as JSON values, without what it does not have."""
        names = (
            *("text", "spoken", "start_s", "end_s", "probability", "label", "error", "confidence"),
            "pronunciation_confidence",
        )
        values = _known(self, names)
        if self.score is not None:
            values["score"] = self.score.to_dict()
        if self.scores:
            values["scores"] = {name: score.to_dict() for name, score in self.scores.items()}
        if self.phones:
            values["phones"] = [phone.to_dict() for phone in self.phones]
        return values


def _known(item: Phone | Word, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(item, name)) is not None}


def _check_finite(values: Iterable[float]) -> None:
    for value in values:
        if not math.isfinite(value):
            raise BundleError(
                f"the grader gives {value}, which is no score",
                hint="its model is broken: 'asa-engine verify' compares it with its reference",
            )


@dataclass(frozen=True, slots=True)
class Grade:
    """What a grader says of the audio it has seen so far; the engine makes an `Assessment` of it.

    Attributes:
        scores: Score name -> score.
        prior: The acoustic proficiency prior, from graders that have one.
        words: The words, from graders that recognise or judge them.
        transcript: What was heard, from graders that recognise speech.
        features: Named measurements the scores rest on, from graders that have them.
        rationale: Why, in words, from graders that explain themselves.
        reasons: Why to doubt the scores, e.g. "no_words"; goes into `validity.reasons`.
        scorable: False where those reasons leave no score.
    """

    scores: Mapping[str, Score]
    prior: Prior | None = None
    words: tuple[Word, ...] = ()
    transcript: str | None = None
    features: Mapping[str, float] = field(default_factory=dict)
    rationale: str | None = None
    reasons: tuple[str, ...] = ()
    scorable: bool = True


@dataclass(frozen=True, slots=True)
class PartResult:
    """One part of a session: the mean over its scorable responses.

    Attributes:
        part: Name of the part, as in the session file.
        scores: Score name -> score; empty when no response could be scored.
        responses: Number of responses in the part.
        scored: How many of them could be scored.
    """

    part: str
    scores: Mapping[str, Score]
    responses: int
    scored: int

    def to_dict(self) -> dict[str, Any]:
        """Return the part as JSON values."""
        return {
            "part": self.part,
            "scores": {name: score.to_dict() for name, score in self.scores.items()},
            "responses": self.responses,
            "scored": self.scored,
        }


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time went.

    Attributes:
        audio_s: Length of the audio scored.
        decode_ms: Reading, decoding, mixing down, resampling and validity checks.
        features_ms: Log-mel.
        encoder_ms: Encoder, all windows.
        prior_ms: Acoustic prior; `None` where it is computed inside the head stage.
        backbone_ms: Language model or text encoder; `None` for graders without one.
        head_ms: Prior (where fused), projector and regression head.
        time_to_score_ms: From the last audio sample to the final scores.
        real_time_factor: Sum of all stages over the audio's length.
        recogniser_ms: Speech recognition; `None` for graders without it.
    """

    audio_s: float
    decode_ms: float
    features_ms: float
    encoder_ms: float
    prior_ms: float | None
    backbone_ms: float | None
    head_ms: float
    time_to_score_ms: float
    real_time_factor: float
    recogniser_ms: float | None = None

    @classmethod
    def of(cls, spent_ms: Mapping[str, float], audio_s: float, time_to_score_ms: float) -> Self:
        """Return the timing of a recording from the time spent in each stage.

        Args:
            spent_ms: Stage -> time; one that took none counts as not there, where it may be absent.
            audio_s: Length of the audio.
            time_to_score_ms: From the last sample to the scores.
        """
        spent = defaultdict(float, spent_ms)
        return cls(
            audio_s=audio_s,
            decode_ms=spent["decode"] + spent["validity"],
            features_ms=spent["features"],
            encoder_ms=spent["encoder"],
            prior_ms=spent["prior"] or None,
            backbone_ms=spent["backbone"] or None,
            head_ms=spent["head"],
            time_to_score_ms=time_to_score_ms,
            real_time_factor=sum(spent_ms.values()) / (1e3 * max(audio_s, 1e-9)),
            recogniser_ms=spent["recogniser"] or None,
        )

    @classmethod
    def total(cls, timings: Sequence[Timing]) -> Self:
        """Return the sum of responses' timings; the time to score is the last response's."""
        audio_s = sum(timing.audio_s for timing in timings)
        busy_s = sum(timing.real_time_factor * timing.audio_s for timing in timings)

        def added(name: str) -> Any:
            known = [time for timing in timings if (time := getattr(timing, name)) is not None]
            return sum(known) if known else None

        stages = [field.name for field in fields(cls) if field.name.endswith("_ms")]
        return cls(
            audio_s=audio_s,
            real_time_factor=busy_s / max(audio_s, 1e-9),
            **{name: added(name) for name in stages}
            | {"time_to_score_ms": timings[-1].time_to_score_ms},
        )

    def to_dict(self) -> dict[str, float | None]:
        """Return the timings as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Assessment:
    """The result of scoring one recording, stream or session.

    Attributes:
        grader: Which grader scored, e.g. "acoustic".
        scores: Score name -> score; empty when the audio cannot be judged.
        validity: Whether the audio could be judged, and why not.
        timing: Where the time went.
        receipt: What reproduces the scores: hashes, backend, precision, versions.
        prior: The acoustic proficiency prior, from graders that have one.
        parts: The parts of a session.
        responses: The assessments of a session's responses, in order.
        words: The words, from graders that recognise or judge them.
        transcript: What was heard, from graders that recognise speech.
        features: Named measurements the scores rest on, from graders that have them.
        rationale: Why, in words, from graders that explain themselves.
        channels: How many channels the recording has, and which of them were heard.
    """

    grader: str
    scores: Mapping[str, Score]
    validity: Validity
    timing: Timing
    receipt: Mapping[str, Any]
    prior: Prior | None = None
    parts: tuple[PartResult, ...] = ()
    responses: tuple[Assessment, ...] = field(default=())
    words: tuple[Word, ...] = ()
    transcript: str | None = None
    features: Mapping[str, float] = field(default_factory=dict)
    rationale: str | None = None
    channels: Channels | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the assessment as JSON values; `schema()` describes them."""
        values: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "grader": self.grader,
            "scores": {name: score.to_dict() for name, score in self.scores.items()},
        }
        if self.prior is not None:
            values["prior"] = self.prior.to_dict()
        if self.parts:
            values["parts"] = [part.to_dict() for part in self.parts]
        if self.responses:
            values["responses"] = [response.to_dict() for response in self.responses]
        if self.words:
            values["words"] = [word.to_dict() for word in self.words]
        if self.transcript is not None:
            values["transcript"] = self.transcript
        if self.features:
            values["features"] = dict(self.features)
        if self.rationale is not None:
            values["rationale"] = self.rationale
        values["validity"] = self.validity.to_dict()
        if self.channels is not None:
            values["channels"] = self.channels.to_dict()
        values["timing"] = self.timing.to_dict()
        values["receipt"] = dict(self.receipt)
        return values


def schema() -> dict[str, Any]:
    """Return the JSON Schema of `Assessment.to_dict()`."""
    text = resources.files("asa_engine").joinpath(_SCHEMA_FILE).read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded
