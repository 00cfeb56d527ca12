"""What several forms say of a score."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from asa_engine.assessment import Score, Word

__all__ = ["MAIN_SCORES", "main_score", "share", "word_score"]

MAIN_SCORES: Final = ("total", "overall")
"""Of several scores, what sums up the others."""


def share(score: Score | None) -> float | None:
    """Return where on its scale a score lies, 0 to 1."""
    if score is None:
        return None
    width = score.scale_max - score.scale_min
    return min(max((score.value - score.scale_min) / width, 0.0), 1.0) if width > 0 else None


def word_score(word: Word) -> Score | None:
    """Return a word's score: its only one, or that of its accuracy, or the first."""
    if word.score is not None:
        return word.score
    return word.scores.get("accuracy") or next(iter(word.scores.values()), None)


def main_score(names: Iterable[str]) -> str:
    """Return the score that sums up the others, or else the first; there is at least one."""
    return min(names, key=lambda name: name not in MAIN_SCORES)
