"""Test sessions: parts, each with responses, scored and averaged as declared here.

A response is one recording, or several played back to back with 0.3 s of silence between them.
One that is unscorable or whose audio cannot be read is left out, counted, and the session says
"incomplete_session" in `validity.reasons`, as it does for a part without a response.

Graders of recordings score each response: a part's score is the mean over its responses that could
be scored, the session's the mean over its parts that have one. Graders of sessions hear them all at
once, in the order of their own parts, whatever the order in the file.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from asa_engine.assessment import Assessment, PartResult, Score, Timing
from asa_engine.audio import SAMPLE_RATE_HZ, read_blocks
from asa_engine.audio.validity import Validity
from asa_engine.errors import AudioError, ManifestError, UsageError
from asa_engine.evaluation.manifest import MAX_LINE_BYTES, RECORDING_SUFFIXES, is_number
from asa_engine.files import MAX_JSON_BYTES, read_text
from asa_engine.session_stream import INCOMPLETE, SessionStream

if TYPE_CHECKING:
    from asa_engine.engine import Engine

__all__ = [
    "INCOMPLETE",
    "Part",
    "Session",
    "assess_session",
    "assess_whole",
    "holds_sessions",
    "played",
    "read_sessions",
]

MAX_RESPONSES = 64
MAX_RECORDINGS = 64
_GAP = np.zeros(int(0.3 * SAMPLE_RATE_HZ), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its name and the recordings of each of its responses."""

    name: str
    responses: tuple[tuple[Path, ...], ...]


@dataclass(frozen=True, slots=True)
class Session:
    """A learner's session.

    Attributes:
        name: Such as a submission's number.
        parts: In order.
        scores: The experts' score of each part, and `overall`, where known.
        speaker: Who speaks; "" if nothing but the name tells.
        split: Which part of its corpus it is in, e.g. `dev`; "" if unknown.
    """

    name: str
    parts: tuple[Part, ...]
    scores: Mapping[str, float] = field(default_factory=dict)
    speaker: str = ""
    split: str = ""


def holds_sessions(path: Path) -> bool:
    """Return whether a manifest, going by its first line, holds sessions and not recordings."""
    try:
        with path.open(encoding="utf-8") as file:
            first = json.loads(file.readline(MAX_LINE_BYTES))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(first, dict) and "parts" in first


def read_sessions(path: Path) -> list[Session]:
    """Read sessions from a file or a folder.

    A file holds one JSON object, or one a line, as in speechocean762's `train-sessions.jsonl`;
    recordings are named by path, or by id (then `audio/<id>.flac`), relative to it. A folder is
    one session: each folder in it is a part, each recording in that, in the order of their names,
    a response.

    Raises:
        ManifestError: Something cannot be used; the message names the file and the line.
    """
    if path.is_dir():
        return [_folder(path)]
    text = read_text(path, MAX_JSON_BYTES, ManifestError)
    lines = text.splitlines()
    with contextlib.suppress(ValueError, RecursionError):
        lines = [json.dumps(json.loads(text))]  # one object, written over several lines
    sessions = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            sessions.append(_parse(json.loads(line), path.parent))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as failure:
            raise ManifestError(
                f"{path}, line {number}: not a session: {failure}",
                hint='a line is {"session": name, "parts": [{"part": name, "responses": [[id]]}]}',
            ) from None
    if not sessions:
        raise ManifestError(f"{path} holds no session")
    return sessions


def _folder(path: Path) -> Session:
    parts = []
    for folder in sorted(item for item in path.iterdir() if item.is_dir()):
        files = sorted(item for item in folder.iterdir() if item.is_file())
        recordings = [item for item in files if item.suffix.lower() in RECORDING_SUFFIXES]
        if len(recordings) > MAX_RESPONSES:
            raise ManifestError(f"{folder} holds more than {MAX_RESPONSES} recordings")
        parts.append(Part(folder.name, tuple((item,) for item in recordings)))
    if not any(part.responses for part in parts):
        raise ManifestError(
            f"{path} holds no session",
            hint="make a folder for each part in it, and put the part's recordings there",
        )
    return Session(path.absolute().name, tuple(parts))


def _parse(value: Mapping[str, Any], folder: Path) -> Session:
    parts = []
    for part in value["parts"]:
        responses = part["responses"]
        if not isinstance(responses, list) or len(responses) > MAX_RESPONSES:
            raise ValueError(f"a part holds at most {MAX_RESPONSES} responses, in a list")
        parts.append(Part(str(part["part"]), tuple(_recordings(r, folder) for r in responses)))
    if not parts:
        raise ValueError("it has no parts")
    given = value.get("scores", {})
    if not isinstance(given, dict) or not all(map(is_number, given.values())):
        raise ValueError("a score is not a finite number")
    scores = {name: float(score) for name, score in given.items()}
    speaker, split = (str(value.get(name) or "") for name in ("speaker", "split"))
    return Session(str(value["session"]), tuple(parts), scores, speaker, split)


def _recordings(response: object, folder: Path) -> tuple[Path, ...]:
    names = [response] if isinstance(response, str) else response
    if not isinstance(names, list) or not 0 < len(names) <= MAX_RECORDINGS:
        raise ValueError(f"a response is a list of 1 to {MAX_RECORDINGS} recordings")
    return tuple(_resolve(name, folder) for name in names)


def _resolve(name: object, folder: Path) -> Path:
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"{name!r} does not name a recording")
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{name!r} leads out of the session's folder")
    return path if path.suffix else folder / "audio" / f"{name}.flac"


def assess_session(engine: Engine, session: Session) -> Assessment:
    """Score a session as the module docstring declares.

    Raises:
        AudioError: No response at all could be read, or a grader of sessions takes no more
            responses or audio.
        UsageError: A grader of sessions knows no such part.
    """
    if engine.hears_sessions:
        return assess_whole(engine, session)
    parts, results, unread = [], [], 0
    for part in session.parts:
        scored = []
        for recordings in part.responses:
            try:
                result = engine.assess_blocks(played(recordings))
            except AudioError as error:
                if len(session.parts) == len(part.responses) == 1:
                    raise
                unread += 1
                last_error = error
                continue
            results.append(result)
            if result.validity.scorable:
                scored.append(result.scores)
        parts.append(PartResult(part.name, _mean(scored), len(part.responses), len(scored)))
    if not results:
        raise last_error if unread else AudioError(f"session {session.name} has no responses")
    judged = [part.scores for part in parts if part.scores]
    incomplete = any(part.scored < part.responses or not part.responses for part in parts)
    return Assessment(
        grader=engine.grader,
        scores=_mean(judged),
        validity=Validity(bool(judged), (INCOMPLETE,) if incomplete else ()),
        timing=Timing.total([result.timing for result in results]),
        receipt={
            **{k: v for k, v in results[0].receipt.items() if k != "audio_sha256"},
            "audio_sha256": [result.receipt["audio_sha256"] for result in results],
        },
        parts=tuple(parts),
        responses=tuple(results),
    )


def assess_whole(
    engine: Engine,
    session: Session,
    *,
    mode: str | None = None,
    tolerance: float = 0.0,
    watch: Callable[[SessionStream], None] | None = None,
    chunk_samples: int = SAMPLE_RATE_HZ,
) -> Assessment:
    """Score a session with a grader that hears all of it at once.

    Args:
        engine: Of such a grader.
        session: Its parts may stand in any order, and some may be missing.
        mode: As of `Engine.session`.
        tolerance: Likewise.
        watch: Called after every chunk; it may look at `provisional`.
        chunk_samples: Samples (16 kHz) of a chunk; scores do not depend on it.

    Raises:
        AudioError: No response at all could be read, or there are more than the grader takes.
        UsageError: The grader knows no such part, or a part is there twice.
    """
    given = {part.name: part.responses for part in session.parts}
    known = [part.name for part in engine.config.parts]
    if unknown := [name for name in given if name not in known]:
        raise UsageError(
            f"session {session.name}: the grader knows no part {unknown[0]!r}",
            hint=f"parts are {', '.join(known)}",
        )
    if len(given) < len(session.parts):
        raise UsageError(f"session {session.name} has a part twice", hint="join its responses")
    count, most = sum(map(len, given.values())), engine.config.max_responses
    if count > most:
        raise AudioError(
            f"session {session.name} has {count} responses", hint=f"the grader takes {most}"
        )
    unread: AudioError | None = None
    with engine.session(mode=mode, tolerance=tolerance) as stream:
        for name in known:
            for recordings in given.get(name, ()):
                stream.begin(name)
                try:
                    for block in _read(recordings):
                        for start in range(0, len(block), chunk_samples):
                            stream.feed(block[start : start + chunk_samples])
                            if watch is not None:
                                watch(stream)
                except _UnreadableError as error:
                    unread = error.cause
                    stream.drop()
                    continue
                stream.end()
        if unread is not None and not stream.responses:
            raise unread
        return stream.finish()


class _UnreadableError(Exception):
    """A recording cannot be read; that a session is too long is another matter."""

    def __init__(self, cause: AudioError) -> None:
        super().__init__(cause.message)
        self.cause = cause


def _read(recordings: Sequence[Path]) -> Iterator[NDArray[np.float32]]:
    try:
        yield from played(recordings)
    except AudioError as error:
        raise _UnreadableError(error) from None


def played(recordings: Sequence[Path]) -> Iterator[NDArray[np.float32]]:
    """Yield 16 kHz blocks of recordings played back to back."""
    for index, path in enumerate(recordings):
        if index:
            yield _GAP
        yield from read_blocks(path)


def _mean(scores: Sequence[Mapping[str, Score]]) -> dict[str, Score]:
    """Average each score; its level and expected error do not carry over to a mean."""
    if not scores:
        return {}
    return {
        name: replace(
            first,
            value=sum(each[name].value for each in scores) / len(scores),
            level=None,
            sd=None,
            probabilities=None,
        )
        for name, first in scores[0].items()
    }
