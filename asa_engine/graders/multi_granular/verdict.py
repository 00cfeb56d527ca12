"""The multi-granular verdict (system S5): labels of sentence, words and phones, as lines of text.

    Accuracy: Good
    Fluency: Excellent
    Prosody: Good
    Words: WE/Excellent CALL/Good
    Phonemes: W/Excellent IY0/Excellent K/Good ...

and a rationale in natural language, which is not supervised. Bins are those of the authors' code
for speechocean762; the words' are ours.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["LABELS", "Verdict", "changed_once", "parse", "render", "verdict_of"]

LABELS = ("Worst", "Bad", "Average", "Good", "Excellent")
SENTENCE_CUTS = (3.0, 5.0, 7.0, 9.0)
WORD_CUTS = (2.0, 4.0, 7.0, 10.0)
PHONE_CUTS = (0.6, 1.0, 1.6, 2.0)
GRAINS = ("accuracy", "fluency", "prosody", "word", "phone")
_SENTENCE_LINES = ("Accuracy", "Fluency", "Prosody")
_LIST_LINES = ("Words", "Phonemes")
# Scores are written with one decimal; sums of floats must not fall below a cut.
_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class Verdict:
    """Labels 0 (Worst) to 4 (Excellent).

    Attributes:
        accuracy: Of the sentence.
        fluency: Of the sentence.
        prosody: Of the sentence.
        words: (text, label) of each word, in order.
        phones: (ARPAbet phone, label) of each phone, in order.
        rationale: Why, in natural language; may be empty.
    """

    accuracy: int
    fluency: int
    prosody: int
    words: tuple[tuple[str, int], ...]
    phones: tuple[tuple[str, int], ...]
    rationale: str = ""


def label_of(score: float, cuts: Sequence[float]) -> int:
    """Return the label that a score falls in: how many cuts it reaches."""
    return sum(score + _EPSILON >= cut for cut in cuts)


def verdict_of(scores: Mapping[str, float], words: Sequence[Mapping[str, Any]]) -> Verdict:
    """Return the verdict that the experts' scores make.

    Args:
        scores: `accuracy`, `fluency` and `prosodic`, 0 to 10.
        words: As in speechocean762's manifest: `text`, `accuracy` 0 to 10, and `phones` with
            `phone` and `accuracy` 0 to 2.

    Raises:
        ValueError: Something is missing or of the wrong kind.
    """
    try:
        return Verdict(
            accuracy=label_of(scores["accuracy"], SENTENCE_CUTS),
            fluency=label_of(scores["fluency"], SENTENCE_CUTS),
            prosody=label_of(scores["prosodic"], SENTENCE_CUTS),
            words=tuple(
                (str(word["text"]), label_of(word["accuracy"], WORD_CUTS)) for word in words
            ),
            phones=tuple(
                (str(phone["phone"]), label_of(phone["accuracy"], PHONE_CUTS))
                for word in words
                for phone in word["phones"]
            ),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"no verdict can be made of this recording: {error!r}") from None


def render(verdict: Verdict) -> str:
    """Return a verdict as text, without a line end after its last line."""
    sentence = (verdict.accuracy, verdict.fluency, verdict.prosody)
    lines = [
        f"{name}: {LABELS[label]}" for name, label in zip(_SENTENCE_LINES, sentence, strict=True)
    ]
    for name, items in zip(_LIST_LINES, (verdict.words, verdict.phones), strict=True):
        lines.append(f"{name}: " + " ".join(f"{text}/{LABELS[label]}" for text, label in items))
    return "\n".join([*lines, verdict.rationale] if verdict.rationale else lines)


def parse(text: str, words: Sequence[str], phones: Sequence[str]) -> Verdict:
    """Read a verdict back.

    Args:
        text: As `render` writes it; what follows the fifth line is the rationale.
        words: The words that it must be about, in order.
        phones: The phones.

    Raises:
        ValueError: A line is missing or out of order, a label is unknown, or the words or phones
            are not those asked for; the message says which.
    """
    lines = text.split("\n", 5)
    names = (*_SENTENCE_LINES, *_LIST_LINES)
    if len(lines) < len(names):
        raise ValueError(f"a verdict has {len(names)} lines, this has {len(lines)}")
    values = []
    for line, name in zip(lines, names, strict=False):
        if not line.startswith(f"{name}: "):
            raise ValueError(f"{line[:40]!r} stands where {name!r} should")
        values.append(line.removeprefix(f"{name}: "))
    accuracy, fluency, prosody = (_label(value) for value in values[:3])
    return Verdict(
        accuracy,
        fluency,
        prosody,
        words=_items(values[3], words, "words"),
        phones=_items(values[4], phones, "phones"),
        rationale=lines[5].strip() if len(lines) > 5 else "",
    )


def changed_once(verdict: Verdict, grain: str, chance: random.Random) -> Verdict:
    """Return the verdict with exactly one label changed: the rejected response of a pair.

    Args:
        verdict: What the experts say.
        grain: `accuracy`, `fluency`, `prosody`, `word` or `phone`.
        chance: Chooses which word or phone, and which other label.

    Raises:
        ValueError: There is no such grain, or the verdict has no such item.
    """
    if grain not in GRAINS:
        raise ValueError(f"there is no grain {grain!r}: it is one of {', '.join(GRAINS)}")
    if grain in ("accuracy", "fluency", "prosody"):
        sentence: dict[str, Any] = {grain: _other(getattr(verdict, grain), chance)}
        return dataclasses.replace(verdict, **sentence)
    field = f"{grain}s"
    items = list(getattr(verdict, field))
    if not items:
        raise ValueError(f"the verdict has no {field}")
    at = chance.randrange(len(items))
    items[at] = (items[at][0], _other(items[at][1], chance))
    changed: dict[str, Any] = {field: tuple(items)}
    return dataclasses.replace(verdict, **changed)


def _other(label: int, chance: random.Random) -> int:
    return chance.choice([other for other in range(len(LABELS)) if other != label])


def _label(name: str) -> int:
    if name not in LABELS:
        raise ValueError(f"{name[:40]!r} is no label: it is one of {', '.join(LABELS)}")
    return LABELS.index(name)


def _items(line: str, wanted: Sequence[str], what: str) -> tuple[tuple[str, int], ...]:
    pairs = [item.rpartition("/") for item in line.split(" ")] if line else []
    if [text for text, _, _ in pairs] != list(wanted):
        raise ValueError(f"the {what} are not those that were to be judged")
    return tuple((text, _label(name)) for text, _, name in pairs)
