"""Manifests of scored recordings: JSON Lines, one utterance a line.

A line holds `id`, `audio` (path relative to the manifest), `scores` (name -> number) and, where
known, `speaker`, `age`, `gender`, `text`, `raters` and `words`, as in speechocean762's
`train.jsonl`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asa_engine.errors import ManifestError

__all__ = ["Utterance", "dev_split", "read_manifest"]

MAX_LINE_BYTES = 2**20
MAX_UTTERANCES = 1_000_000
DEV_SPEAKER_DIVISOR = 5


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
    for number, line in _lines(path):
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


def dev_split(utterances: Sequence[Utterance]) -> tuple[list[Utterance], list[Utterance]]:
    """Split by speaker into (train, dev): speakers whose number is divisible by 5 are dev.

    Raises:
        ManifestError: A speaker is not a number.
    """
    for utterance in utterances:
        if not utterance.speaker.isdigit():
            raise ManifestError(
                f"speaker {utterance.speaker!r} of {utterance.id} is not a number",
                mend="give the dev speakers a manifest of their own",
            )
    dev = [u for u in utterances if int(u.speaker) % DEV_SPEAKER_DIVISOR == 0]
    train = [u for u in utterances if int(u.speaker) % DEV_SPEAKER_DIVISOR != 0]
    return train, dev


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise ManifestError(
                        f"{path}, line {number}: longer than {MAX_LINE_BYTES} bytes"
                    )
                try:
                    text = line.decode("utf-8").strip()
                except UnicodeDecodeError:
                    raise ManifestError(f"{path}, line {number}: not UTF-8") from None
                if text:
                    yield number, text
    except OSError as failure:
        raise ManifestError(
            f"{path} cannot be read: {failure.strerror}", mend="check the path"
        ) from None


_KNOWN = ("id", "audio", "scores", "speaker", "age", "gender", "text")


def _parse(value: Any, folder: Path) -> Utterance:
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    audio = value["audio"]
    if not isinstance(audio, str) or not audio or "\0" in audio:
        raise ValueError("audio is not a path")
    if not (folder / audio).resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"audio {audio!r} leads out of the manifest's folder")
    scores = value["scores"]
    if not isinstance(scores, dict) or not scores:
        raise ValueError("scores is not an object with at least one score")
    for name, score in scores.items():
        if (
            isinstance(score, bool)
            or not isinstance(score, int | float)
            or not math.isfinite(score)
        ):
            raise ValueError(f"score {name!r} is not a finite number")
    age = value.get("age")
    if age is not None and (isinstance(age, bool) or not isinstance(age, int | float)):
        raise ValueError("age is not a number")
    return Utterance(
        id=str(value["id"]),
        audio=folder / audio,
        scores={str(name): float(score) for name, score in scores.items()},
        speaker=str(value.get("speaker", "")),
        age=age,
        gender=str(value.get("gender", "")),
        text=str(value.get("text", "")),
        extra={name: entry for name, entry in value.items() if name not in _KNOWN},
    )
