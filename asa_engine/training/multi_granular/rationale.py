"""Rationales for training, made from experts' labels: what the model learns to say is ours."""

from __future__ import annotations

from collections.abc import Sequence

from asa_engine.graders.multi_granular.plan import Spoken
from asa_engine.graders.multi_granular.verdict import LABELS, Verdict

__all__ = ["rationale_of"]

MOST_WORDS = 2
MOST_PHONES = 2
GOOD = LABELS.index("Good")
"""Words and phones below are named."""


def rationale_of(verdict: Verdict, words: Sequence[Spoken]) -> str:
    """Return a few sentences that say what a verdict's labels say.

    The sentence's labels first, then its poorest words, at most two, each with its poorest phones.

    Args:
        verdict: Labels of the sentence, these words and their phones.
        words: The words, in order.
    """
    said = [LABELS[label].lower() for label in (verdict.accuracy, verdict.fluency, verdict.prosody)]
    sentences = [f"Accuracy is {said[0]}, fluency is {said[1]} and prosody is {said[2]}."]
    poor = [(label, index) for index, (_, label) in enumerate(verdict.words) if label < GOOD]
    starts = [0]
    for word in words:
        starts.append(starts[-1] + len(word.phones))
    for label, index in sorted(poor)[:MOST_WORDS]:
        text = f'The word "{words[index].text}" is {LABELS[label].lower()}'
        phones = verdict.phones[starts[index] : starts[index + 1]]
        weak = sorted((x, at) for at, (_, x) in enumerate(phones) if x < GOOD)[:MOST_PHONES]
        if weak:
            sounds = [f"{phones[at][0]} is {LABELS[x].lower()}" for x, at in weak]
            text += f": its {' and its '.join(sounds)}"
        sentences.append(f"{text}.")
    if not poor:
        sentences.append("Every word is clear.")
    return " ".join(sentences)
