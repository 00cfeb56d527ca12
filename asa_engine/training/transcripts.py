"""Transcripts of a whole corpus, kept in a file so that each recording is heard once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from asa_engine.assessment import Word
from asa_engine.audio import read_audio
from asa_engine.backbones import model_folder
from asa_engine.errors import UsageError
from asa_engine.evaluation.manifest import Utterance
from asa_engine.files import sha256_file
from asa_engine.recogniser.recognition import Recogniser, Transcript

__all__ = ["transcribe"]

# Raised whenever the same model may hear other words: windows, padding, guards.
RECOGNISER_VERSION: Final = 2
_MAX_LINE_BYTES: Final = 2**20


def transcribe(
    utterances: Sequence[Utterance],
    cache: Path,
    *,
    name: str = "whisper-tiny.en",
    precision: str = "int8",
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Transcript]:
    """Transcribe every recording of a corpus.

    After a kill, the same call goes on where it was. A recording that has changed, or that another
    model has heard, is heard again.

    Args:
        utterances: The recordings.
        cache: JSON Lines of transcripts, read and added to.
        name: The recogniser's backbone, or its folder.
        precision: `fp32` or `int8`.
        threads: Threads a window is decoded with.
        progress: Called with (recordings done, recordings in all).

    Returns:
        Id -> transcript, in the recordings' order.

    Raises:
        AudioError: A recording cannot be read.
        CheckpointError: The backbone is not here.
        UsageError: The cache cannot be written.
    """
    heard_by = {"recogniser": name, "precision": precision, "version": RECOGNISER_VERSION}
    known = _read(cache, heard_by)
    transcripts: dict[str, Transcript] = {}
    recogniser = None
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with cache.open("a" if known else "w", encoding="utf-8") as out:
            if not known:
                out.write(json.dumps(heard_by) + "\n")
            for utterance in utterances:
                sha256 = sha256_file(utterance.audio)
                entry = known.get(utterance.id)
                if entry is None or entry["sha256"] != sha256:
                    if recogniser is None:
                        folder = model_folder(name)
                        recogniser = Recogniser.open(folder, precision=precision, threads=threads)
                    transcript = _hear(recogniser, utterance.audio)
                    entry = {"id": utterance.id, "sha256": sha256, **transcript.to_dict()}
                    out.write(json.dumps(entry, ensure_ascii=False) + "\n")
                    out.flush()
                transcripts[utterance.id] = _transcript(entry)
                if progress is not None:
                    progress(len(transcripts), len(utterances))
    except OSError as failure:
        raise UsageError(
            f"{cache} cannot be written: {failure.strerror or failure}", hint="choose another place"
        ) from None
    return transcripts


def _hear(recogniser: Recogniser, audio: Path) -> Transcript:
    recognition = recogniser.start()
    recognition.push(read_audio(audio))
    return recognition.finish()


def _read(cache: Path, heard_by: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the entries of a cache that the same recogniser has written, or nothing.

    A last line that was cut off is taken out of the file.
    """
    if not cache.is_file():
        return {}
    entries: dict[str, dict[str, Any]] = {}
    whole = 0
    with cache.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE_BYTES), b"")):
            try:
                entry = json.loads(line)
                if not line.endswith(b"\n") or (number == 0 and entry != heard_by):
                    break
                if number:
                    _transcript(entry)
                    entries[str(entry["id"])] = {"sha256": "", **entry}
            except (ValueError, KeyError, TypeError, RecursionError):
                break
            whole += len(line)
    if whole:
        with cache.open("rb+") as file:
            file.truncate(whole)
    return entries


def _transcript(entry: dict[str, Any]) -> Transcript:
    words = tuple(
        Word(str(w["text"]), float(w["start_s"]), float(w["end_s"]), float(w["probability"]))
        for w in entry["words"]
    )
    return Transcript(str(entry["text"]), words, tuple(map(str, entry["reasons"])))
