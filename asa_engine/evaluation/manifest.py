"""Manifests of scored recordings: JSON Lines, one utterance a line.

A line holds `id`, `audio` (path relative to the manifest), `scores` (name -> number) and, where
known, `speaker`, `split` (`train`, `dev`, `test`), `age`, `gender`, `first_language`, `text` (what
was read), `prompt` (what was asked), `transcript` (what people heard), `duration` in seconds,
`raters` (score name -> each expert's own) and `words`, as in speechocean762's `train.jsonl`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from asa_engine.errors import ManifestError

__all__ = [
    "MAX_UTTERANCES",
    "RECORDING_SUFFIXES",
    "Utterance",
    "bounded_lines",
    "confined",
    "is_number",
    "manifest_lines",
    "read_manifest",
]

MAX_LINE_BYTES = 2**20
MAX_UTTERANCES = 1_000_000
RECORDING_SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3"),
    # These need the extra [media].
    *(".webm", ".mka", ".mkv", ".mp4", ".m4a", ".mov", ".aac", ".amr", ".3gp", ".aif", ".aiff"),
    *(".caf", ".au", ".wma", ".w64"),
)
"""Of files that a folder is searched for; what they hold decides what they are."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One scored recording.

    Attributes:
        id: Unique in the manifest.
        audio: The recording.
        scores: Score name -> the experts' score.
        speaker: Who speaks; "" if unknown.
        age: In years, or `None`.
        gender: As in the manifest; "" if unknown.
        text: What was read; "" if unknown.
        extra: Everything else the line holds (`raters`, `words`, ...).
    """

    id: str
    audio: Path
    scores: Mapping[str, float]
    speaker: str = ""
    age: float | None = None
    gender: str = ""
    text: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def texts(self) -> dict[str, str]:
        """Return the texts of a request, "text" and "prompt", as far as they are known."""
        known = {"text": self.text, "prompt": str(self.extra.get("prompt") or "")}
        return {name: value for name, value in known.items() if value}

    @property
    def split(self) -> str:
        """Which part of its corpus it is in, e.g. `dev`; "" if unknown."""
        return str(self.extra.get("split") or "")

    @property
    def first_language(self) -> str:
        """The speaker's first language as in the manifest; "" if unknown."""
        return str(self.extra.get("first_language") or "")

    @property
    def duration_s(self) -> float | None:
        """Seconds of the recording by the manifest; `None` if unknown."""
        duration = self.extra.get("duration")
        return None if duration is None else float(duration)


def read_manifest(path: str | Path, *, check_audio: bool = True) -> list[Utterance]:
    """Read a manifest.

    Args:
        path: The JSON Lines file.
        check_audio: Whether every recording must be there.

    Raises:
        ManifestError: Something cannot be used; the message names the file and the line.
    """
    path = Path(path)
    utterances: list[Utterance] = []
    seen: set[str] = set()
    for number, line in manifest_lines(path):
        where = f"{path}, line {number}"
        try:
            utterance = _parse(json.loads(line), path.parent)
        except json.JSONDecodeError as failure:
            raise ManifestError(f"{where}: not valid JSON: {failure.msg}") from None
        except KeyError as failure:
            raise ManifestError(f"{where}: {failure} is missing") from None
        except (ValueError, TypeError, AttributeError, RecursionError) as failure:
            raise ManifestError(f"{where}: {failure}") from None
        if utterance.id in seen:
            raise ManifestError(f"{where}: id {utterance.id!r} occurs twice")
        if check_audio and not utterance.audio.is_file():
            raise ManifestError(f"{where}: there is no recording {utterance.audio}")
        seen.add(utterance.id)
        utterances.append(utterance)
        if len(utterances) > MAX_UTTERANCES:
            raise ManifestError(f"{path} holds more than {MAX_UTTERANCES} utterances")
    if not utterances:
        raise ManifestError(f"{path} holds no utterance")
    return utterances


def manifest_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line of a manifest, stripped, without empty ones.

    Raises:
        ManifestError: It cannot be read, is not UTF-8, or has a line that is too long.
    """
    try:
        with path.open("rb") as file:
            for number, line in bounded_lines(file, str(path)):
                if text := line.strip():
                    yield number, text
    except OSError as failure:
        raise ManifestError(
            f"{path} cannot be read: {failure.strerror}", hint="check the path"
        ) from None


def bounded_lines(file: BinaryIO, name: str) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line as it stands, a byte order mark left out.

    Args:
        file: Read from where it stands.
        name: What to call it in an error.

    Raises:
        ManifestError: It is not UTF-8, or has a line that is too long.
    """
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise ManifestError(f"{name}, line {number}: longer than {MAX_LINE_BYTES} bytes")
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise ManifestError(f"{name}, line {number}: not UTF-8") from None


def confined(audio: object, folder: Path) -> Path:
    """Return the recording that a manifest in a folder names.

    Raises:
        ValueError: It is no path, or one that leads out of the folder.
    """
    if not isinstance(audio, str) or not audio or "\0" in audio:
        raise ValueError("audio is not a path")
    try:
        inside = (folder / audio).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links in a circle
        raise ValueError(f"audio {audio!r} leads nowhere") from None
    if not inside:
        raise ValueError(f"audio {audio!r} leads out of the manifest's folder")
    return folder / audio


def is_number(value: object) -> bool:
    """Return whether a JSON value is a number that a float can hold, and neither NaN nor true."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) <= sys.float_info.max
    )


def _text(value: object) -> str:
    return "" if value is None else str(value)


_KNOWN = ("id", "audio", "scores", "speaker", "age", "gender", "text")


def _parse(value: Any, folder: Path) -> Utterance:
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    audio = confined(value["audio"], folder)
    scores = value["scores"]
    if not isinstance(scores, dict) or not scores:
        raise ValueError("scores is not an object with at least one score")
    for name, score in scores.items():
        if not is_number(score):
            raise ValueError(f"score {name!r} is not a finite number")
    age = value.get("age")
    if age is not None and not is_number(age):
        raise ValueError("age is not a finite number")
    duration = value.get("duration")
    if duration is not None and not (is_number(duration) and duration > 0):
        raise ValueError("duration is not a number of seconds above 0")
    return Utterance(
        id=str(value["id"]),
        audio=audio,
        scores={str(name): float(score) for name, score in scores.items()},
        speaker=_text(value.get("speaker")),
        age=age,
        gender=_text(value.get("gender")),
        text=_text(value.get("text")),
        extra={name: entry for name, entry in value.items() if name not in _KNOWN},
    )
