"""Speak & Improve Corpus 2025: sessions of open answers, marked part by part.

Known: recordings are FLAC files under `data/flac/{train,dev}`, named like `SI114J-00043-P10003`:
the submission in the first 12 characters, the part's digit at index 14, the rest counts within
the part. Marks are TSV files of `fileID<TAB>score`; parts P1, P3, P4, P5; an overall mark is the
mean of the four.

Assumed: recordings may lie deeper; a mark file's name holds its part (`P1`, ...) or `overall`
beside other characters; a `fileID` may be a whole file's name or the submission alone; a first
line whose second field is no number is a header. Where no overall mark is given, it is the mean of
the parts, if all four are marked.
"""

from __future__ import annotations

import re
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from asa_engine.corpora.contents import (
    SPLITS,
    CorpusContents,
    CorpusRecording,
    CorpusSession,
    number,
    read_lines,
)
from asa_engine.errors import ManifestError

__all__ = ["read"]

PARTS: Final = ("P1", "P3", "P4", "P5")
_FILE: Final = re.compile(r"(?P<submission>[^/]{12})-P(?P<part>\d)\d+")
_MARKS: Final = re.compile(r"(?:^|[^a-zA-Z0-9])(P[1345]|overall)(?=$|[^a-zA-Z0-9])", re.IGNORECASE)


def read(folder: Path, split: str) -> CorpusContents:
    """Read recordings with their part's mark, and sessions."""
    marks = _read_marks(folder)
    flac = folder / "data" / "flac"
    sides: dict[str, str] = {}
    sessions: dict[str, dict[str, list[Path]]] = {}
    recordings, left_out = [], []
    for audio in sorted((flac / split).rglob("*.flac")):
        match = _FILE.fullmatch(audio.stem)
        if match is None:
            left_out.append(f"{audio.name}: the name is not a submission's")
            continue
        submission, part = match["submission"], f"P{match['part']}"
        scores = marks.get(submission, {})
        if part not in PARTS or part not in scores:
            left_out.append(f"{audio.name}: part {part} has no mark")
            continue
        sessions.setdefault(submission, {}).setdefault(part, []).append(audio)
        fields: dict[str, Any] = {
            "scores": {"part": scores[part]},
            "speaker": submission,
            "part": part,
        }
        if (side := audio.relative_to(flac).parts[0]) in SPLITS:
            fields["split"] = sides[submission] = side
        recordings.append(CorpusRecording(audio.stem, audio, fields))
    marked = [
        CorpusSession(
            name,
            {part: parts[part] for part in PARTS if part in parts},
            marks[name],
            sides.get(name, ""),
        )
        for name, parts in sessions.items()
    ]
    return CorpusContents(recordings, marked, left_out)


def _read_marks(folder: Path) -> dict[str, dict[str, float]]:
    """Return submission -> part or `overall` -> mark."""
    marks: dict[str, dict[str, float]] = {}
    for path in sorted(folder.rglob("*.tsv")):
        kind = _MARKS.search(path.stem)
        if kind is None:
            continue
        part = kind[1].upper() if kind[1].upper() in PARTS else "overall"
        for count, (where, line) in enumerate(read_lines(path)):
            fields = line.split("\t")
            if len(fields) < 2:
                raise ManifestError(f"{where}: not fileID<TAB>score")
            try:
                mark = number(fields[1], where)
            except ManifestError:
                if count == 0:
                    continue
                raise
            submission = marks.setdefault(fields[0].strip()[:12], {})
            if submission.setdefault(part, mark) != mark:
                raise ManifestError(f"{where}: {fields[0]} has another mark already for {part}")
    for scores in marks.values():
        if all(part in scores for part in PARTS):
            scores.setdefault("overall", fmean(scores[part] for part in PARTS))
    return marks
