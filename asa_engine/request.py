"""What a grader may be told beside the audio: the text that was read, the task that was set."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from asa_engine.errors import UsageError

__all__ = ["MAX_CHARACTERS", "Request"]

MAX_CHARACTERS = 20_000
_ALLOWED_CONTROLS = "\t\n\r"


@dataclass(frozen=True, slots=True)
class Request:
    """One request's texts, bounded and free of control characters.

    Attributes:
        text: What the learner read, or was meant to say.
        prompt: The task: what the learner was asked.

    Raises:
        UsageError: One is no text, is longer than `MAX_CHARACTERS`, or holds control characters.
    """

    text: str | None = None
    prompt: str | None = None

    def __post_init__(self) -> None:
        """Check both texts."""
        for name in ("text", "prompt"):
            _check(name, getattr(self, name))

    def given(self) -> tuple[str, ...]:
        """Return the names of the texts that are there."""
        return tuple(name for name in ("text", "prompt") if getattr(self, name) is not None)


def _check(name: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise UsageError(f"the {name} must be text, not {type(value).__name__}")
    if len(value) > MAX_CHARACTERS:
        raise UsageError(
            f"the {name} has {len(value)} characters; at most {MAX_CHARACTERS} are taken",
            hint=f"shorten the {name}",
        )
    for character in value:
        # Cc: control characters; Cs: halves of surrogate pairs, which are no characters.
        if unicodedata.category(character) in ("Cc", "Cs") and character not in _ALLOWED_CONTROLS:
            raise UsageError(
                f"the {name} holds the control character U+{ord(character):04X}",
                hint="remove it",
            )
