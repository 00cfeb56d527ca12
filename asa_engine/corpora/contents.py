"""What the layouts have in common: what they return, and how they read text files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from asa_engine.errors import ManifestError
from asa_engine.files import read_text

__all__ = [
    "AUDIO_SUFFIXES",
    "SPLITS",
    "CorpusContents",
    "CorpusRecording",
    "CorpusSession",
    "number",
    "read_lines",
]

SPLITS: Final = ("train", "dev", "test")
"""Names that training knows: what is held out, and what is left out."""
AUDIO_SUFFIXES: Final = (".flac", ".wav", ".mp3", ".ogg")
_MAX_BYTES: Final = 256 * 2**20


@dataclass(frozen=True, slots=True)
class CorpusRecording:
    """One scored recording.

    Attributes:
        id: Unique in the corpus.
        audio: The file.
        fields: The rest of its manifest line: `scores`, and `speaker`, `text`, ... where known.
    """

    id: str
    audio: Path
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CorpusSession:
    """One learner's session.

    Attributes:
        name: Unique in the corpus.
        parts: Part -> its recordings, in order, each a response of its own.
        scores: Part, or `overall`, -> the experts' score.
        split: Which part of the corpus it is in; "" if its makers do not say.
    """

    name: str
    parts: Mapping[str, list[Path]]
    scores: Mapping[str, float] = field(default_factory=dict)
    split: str = ""


@dataclass(frozen=True, slots=True)
class CorpusContents:
    """A corpus.

    Attributes:
        recordings: Those with a file and a score.
        sessions: Its sessions, from corpora that have them.
        left_out: What was seen and not taken, and why, one line each.
    """

    recordings: list[CorpusRecording]
    sessions: list[CorpusSession] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (where it stands, line) for every line of a UTF-8 file that is not blank.

    Raises:
        ManifestError: The file is missing, too large, or not UTF-8.
    """
    text = read_text(path, _MAX_BYTES, ManifestError, bom=True)
    for count, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}, line {count}", line.rstrip("\r")


def number(text: Any, where: str) -> float:
    """Return a finite number.

    Raises:
        ManifestError: It is none.
    """
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = float("nan")
    if not abs(value) < float("inf"):
        raise ManifestError(f"{where}: {text!r} is not a number")
    return value
