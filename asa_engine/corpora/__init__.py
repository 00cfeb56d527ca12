"""Corpora as their makers hand them out, read into manifests and sessions.

A layout is one file and one line in `LAYOUTS`. Its `read` takes the corpus's folder and the split
asked for, and returns what it found; nothing is copied.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from asa_engine.corpora.contents import CorpusContents
from asa_engine.errors import ManifestError, UsageError
from asa_engine.files import atomic_write

__all__ = ["LAYOUTS", "CorpusContents", "read_corpus", "write_manifests"]

LAYOUTS: Mapping[str, str] = {
    "speechocean762": "asa_engine.corpora.speechocean762:read",
    "speak-improve": "asa_engine.corpora.speak_improve:read",
    "icnale": "asa_engine.corpora.icnale:read",
    "teemi": "asa_engine.corpora.teemi:read",
}


def read_corpus(layout: str, folder: Path, split: str = "") -> CorpusContents:
    """Read a corpus.

    Args:
        layout: A key of `LAYOUTS`.
        folder: The corpus's folder, or its table where the layout is one.
        split: Which part of it, e.g. `train`; "" for all.

    Raises:
        UsageError: There is no such layout or folder.
        ManifestError: Its files are not laid out as the layout says, or hold no scored recording.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"there is no layout {layout!r}", hint=f"one of {', '.join(LAYOUTS)}")
    if not folder.exists():
        raise UsageError(f"there is no {folder}", hint="check the path")
    module, name = LAYOUTS[layout].split(":")
    read: Callable[[Path, str], CorpusContents] = getattr(importlib.import_module(module), name)
    corpus = read(folder, split)
    if not corpus.recordings:
        raise ManifestError(
            f"{folder} holds no scored recording of the layout {layout}"
            + (f" in the split {split}" if split else ""),
            hint="docs/corpora.md shows the layouts",
        )
    return corpus


def write_manifests(corpus: CorpusContents, manifest: Path, sessions: Path | None = None) -> None:
    """Write a manifest and, where asked for, sessions.

    Args:
        corpus: From `read_corpus`.
        manifest: The JSON Lines file; recordings must lie beside or below it.
        sessions: The sessions' file, under the same rule.

    Raises:
        UsageError: A recording lies elsewhere, there are no sessions, or a file cannot be written.
    """
    lines = []
    for recording in corpus.recordings:
        audio = _relative(recording.audio, manifest)
        lines.append({"id": recording.id, "audio": audio, **recording.fields})
    atomic_write(manifest, _lines(lines))
    if sessions is None:
        return
    if not corpus.sessions:
        raise UsageError("this corpus has no sessions", hint="leave --sessions out")
    rows: list[dict[str, object]] = []
    for session in corpus.sessions:
        parts = [
            {"part": part, "responses": [[_relative(audio, sessions)] for audio in responses]}
            for part, responses in session.parts.items()
        ]
        row: dict[str, object] = {
            "session": session.name,
            "parts": parts,
            "scores": dict(session.scores),
        }
        rows.append({**row, "split": session.split} if session.split else row)
    atomic_write(sessions, _lines(rows))


def _lines(rows: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _relative(audio: Path, manifest: Path) -> str:
    path = os.path.relpath(audio.resolve(), manifest.resolve().parent)
    if path.startswith(os.pardir):
        raise UsageError(
            f"{audio} lies outside the folder of {manifest}",
            hint="write the manifest into the corpus's folder or above it",
        )
    return Path(path).as_posix()
