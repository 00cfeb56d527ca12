"""When a language model may read speech, if a prior over the whole of it is one of its tokens.

The prior depends on all the audio, so a grader trained with it in front ([prior][speech][end])
has no exact state before the speech ends. Three ways, of which a grader declares one:

- `deferred`: nothing is run before the end. Exact.
- `speculative`: the speech is run behind a provisional prior, and run again whenever the prior has
  moved by more than `tolerance`. Approximate by what a prior inside the tolerance changes; exact
  with a tolerance of zero.
- `late`: for a grader trained with the prior behind the speech ([speech][prior][end]); everything
  is run as it comes. Exact.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from asa_engine.language_model.base import CausalModel, CausalSequence

__all__ = ["MODES", "PriorReading", "prior_distance"]

MODES: Final = ("deferred", "speculative", "late")


def prior_distance(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """Return the total variation distance of two distributions [K], from 0 to 1."""
    return float(np.abs(p - q).sum() / 2)


class PriorReading:
    """One session in front of a language model.

    Args:
        decoder: The language model.
        embeddings: The prior's levels as embeddings, float32 [K, W]: a prior p is the token p E.
        end: Embeddings of what stands last, float32 [S, W], S at least 1.
        mode: One of `MODES`.
        capacity: Most positions of the whole sequence.
        tolerance: For `speculative`: the distance from which on the speech is run again.
        beginning: For `late`: keys and values of what stands before all speech, as
            `Decoder.resume` takes them.

    Attributes:
        rows_run: Positions run so far, those of passes that were thrown away included.
        restarts: How often the speech was run again.

    Raises:
        UsageError: The capacity is more than the model's positions or the memory limit.
        ValueError: There is no such mode, or a beginning in a mode that begins with the prior.
    """

    def __init__(
        self,
        decoder: CausalModel,
        embeddings: NDArray[np.float32],
        end: NDArray[np.float32],
        *,
        mode: str,
        capacity: int,
        tolerance: float = 0.0,
        beginning: NDArray[np.float32] | None = None,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}; it must be one of {MODES}")
        if beginning is not None and mode != "late":
            raise ValueError("only a late prior has a beginning that does not depend on it")
        self._embeddings = embeddings
        self._end = end
        self._mode = mode
        self._tolerance = tolerance
        decoder.check(capacity)
        self._sequence: CausalSequence = (
            decoder.start(capacity)
            if beginning is None
            else decoder.resume(beginning).fork(capacity)
        )
        self._start = self._sequence.length
        self._speech: list[NDArray[np.float32]] = []
        self._count = 0
        self._prior: NDArray[np.float64] | None = None  # the one that was run
        self.rows_run = 0
        self.restarts = 0

    @property
    def count(self) -> int:
        """Rows taken so far, to come back to with `rewind`."""
        return self._count

    def add(self, rows: NDArray[np.float32], prior: NDArray[np.float64] | None = None) -> None:
        """Take what comes next, float32 [n, W], and run it where the mode allows.

        Args:
            rows: Embeddings of speech or text.
            prior: The prior of all the audio so far, [K]; `speculative` cannot run without one.
        """
        self._count += len(rows)
        if self._mode == "late":
            self._run(rows, 0)
            return
        self._speech.append(rows)
        if self._mode == "speculative":
            if prior is not None and self._moved(prior):
                self._restart(prior)
            elif self._prior is not None:
                self._run(rows, 0)

    def rewind(self, count: int) -> None:
        """Forget the rows taken after the first `count`."""
        if not 0 <= count <= self._count:
            raise ValueError(f"cannot rewind {self._count} rows to {count}")
        self._count = count
        if self._mode != "late":
            self._speech = [np.concatenate(self._speech)[:count]] if self._speech else []
        ran = self._start + count + (self._prior is not None)
        self._sequence.rewind(min(ran, self._sequence.length))

    def answer(
        self, prior: NDArray[np.float64], rest: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return the hidden state [W] that the answer is read from, were this all; go on after it.

        Args:
            prior: The prior of all the audio, [K].
            rest: What else stands before the end, float32 [n, W].
        """
        tail = [] if rest is None else [rest]
        if self._mode == "late":
            tail.append(self._token(prior))
        elif self._moved(prior):
            self._restart(prior)
        length = self._sequence.length
        hidden: NDArray[np.float32] = self._run(np.concatenate([*tail, self._end]), 1)[-1]
        if self._mode == "deferred":
            length, self._prior = 0, None
        self._sequence.rewind(length)
        return hidden

    def _moved(self, prior: NDArray[np.float64]) -> bool:
        if self._prior is None:
            return True
        return prior_distance(prior, self._prior) > self._tolerance

    def _restart(self, prior: NDArray[np.float64]) -> None:
        self.restarts += self._prior is not None
        self._prior = prior.copy()
        self._sequence.rewind(0)
        self._run(np.concatenate([self._token(prior), *self._speech]), 0)

    def _token(self, prior: NDArray[np.float64]) -> NDArray[np.float32]:
        token: NDArray[np.float32] = np.asarray(prior @ self._embeddings, np.float32)
        return token[np.newaxis]

    def _run(self, rows: NDArray[np.float32], wanted: int) -> NDArray[np.float32]:
        self.rows_run += len(rows)
        return self._sequence.extend(rows, wanted)
