"""Assessments as statements of the Experience API (xAPI), for learning record stores.

The Experience API, version 1.0.3, part 2 (statements): who did what, with which result. Verbs and
kinds of activities are those of ADL's vocabulary; everything else is named below the address of
the platform that the learners' accounts are on, so that nobody else's names are claimed.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote, urlsplit

from asa_engine.assessment import Assessment
from asa_engine.errors import UsageError
from asa_engine.formats.shares import main_score, share

__all__ = ["to_xapi"]

_VERBS: Final = "http://adlnet.gov/expapi/verbs/"
_ACTIVITIES: Final = "http://adlnet.gov/expapi/activities/"
_LANGUAGE: Final = "en"


def to_xapi(
    result: Assessment, about: Mapping[str, str], *, platform: str, name: str = ""
) -> dict[str, Any]:
    """Return the statement that a learner scored in a task, or attempted it without a score.

    The same assessment always has the same id: a store that has it takes it once.

    Args:
        result: Of a recording.
        about: What is known: "learner", and as far as there are "text", "prompt", "session",
            "date".
        platform: Address of the platform that the learners' accounts are on, such as
            "https://school.example".
        name: Of the recording.

    Raises:
        UsageError: Nobody is named as the learner, or `platform` is no address.
    """
    base = _checked(platform)
    if not (learner := about.get("learner")):
        raise UsageError(
            f"{name or 'a recording'} has no learner, and xAPI tells who did something",
            hint="score it from a manifest with a learner on every line",
        )
    scored = result.validity.scorable and bool(result.scores)
    verb = "scored" if scored else "attempted"
    statement: dict[str, Any] = {
        "actor": {
            "objectType": "Agent",
            "account": {"homePage": platform, "name": learner},
        },
        "verb": {"id": _VERBS + verb, "display": {_LANGUAGE: verb}},
        "object": _task(about, base),
        "result": _result(result, base, scored),
        "context": _context(result, about, base, name),
    }
    if stamp := _timestamp(about.get("date", "")):
        statement["timestamp"] = stamp
    said = json.dumps([platform, statement, name], sort_keys=True)
    return {"id": str(uuid.uuid5(uuid.NAMESPACE_URL, said)), **statement}


def _checked(platform: str) -> str:
    try:
        parts = urlsplit(platform)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable or any(character.isspace() for character in platform):
        raise UsageError(
            f"{platform!r} is no address of a platform", hint="give one like https://school.example"
        )
    return platform.rstrip("/") + "/xapi/"


def _task(about: Mapping[str, str], base: str) -> dict[str, Any]:
    """Return the activity: what was to be said. The same text and prompt are the same task."""
    text, prompt = about.get("text", ""), about.get("prompt", "")
    told = hashlib.sha256(json.dumps([text, prompt]).encode()).hexdigest()[:32]
    definition: dict[str, Any] = {
        "type": _ACTIVITIES + "assessment",
        "name": {_LANGUAGE: "Reading aloud" if text else "Speaking"},
    }
    if text or prompt:
        definition["description"] = {_LANGUAGE: "\n\n".join(filter(None, (prompt, text)))}
    return {"objectType": "Activity", "id": f"{base}tasks/{told}", "definition": definition}


def _result(result: Assessment, base: str, scored: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"duration": f"PT{result.timing.audio_s:.2f}S"}
    extensions: dict[str, Any] = {}
    if scored:
        main = main_score(result.scores)
        score = result.scores[main]
        found["score"] = {
            "scaled": round(share(score) or 0.0, 4),
            "raw": min(max(score.value, score.scale_min), score.scale_max),
            "min": score.scale_min,
            "max": score.scale_max,
        }
        extensions["score-name"] = main
        extensions["scores"] = {name: each.to_dict() for name, each in result.scores.items()}
        if result.words:
            extensions["words"] = list(_words(result))
    if result.transcript is not None:
        found["response"] = result.transcript
    if result.validity.reasons:
        extensions["reasons"] = list(result.validity.reasons)
    return {**found, **_extensions(extensions, base)}


def _words(result: Assessment) -> Iterator[dict[str, Any]]:
    for word in result.words:
        values = {"text": word.text, "error": word.error, "confidence": word.confidence}
        if word.score is not None:
            values["score"] = word.score.value
        yield {name: value for name, value in values.items() if value is not None}


def _context(result: Assessment, about: Mapping[str, str], base: str, name: str) -> dict[str, Any]:
    context: dict[str, Any] = {
        "platform": f"asa_engine {result.receipt.get('engine_version', '')}".strip(),
        "language": _LANGUAGE,
    }
    if session := about.get("session"):
        lesson = {
            "objectType": "Activity",
            "id": f"{base}sessions/{quote(session, safe='')}",
            "definition": {"type": _ACTIVITIES + "lesson", "name": {_LANGUAGE: session}},
        }
        context["contextActivities"] = {"parent": [lesson]}
    known = {
        "recording": name,
        "date": about.get("date"),
        "grader": result.grader,
        "bundle": result.receipt.get("bundle"),
        "audio-sha256": result.receipt.get("audio_sha256"),
    }
    return {**context, **_extensions({k: v for k, v in known.items() if v}, base)}


def _extensions(values: Mapping[str, Any], base: str) -> dict[str, Any]:
    if not values:
        return {}
    return {"extensions": {f"{base}extensions/{name}": value for name, value in values.items()}}


def _timestamp(date: str) -> str:
    """Return a time of day with its zone as a timestamp; what has none is no timestamp."""
    try:
        moment = datetime.fromisoformat(date)
    except ValueError:
        return ""
    return moment.isoformat() if moment.tzinfo is not None else ""
