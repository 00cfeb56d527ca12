"""TEEMI-style tables: one row an answer, with analytic and holistic CEFR grades.

Known: grades of content, delivery, language use and a holistic one, in eight classes from Pre-A1
to B2, which stand for 1.0, 1.5, ... 4.5; tasks such as A01, A02, B02, C01.

Assumed: CSV files with a header that names an id, the recording, and at least one grade, by any of
the names in `COLUMNS`; grades as CEFR names or as numbers; recordings by path, or by name with or
without suffix in the table's folder, `audio`, `wav` or `wavs` beside it. The folder's `<split>.csv`
is read, or all its CSV files; a CSV file may be named itself. A table named `train`, `dev` or
`test` is that split.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Final

from asa_engine.corpora.contents import (
    AUDIO_SUFFIXES,
    SPLITS,
    CorpusContents,
    CorpusRecording,
    number,
    read_lines,
)
from asa_engine.errors import ManifestError

__all__ = ["LEVELS", "read"]

LEVELS: Final = ("Pre-A1", "A1", "A1+", "A2", "A2+", "B1", "B1+", "B2")
COLUMNS: Final = {
    "id": ("id", "text_id", "utt_id", "uttid", "file_id"),
    "audio": ("audio", "wav", "wav_path", "path", "file"),
    "speaker": ("speaker", "speaker_id", "spk_id", "spk"),
    "prompt": ("prompt", "question", "task"),
    "transcript": ("transcript", "text", "trans", "trans_human", "asr"),
    "split": ("split", "set"),
}
GRADES: Final = {
    "content": ("content", "relevance"),
    "delivery": ("delivery", "pronunciation"),
    "language_use": ("language_use", "language use", "language", "vocabulary"),
    "holistic": ("holistic", "grade", "overall"),
}
_FOLDERS: Final = ("", "audio", "wav", "wavs")
_MAX_FIELD: Final = 2**17


def read(folder: Path, split: str) -> CorpusContents:
    """Read recordings and their grades."""
    if folder.is_file():
        tables = [folder]
    else:
        tables = [folder / f"{split}.csv"] if split else sorted(folder.glob("*.csv"))
    corpus = CorpusContents([])
    seen: set[str] = set()
    for table in tables:
        _read_table(table, corpus, seen)
    return corpus


def _read_table(path: Path, corpus: CorpusContents, seen: set[str]) -> None:
    rows = csv.DictReader((line for _, line in read_lines(path)), strict=True)
    try:
        header = {name.strip().lower(): name for name in rows.fieldnames or () if name}
        columns = {ours: _column(header, names) for ours, names in COLUMNS.items()}
        grades = {ours: _column(header, names) for ours, names in GRADES.items()}
        if columns["id"] is None or not any(grades.values()):
            raise ManifestError(
                f"{path}: the header names no id or no grade",
                hint=f"ids: {', '.join(COLUMNS['id'])}; grades: {', '.join(GRADES)}",
            )
        for row in rows:
            _read_row(path, f"{path}, line {rows.line_num}", row, columns, grades, corpus, seen)
    except csv.Error as failure:
        raise ManifestError(f"{path}, line {rows.line_num}: not CSV: {failure}") from None


def _read_row(
    path: Path,
    where: str,
    row: dict[str, str | None],
    columns: dict[str, str | None],
    grades: dict[str, str | None],
    corpus: CorpusContents,
    seen: set[str],
) -> None:
    values = {ours: (row.get(name) or "").strip() for ours, name in columns.items() if name}
    key = values.pop("id")
    if not key or key in seen:
        raise ManifestError(f"{where}: id {key!r} is empty or occurs twice")
    seen.add(key)
    scores = {
        ours: _grade(grade, where)
        for ours, name in grades.items()
        if name and (grade := (row.get(name) or "").strip())
    }
    audio = _recording(path.parent, values.pop("audio", "") or key)
    if audio is None or not scores:
        corpus.left_out.append(f"{key}: no {'grade' if audio else 'recording'}")
        return
    fields: dict[str, Any] = {"scores": scores}
    fields |= {name: value[:_MAX_FIELD] for name, value in values.items() if value}
    if path.stem in SPLITS:
        fields.setdefault("split", path.stem)
    corpus.recordings.append(CorpusRecording(key, audio, fields))


def _column(header: dict[str, str], names: tuple[str, ...]) -> str | None:
    return next((header[name] for name in names if name in header), None)


def _grade(text: str, where: str) -> float:
    """Return 1.0, 1.5, ... for a CEFR name, or the number itself."""
    lowered = [level.lower() for level in LEVELS]
    if text.lower() in lowered:
        return 1.0 + 0.5 * lowered.index(text.lower())
    return number(text, where)


def _recording(folder: Path, name: str) -> Path | None:
    if "\0" in name:
        return None
    for place in _FOLDERS:
        for suffix in ("", *AUDIO_SUFFIXES):
            path = folder / place / f"{name}{suffix}"
            if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file():
                return path
    return None
