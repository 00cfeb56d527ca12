"""Assessments as a table: a line a score, a word and a sound; as CSV (RFC 4180, Unix's breaks)."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from asa_engine.assessment import Assessment, Phone, Score, Word
from asa_engine.formats.shares import word_score

__all__ = ["COLUMNS", "HEADER", "failed_line", "table_lines", "to_csv", "written"]

COLUMNS: Final[Mapping[str, type]] = {
    **{"audio": str, "item": str, "word": int, "phone": int, "text": str, "spoken": str},
    **{"ipa": str, "start_s": float, "end_s": float, "score": float, "scale_min": float},
    **{"scale_max": float, "sd": float, "label": str, "error": str, "confidence": float},
    **{"pronunciation_confidence": float, "heard": str, "learner": str, "session": str},
    "date": str,
}
"""Name -> type of what stands there."""
HEADER: Final = ",".join(COLUMNS) + "\n"
_SHOWN: Final = ("text", "score", "phone")
_FORMULA: Final = tuple("=+-@\t\r")

Line = dict[str, object]


def table_lines(result: Assessment, head: Mapping[str, str]) -> Iterator[Line]:
    """Yield the lines of an assessment: column -> value, without what is not known.

    Args:
        result: Of a recording.
        head: Columns that all its lines share: "audio", "learner", "session", "date".
    """

    def line(item: str, text: str, score: Score | None, **values: object) -> Line:
        # A label stands where the grader has one; else the band that the score falls in.
        scored = {} if score is None else {"label": score.level, **_numbers(score)}
        known = {**scored, **{name: value for name, value in values.items() if value is not None}}
        return {**head, "item": item, "text": text, **known}

    if not result.validity.scorable or not result.scores:
        yield line("refused", " ".join(result.validity.reasons), None)
    for name, score in result.scores.items():
        yield line("score", name, score)
    for index, word in enumerate(result.words, 1):
        yield line("word", word.text, word_score(word), word=index, **_fields(word))
        for place, phone in enumerate(word.phones, 1):
            numbers = {"word": index, "phone": place}
            yield line("phone", phone.phone, phone.score, **_fields(phone) | numbers)


def failed_line(message: str, head: Mapping[str, str]) -> Line:
    """Return the line of a recording that could not be read."""
    return {**head, "item": "failed", "text": message}


def to_csv(result: Assessment, audio: str = "") -> str:
    """Return an assessment as CSV, without the line of names (`HEADER`).

    Args:
        result: Of a recording.
        audio: What stands in the first column.
    """
    return written(table_lines(result, {"audio": audio}))


def written(lines: Iterable[Line]) -> str:
    """Return lines of a table as CSV."""
    text = io.StringIO()
    rows = csv.DictWriter(text, tuple(COLUMNS), restval="", lineterminator="\n")
    for line in lines:
        rows.writerow({name: _safe(value) for name, value in line.items()})
    return text.getvalue()


def _fields(item: Word | Phone) -> Line:
    """Return the fields whose columns have their names; not the text and the score."""
    names = (item.name for item in dataclasses.fields(item))
    return {name: getattr(item, name) for name in names if name in COLUMNS and name not in _SHOWN}


def _numbers(score: Score) -> Line:
    return {
        "score": round(score.value, 4),
        "scale_min": score.scale_min,
        "scale_max": score.scale_max,
        "sd": score.sd,
    }


def _safe(value: object) -> object:
    """Return a text that no spreadsheet takes for a formula; anything else as it is."""
    if not isinstance(value, str):
        return value
    return f"'{value}" if value.startswith(_FORMULA) else value
