"""What a language model may write: forced tokens, choices, free text, in order.

A walk through such a script is a state machine that knows nothing of models: it says which tokens
may come next and is told which one did. Tokens that are the only possible ones come at
once, so that nobody asks a model for them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Choice", "Forced", "Free", "Segment", "Walk"]

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Forced:
    """Tokens that come whatever the model thinks."""

    ids: Ids


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several token sequences.

    Attributes:
        options: Two or more, none of them empty or the beginning of another.
    """

    options: tuple[Ids, ...]

    def __post_init__(self) -> None:
        ordered = sorted(self.options)
        clash = any(after[: len(before)] == before for before, after in itertools.pairwise(ordered))
        if len(ordered) < 2 or not ordered[0] or clash:
            raise ValueError("options are two or more, none empty or another's beginning")


@dataclass(frozen=True, slots=True)
class Free:
    """Any tokens but the banned ones, up to an end token.

    Attributes:
        end_ids: Tokens that end it.
        most: Most tokens, the end token not counted.
        banned_ids: Tokens that may not come, such as control tokens.
    """

    end_ids: Ids
    most: int
    banned_ids: Ids = ()


Segment = Forced | Choice | Free


class Walk:
    """One walk through a script.

    Args:
        script: The segments, in order.

    Attributes:
        chosen: Index of the option taken at each choice so far.
        written: Tokens of the free text so far, all free segments together, ends left out.
    """

    def __init__(self, script: Sequence[Segment]) -> None:
        self._script = script
        self._at = 0
        self._taken: list[int] = []  # of the segment at hand
        self.chosen: list[int] = []
        self.written: list[int] = []

    @property
    def done(self) -> bool:
        """Whether the script is at its end."""
        return self._at == len(self._script)

    @property
    def free(self) -> bool:
        """Whether any token but `banned` may come next."""
        return not self.done and isinstance(self._script[self._at], Free)

    @property
    def banned(self) -> Ids:
        """Tokens that may not come next in free text."""
        segment = None if self.done else self._script[self._at]
        return segment.banned_ids if isinstance(segment, Free) else ()

    def allowed(self) -> Ids:
        """Return the tokens that may come next, ascending; none in free text and at the end."""
        if self.done:
            return ()
        segment = self._script[self._at]
        if isinstance(segment, Forced):
            return segment.ids[len(self._taken) :][:1]
        if isinstance(segment, Choice):
            return tuple(sorted({option[len(self._taken)] for option in self._open(segment)}))
        return ()

    def skip(self) -> Ids:
        """Take every token that is the only possible one; return them."""
        taken: list[int] = []
        while True:
            self._leave_empty()
            possible = self.allowed()
            if len(possible) != 1:
                return tuple(taken)
            self.take(possible[0])
            taken.append(possible[0])

    def take(self, token: int) -> None:
        """Go on by one token.

        Raises:
            ValueError: It may not come here.
        """
        self._leave_empty()
        segment = None if self.done else self._script[self._at]
        if isinstance(segment, Free):
            self._take_free(segment, token)
            return
        if segment is None or token not in self.allowed():
            raise ValueError(f"token {token} may not come here")
        self._taken.append(token)
        taken = tuple(self._taken)
        if isinstance(segment, Choice) and taken in segment.options:
            self.chosen.append(segment.options.index(taken))
            self._leave()
        elif isinstance(segment, Forced) and taken == segment.ids:
            self._leave()

    def _take_free(self, segment: Free, token: int) -> None:
        if token in segment.end_ids:
            self._leave()
            return
        if token in segment.banned_ids:
            raise ValueError(f"token {token} may not come here")
        self._taken.append(token)
        self.written.append(token)
        if len(self._taken) == segment.most:
            self._leave()

    def _open(self, choice: Choice) -> list[Ids]:
        taken = tuple(self._taken)
        return [option for option in choice.options if option[: len(taken)] == taken]

    def _leave(self) -> None:
        self._at += 1
        self._taken = []

    def _leave_empty(self) -> None:
        """Pass segments that hold nothing."""
        while not self.done:
            segment = self._script[self._at]
            empty = isinstance(segment, Forced) and not segment.ids
            if not empty and not (isinstance(segment, Free) and segment.most < 1):
                return
            self._leave()
