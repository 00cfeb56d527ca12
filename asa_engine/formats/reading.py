"""Assessments read back from JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from asa_engine.assessment import Assessment, PartResult, Phone, Prior, Score, Timing, Word
from asa_engine.audio import Channels
from asa_engine.audio.validity import Validity

__all__ = ["assessment_from_dict"]


def assessment_from_dict(values: Mapping[str, Any]) -> Assessment:
    """Return the assessment whose `to_dict()` gave these values; others beside them do not matter.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: They are no assessment's.
    """
    validity = values["validity"]
    channels = values.get("channels")
    prior = values.get("prior")
    return Assessment(
        grader=str(values["grader"]),
        scores=_scores(values["scores"]),
        validity=Validity(**{**_only(Validity, validity), "reasons": tuple(validity["reasons"])}),
        timing=Timing(**_only(Timing, values["timing"])),
        receipt=dict(values["receipt"]),
        prior=None
        if prior is None
        else Prior(tuple(prior["levels"]), tuple(prior["probabilities"])),
        parts=tuple(
            PartResult(part["part"], _scores(part["scores"]), part["responses"], part["scored"])
            for part in values.get("parts", ())
        ),
        responses=tuple(assessment_from_dict(each) for each in values.get("responses", ())),
        words=tuple(_word(word) for word in values.get("words", ())),
        transcript=values.get("transcript"),
        features=dict(values.get("features", {})),
        rationale=values.get("rationale"),
        channels=None if channels is None else Channels(**_only(Channels, channels)),
    )


def _word(values: Mapping[str, Any]) -> Word:
    known = _only(Word, values)
    known["scores"] = _scores(values.get("scores", {}))
    known["score"] = _score(values.get("score"))
    known["phones"] = tuple(_phone(phone) for phone in values.get("phones", ()))
    return Word(**known)


def _phone(values: Mapping[str, Any]) -> Phone:
    return Phone(**{**_only(Phone, values), "score": _score(values.get("score"))})


def _scores(values: Mapping[str, Any]) -> dict[str, Score]:
    return {name: Score(**_only(Score, score)) for name, score in values.items()}


def _score(values: Mapping[str, Any] | None) -> Score | None:
    return None if values is None else Score(**_only(Score, values))


def _only(kind: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    return {each.name: values[each.name] for each in fields(kind) if each.name in values}
