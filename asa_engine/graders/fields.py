"""Validation of configuration files: each check names the field and says what it must be."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any

from asa_engine.errors import CheckpointError

__all__ = ["ascending", "bad", "check_names", "grader_fields", "integer", "number"]


def bad(name: str, value: object, wanted: str) -> CheckpointError:
    """Return the error that says what a field is and what it must be."""
    text = repr(value)
    shown = text if len(text) <= 60 else text[:57] + "..."
    return CheckpointError(
        f"config field {name} is {shown}; it must be {wanted}", mend="mend config.json"
    )


def check_names(cls: type, fields: Mapping[str, Any], where: str) -> None:
    """Raise `CheckpointError` for fields that the dataclass does not have."""
    known = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(set(fields) - known)
    if unknown:
        raise CheckpointError(
            f"{where} has unknown fields: {', '.join(map(repr, unknown[:5]))}",
            mend=f"known ones are {', '.join(sorted(known))}",
        )


def grader_fields(
    cls: type, value: Mapping[str, Any], grader: str, revision: int
) -> dict[str, Any]:
    """Return the fields of a grader's `config.json` as read, none of them unknown to the dataclass.

    Raises:
        CheckpointError: It is another grader's, of a format newer than `revision`, or a field is
            unknown.
    """
    if value.get("grader") != grader:
        raise CheckpointError(
            f"this configuration is of grader {value.get('grader')!r}, not {grader!r}",
            mend="check the path",
        )
    found = value.get("format_revision")
    if type(found) is not int or not 1 <= found <= revision:
        raise CheckpointError(
            f"format_revision is {found!r}; this engine reads up to {revision}",
            mend="install a newer asa-engine",
        )
    fields = {k: v for k, v in value.items() if k not in ("grader", "format_revision")}
    check_names(cls, fields, "config")
    return fields


def number(value: object, name: str) -> float:
    """Return a finite number, or raise `CheckpointError`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise bad(name, value, "a finite number")
    return float(value)


def integer(value: object, name: str, most: int, least: int = 1) -> int:
    """Return a whole number from `least` to `most`, or raise `CheckpointError`."""
    if type(value) is not int or not least <= value <= most:
        raise bad(name, value, f"a whole number from {least} to {most}")
    return value


def ascending(value: object, name: str, least: int = 0) -> tuple[float, ...]:
    """Return at least `least` numbers, each above the last, or raise `CheckpointError`."""
    if not isinstance(value, list | tuple) or not least <= len(value) <= 1000:
        raise bad(name, value, f"a list of {least} to 1000 numbers")
    numbers = tuple(number(item, name) for item in value)
    if any(b <= a for a, b in itertools.pairwise(numbers)):
        raise bad(name, value, "ascending")
    return numbers
