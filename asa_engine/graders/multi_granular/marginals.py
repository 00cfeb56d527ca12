"""Labels that stand behind other labels, judged whatever those are.

Fluency is written behind accuracy, prosody behind both. What the language model says of them
behind the likeliest labels alone jumps where two labels before are about as likely. So every label
before is tried and the answers are averaged, each weighted by how likely that beginning is:

    p(f) = sum_a p(a) p(f | a)
    p(s) = sum_a sum_f p(a) p(f | a) p(s | a, f)

Each beginning is run behind the same positions, which are then forgotten: nothing is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from asa_engine.graders.multi_granular.stages import Reading
from asa_engine.language_model.decoding import Vocabulary
from asa_engine.language_model.grammar import Choice, Forced, Segment

__all__ = ["LEAST_SHARE", "marginals", "shares_of"]

LEAST_SHARE: Final = 0.002
"""Probability at which a beginning is left out: of at most 25, few are above it."""

Array = NDArray[np.float32]
Shares = NDArray[np.float64]


def marginals(
    reading: Reading,
    vocabulary: Vocabulary,
    hidden: Array,
    script: Sequence[Segment],
    *,
    least: float = LEAST_SHARE,
) -> list[Shares]:
    """Return the probabilities of each choice's options, whatever was chosen before it.

    A beginning counts by its probability less `least`, so that none comes or goes with a jump: a
    score is as steady as the probabilities are. At `least` 0 the sums are exact.

    Args:
        reading: What stands before the first choice, already run; it is left as it was.
        vocabulary: Of the same model.
        hidden: Hidden state [W] of the last position of `reading`.
        script: Choices, with forced texts between them; the first token of an option tells it
            from the others.
        least: Probability of a beginning at and below which it is left out.
    """
    choices = [segment for segment in script if isinstance(segment, Choice)]
    between = [segment.ids for segment in script if isinstance(segment, Forced)]
    summed = [np.zeros(len(choice.options)) for choice in choices]

    def visit(at: int, hidden: Array, weight: float) -> None:
        options = choices[at].options
        shares = shares_of(vocabulary.some(hidden, tuple(option[0] for option in options)))
        summed[at] += weight * shares
        if at + 1 == len(choices):
            return
        start = reading.length
        for option, share in zip(options, (weight * shares).tolist(), strict=True):
            if share > least:
                rows = vocabulary.embed((*option, *between[at]))
                visit(at + 1, reading.extend(rows)[-1], share - least)
                reading.rewind(start)

    visit(0, hidden, 1.0)
    return [shares / shares.sum() for shares in summed]


def shares_of(logits: Sequence[float] | Array) -> Shares:
    """Return the probabilities [n] that logits [n] stand for."""
    values = np.asarray(logits, np.float64)
    powers = np.exp(values - values.max())
    shares: Shares = powers / powers.sum()
    return shares
