"""Results as the pronunciation grader gives them, made by hand."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from asa_engine.assessment import Assessment, Phone, Score, Timing, Word
from asa_engine.audio.validity import Validity
from asa_engine.batch.rows import Row

__all__ = [
    "LABELS",
    "TIMING",
    "assessment",
    "labelled",
    "labelled_word",
    "refused",
    "write_results",
]

LABELS = ("Worst", "Bad", "Average", "Good", "Excellent")

TIMING = Timing(2.5, 1.0, 2.0, 3.0, None, None, 1.0, 5.0, 0.004)
RECEIPT = {
    "audio_sha256": "ab" * 32,
    "backend": "native",
    "precision": "int8",
    "threads": 1,
}


def _score(value: float, most: float = 10.0) -> Score:
    return Score(value, 0.0, most)


def assessment() -> Assessment:
    """Return a reading of "We call it bear": "it" left out, "bear" read as "bar", "um" put in."""
    return Assessment(
        grader="pronunciation",
        scores={
            "accuracy": _score(7.5),
            "fluency": _score(8.0),
            "prosodic": _score(6.0),
            "completeness": _score(9.0),
            "total": Score(7.25, 0.0, 10.0, sd=0.9),
        },
        validity=Validity(True, snr_db=31.5),
        timing=TIMING,
        receipt=RECEIPT,
        words=(
            Word(
                "we",
                0.3,
                0.52,
                score=_score(10),
                error="none",
                confidence=0.98,
                phones=(
                    Phone("W", score=_score(2, 2), ipa="w", start_s=0.3, end_s=0.4),
                    Phone("IY1", score=_score(1.8, 2), ipa="i", start_s=0.4, end_s=0.52),
                ),
            ),
            Word("call", 0.52, 0.9, score=_score(6), error="none", confidence=0.7),
            Word("it", error="omission", confidence=0.9, score=_score(0)),
            Word("um", 0.95, 1.2, error="insertion", confidence=0.6),
            Word(
                "bear",
                1.3,
                1.84,
                score=_score(3.5),
                error="mispronunciation",
                confidence=0.8,
                phones=(
                    Phone("B", score=_score(2, 2), ipa="b", start_s=1.3, end_s=1.42),
                    Phone(
                        "EH1", score=_score(0.5, 2), ipa="ɛ", start_s=1.42, end_s=1.7, heard="AA"
                    ),
                    Phone("R", score=_score(1.9, 2), ipa="ɹ", start_s=1.7, end_s=1.84, heard="R"),
                ),
            ),
        ),
    )


def refused() -> Assessment:
    """Return the result of a recording without speech."""
    return Assessment("pronunciation", {}, Validity(False, ("no_speech",)), TIMING, RECEIPT)


def labelled(label: int, value: float, most: float = 10.0) -> Score:
    """Return a score whose likeliest label is this one."""
    shares = {name: 0.8 if i == label else 0.05 for i, name in enumerate(LABELS)}
    return Score(value, 0.0, most, probabilities=shares)


def labelled_word(text: str, label: int, value: float, *phones: tuple[str, int, float]) -> Word:
    """Return a word as the multi-granular grader gives it; phones are (name, label, value)."""
    return Word(
        text,
        label=LABELS[label],
        scores={"accuracy": labelled(label, value)},
        phones=tuple(Phone(p, LABELS[k], labelled(k, v, 2.0)) for p, k, v in phones),
    )


def write_results(path: Path, rows: Iterable[Row]) -> Path:
    """Write what a batch writes of its recordings."""
    path.write_text("".join(row.to_line() for row in rows))
    return path
