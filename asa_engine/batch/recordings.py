"""What is to be scored: files, folders, patterns, and manifests in CSV or JSON Lines."""

from __future__ import annotations

import csv
import glob
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from asa_engine.errors import ManifestError, UsageError
from asa_engine.evaluation.manifest import (
    MAX_UTTERANCES,
    RECORDING_SUFFIXES,
    bounded_lines,
    confined,
)

__all__ = ["MANIFEST_SUFFIXES", "STANDARD_INPUT", "Recording", "read_recordings"]

STANDARD_INPUT: Final = Path("-")
MANIFEST_SUFFIXES: Final = (".csv", ".tsv", ".jsonl", ".ndjson")
_TABLES: Final = {".csv": ",", ".tsv": "\t"}
_COLUMNS: Final = ("id", "text", "prompt", "learner", "session", "date")
_HINT: Final = f"a line names audio, and if you like {', '.join(_COLUMNS)}"


@dataclass(frozen=True, slots=True)
class Recording:
    """One recording to score, and what is known of it.

    Attributes:
        name: As it was named: what rows call it.
        audio: Where it is.
        id: Its own name in the manifest; "" if it has none.
        text: What was read, for graders that use it; "" if unknown.
        prompt: The task, likewise.
        learner: Who speaks; "" if unknown.
        session: The sitting, e.g. a test or a lesson, that it belongs to; "" if unknown.
        date: When it was spoken, ISO 8601; "" if unknown.
    """

    name: str
    audio: Path
    id: str = ""
    text: str = ""
    prompt: str = ""
    learner: str = ""
    session: str = ""
    date: str = ""

    def texts(self, uses: Sequence[str]) -> dict[str, str | None]:
        """Return the arguments of a request to a grader that takes these texts."""
        known = {"text": self.text, "prompt": self.prompt}
        return {name: known[name] or None for name in uses}

    def to_dict(self) -> dict[str, str]:
        """Return what is known as JSON values: the head of a row."""
        known = {name: value for name, value in asdict(self).items() if name in _COLUMNS and value}
        return {"audio": self.name, **known}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], folder: Path | None = None) -> Recording:
        """Return the recording that a line of a manifest, or the head of a row, names.

        Args:
            values: With "audio"; a "speaker", as manifests of scored recordings have it, is a
                learner.
            folder: Paths are relative to it and stay in it; `None` where nothing will be opened.

        Raises:
            ValueError: Something cannot be used; the message says what.
        """
        if "audio" not in values:
            raise ValueError("audio is missing")
        audio = values["audio"]
        path = Path(str(audio)) if folder is None else confined(audio, folder)
        known = {name: _text(name, values.get(name)) for name in _COLUMNS}
        known["learner"] = known["learner"] or _text("speaker", values.get("speaker"))
        if known["date"]:
            try:
                datetime.fromisoformat(known["date"])
            except ValueError:
                raise ValueError(
                    f"date {known['date']!r} is not like 2026-03-31 or 2026-03-31T09:30:00"
                ) from None
        return cls(name=str(audio), audio=path, **known)


def read_recordings(
    inputs: Iterable[Path],
    *,
    text: str = "",
    prompt: str = "",
    standard_input: BinaryIO | None = None,
) -> list[Recording]:
    """Return every recording that inputs name, in their order, folders and patterns sorted.

    A file whose name ends as a manifest's is one; a folder is searched, with those in it, for files
    that end as recordings do, hidden ones left out; of what is no file, `*`, `?` and `[` make a
    pattern (`**` any folders). Everything else is a recording, there or not.

    Args:
        inputs: As on the command line.
        text: What was read in those that no manifest says it of.
        prompt: The task, likewise.
        standard_input: What `-` stands for, where it may be a manifest in JSON Lines, whose paths
            are relative to the current folder; else `-` is a recording.

    Raises:
        ManifestError: A manifest that cannot be used; the message names the file and the line.
        UsageError: A folder or pattern without recordings, or too many of them.
    """
    found: list[Recording] = []
    for recording in _expanded(inputs, standard_input):
        if len(found) == MAX_UTTERANCES:
            raise UsageError(f"there are more than {MAX_UTTERANCES} recordings")
        found.append(recording)
    if text or prompt:
        found = [_with_texts(recording, text, prompt) for recording in found]
    return found


def _with_texts(recording: Recording, text: str, prompt: str) -> Recording:
    values = {**asdict(recording), "text": recording.text or text}
    return Recording(**{**values, "prompt": recording.prompt or prompt})


def _expanded(inputs: Iterable[Path], standard_input: BinaryIO | None) -> Iterator[Recording]:
    for path in inputs:
        if path == STANDARD_INPUT:
            if standard_input is not None and _begins_with_an_object(standard_input):
                lines = bounded_lines(standard_input, "standard input")
                yield from _manifest(lines, "standard input", Path(), "")
            else:
                yield Recording("-", path)
        elif glob.has_magic(str(path)) and not os.path.exists(path):
            matches = sorted(glob.glob(str(path), recursive=True))
            if not matches:
                raise UsageError(f"nothing is like {path}", hint="check the pattern")
            for match in matches:
                yield from _of_path(Path(match))
        else:
            yield from _of_path(path)


def _of_path(path: Path) -> Iterator[Recording]:
    if os.path.isdir(path):  # of a name that is too long, too, it is none
        yield from _folder(path)
    elif path.suffix.lower() in MANIFEST_SUFFIXES:
        from asa_engine.evaluation.sessions import holds_sessions  # most calls do without it

        if holds_sessions(path):
            raise UsageError(f"{path} holds sessions", hint=f"score them with --session {path}")
        try:
            with path.open("rb") as file:
                lines = bounded_lines(file, str(path))
                yield from _manifest(lines, str(path), path.parent, path.suffix.lower())
        except OSError as failure:
            raise ManifestError(
                f"{path} cannot be read: {failure.strerror}", hint="check the path"
            ) from None
    else:
        yield Recording(str(path), path)


def _folder(path: Path) -> Iterator[Recording]:
    empty = True
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and name.lower().endswith(RECORDING_SUFFIXES):
                empty = False
                yield Recording(os.path.join(folder, name), Path(folder, name))
    if empty:
        raise UsageError(
            f"the folder {path} holds no recordings",
            hint=f"their names end in {' '.join(RECORDING_SUFFIXES[:6])} and others' ends",
        )


def _manifest(
    lines: Iterator[tuple[int, str]], name: str, folder: Path, suffix: str
) -> Iterator[Recording]:
    seen: set[str] = set()
    entries = _table(lines, name, _TABLES[suffix]) if suffix in _TABLES else _objects(lines, name)
    for number, values in entries:
        where = f"{name}, line {number}"
        try:
            recording = Recording.from_dict(values, folder)
        except (ValueError, OSError) as failure:
            raise ManifestError(f"{where}: {failure}", hint=_HINT) from None
        if recording.id and recording.id in seen:
            raise ManifestError(f"{where}: id {recording.id!r} occurs twice")
        seen.add(recording.id)
        yield recording
    if not seen:
        raise ManifestError(f"{name} names no recording", hint=_HINT)


def _objects(
    lines: Iterator[tuple[int, str]], name: str
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            raise ManifestError(f"{name}, line {number}: not valid JSON") from None
        if not isinstance(values, dict):
            raise ManifestError(f"{name}, line {number}: not a JSON object", hint=_HINT)
        yield number, values


def _table(
    lines: Iterator[tuple[int, str]], name: str, delimiter: str
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    number, header = next(lines, (1, ""))
    if delimiter not in header and ";" in header:  # spreadsheets of half of the world
        delimiter = ";"
    try:
        cells = next(csv.reader([header], delimiter=delimiter), [])
    except csv.Error as failure:
        raise ManifestError(f"{name}, line 1: {failure}") from None
    names = [cell.strip().lower() for cell in cells]
    if "audio" not in names:
        raise ManifestError(f"{name}, line 1: there is no column 'audio'", hint=_HINT)
    if len(set(names)) < len(names):
        raise ManifestError(f"{name}, line 1: a column occurs twice")
    rows = csv.reader((line for _, line in lines), delimiter=delimiter, strict=True)
    try:
        for cells in rows:
            number = rows.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(names):
                raise ManifestError(f"{name}, line {number}: more cells than columns")
            yield number, {key: cell.strip() for key, cell in zip(names, cells, strict=False)}
    except csv.Error as failure:
        raise ManifestError(f"{name}, line {rows.line_num + 1}: {failure}") from None


def _begins_with_an_object(file: BinaryIO) -> bool:
    """Look at the first byte: no recording begins as JSON does."""
    peek = getattr(file, "peek", None)
    return peek is not None and peek(1)[:1] == b"{"


def _text(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{name} is not a text")
    text = str(value)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{name} holds half a character")
    return text
