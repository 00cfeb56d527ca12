"""A row of results: a recording, and its assessment or the error that stands in its place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asa_engine import errors
from asa_engine.assessment import Assessment
from asa_engine.batch.recordings import Recording
from asa_engine.errors import AsaError, AudioError, ManifestError, UsageError
from asa_engine.formats.reading import assessment_from_dict

__all__ = ["MAX_ROW_BYTES", "Row", "parse_row", "read_rows"]

MAX_ROW_BYTES = 64 * 2**20  # hours of speech, every sound judged, stay below


@dataclass(frozen=True, slots=True)
class Row:
    """One recording's result.

    Attributes:
        recording: What was scored.
        outcome: `Assessment.to_dict()`, or `AsaError.to_dict()` where it could not be scored.
    """

    recording: Recording
    outcome: Mapping[str, Any] = field(repr=False)

    @property
    def error(self) -> AsaError | None:
        """Why there is no assessment; `None` if there is one."""
        if "error" not in self.outcome:
            return None
        kind = getattr(errors, str(self.outcome["error"]), AsaError)
        if not (isinstance(kind, type) and issubclass(kind, AsaError)):
            kind = AsaError
        error = kind(str(self.outcome["message"]), hint=str(self.outcome.get("hint", "")))
        error.exit_code = int(self.outcome["exit_code"])
        return error

    @property
    def result(self) -> Assessment | None:
        """The assessment; `None` where there is an error."""
        return None if "error" in self.outcome else assessment_from_dict(self.outcome)

    @property
    def exit_code(self) -> int:
        """What the row alone would end a command with."""
        if "error" in self.outcome:
            return int(self.outcome["exit_code"])
        return 0 if self.outcome["validity"]["scorable"] else AudioError.exit_code

    def to_line(self) -> str:
        """Return the row as one line of JSON, with its line break."""
        return json.dumps({**self.recording.to_dict(), **self.outcome}) + "\n"


def parse_row(line: str | bytes) -> Row:
    """Return the row that a line of JSON holds.

    Raises:
        ValueError: It holds none.
    """
    try:
        values = json.loads(line)
        if not isinstance(values, dict):
            raise ValueError("not a JSON object")
        recording = Recording.from_dict(values)
        head = recording.to_dict()
        row = Row(recording, {name: value for name, value in values.items() if name not in head})
        row.exit_code, row.error, row.result  # noqa: B018  # what they cannot read is no row
    except RecursionError:
        raise ValueError("too deep") from None
    except (KeyError, TypeError, AttributeError) as failure:
        raise ValueError(f"not a result: {failure}") from None
    return row


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file of results; an unfinished last line is left out.

    Raises:
        ManifestError: It cannot be read, or a line is no result.
        UsageError: It holds sessions, or nothing.
    """
    number = 0
    try:
        with path.open("rb") as file:
            while (line := file.readline(MAX_ROW_BYTES)).endswith(b"\n"):
                number += 1
                try:
                    row = parse_row(line)
                except ValueError as failure:
                    raise ManifestError(
                        f"{path}, line {number}: {failure}",
                        hint="results are what 'asa-engine assess --json' prints",
                    ) from None
                yield row
            if len(line) == MAX_ROW_BYTES:
                raise ManifestError(f"{path}, line {number + 1}: longer than {MAX_ROW_BYTES} bytes")
    except OSError as failure:
        raise ManifestError(
            f"{path} cannot be read: {failure.strerror}", hint="check the path"
        ) from None
    if not number:
        raise UsageError(f"{path} holds no results", hint="score recordings into it first")
