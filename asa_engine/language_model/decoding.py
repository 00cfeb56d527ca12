"""Greedy decoding along a script: one pass of the model for each real decision.

Forced tokens wait until something has to be decided and then run in one pass with what stands
before the decision; labels are compared on the few rows of the vocabulary that are possible.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from asa_engine.language_model.grammar import Walk

__all__ = ["Runs", "Vocabulary", "decode"]


class Runs(Protocol):
    """A sequence of a decoder: `asa_engine.language_model.decoder.Sequence`."""

    def extend(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run new positions [n, W]; return their hidden states [n, W]."""


class Vocabulary(Protocol):
    """Tokens to embeddings, hidden states to logits."""

    def embed(self, ids: tuple[int, ...]) -> NDArray[np.float32]:
        """Return embeddings [n, W]."""

    def some(self, hidden: NDArray[np.float32], ids: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the logits [n] of some tokens."""

    def all(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits [V] of all tokens."""


def decode(
    walk: Walk, sequence: Runs, vocabulary: Vocabulary, hidden: NDArray[np.float32]
) -> Iterator[int]:
    """Write greedily along a script, handing out every token as soon as it is certain.

    The last tokens before the script's end are not run: nothing depends on them.

    Args:
        walk: Where it may go; it is moved along.
        sequence: What stands before, already run.
        vocabulary: Of the same model.
        hidden: Hidden state [W] of the last position of `sequence`.

    Yields:
        The tokens, forced ones, labels and free text alike.
    """
    waiting: list[int] = []
    while True:
        forced = walk.skip()
        waiting += forced
        yield from forced
        if walk.done:
            return
        if waiting:
            hidden = sequence.extend(vocabulary.embed(tuple(waiting)))[-1]
        if walk.free:
            logits = vocabulary.all(hidden).copy()
            logits[list(walk.banned)] = -np.inf
            token = int(logits.argmax())
        else:
            allowed = walk.allowed()
            token = allowed[int(vocabulary.some(hidden, allowed).argmax())]
        walk.take(token)
        waiting = [token]
        yield token
