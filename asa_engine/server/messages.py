"""What a recording that is being scored says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from asa_engine.assessment import Assessment
from asa_engine.audio.validity import Validity
from asa_engine.errors import AsaError

__all__ = ["Heard", "Message", "Piece", "Provisional"]


@dataclass(frozen=True, slots=True)
class Provisional:
    """Scores of the windows closed so far.

    Attributes:
        scores: Score name -> JSON values of the score.
        windows: How many windows they stand on.
        words: JSON values of the words passed so far, from graders that follow a text.
    """

    scores: dict[str, dict[str, Any]]
    windows: int
    words: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of the rationale, as it is written after the end of the speech."""

    text: str


@dataclass(frozen=True, slots=True)
class Heard:
    """A response of a session that has ended.

    Attributes:
        part: Which part it belongs to.
        validity: Whether it could be judged.
    """

    part: str
    validity: Validity


Message: TypeAlias = Provisional | Piece | Heard | Assessment | AsaError | None
"""What a job says; an Assessment, an error or `None` (the client is gone) is the last thing."""
