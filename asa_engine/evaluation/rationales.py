"""How well a rationale agrees with labels: the grader's own and the experts'.

Plausibility: does the sentiment of what a rationale says of the whole sentence agree with the
labels that the grader itself gave the sentence? Faithfulness: does what a rationale says of the
words and phones that it mentions agree with their labels, the grader's own and the experts'?
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from asa_engine.assessment import Assessment, Word
from asa_engine.evaluation.words import ExpertWord, expert_polarity, place, polarity

__all__ = ["RationaleTally", "polarity_of", "sentiment"]

_OPINIONS: Mapping[str, int] = {
    **dict.fromkeys(("excellent", "good", "clear", "well", "great", "accurate", "correct"), 1),
    **dict.fromkeys(("fluent", "natural", "smooth", "precise", "perfect", "strong"), 1),
    **dict.fromkeys(("average", "fair", "acceptable", "moderate"), 0),
    **dict.fromkeys(("bad", "worst", "poor", "weak", "wrong", "unclear", "incorrect"), -1),
    **dict.fromkeys(("inaccurate", "mispronounced", "hesitant", "missing", "choppy"), -1),
}
_NEGATIONS = frozenset(("not", "no", "never", "without"))
_TERM = re.compile(r"[A-Za-z']+")
_QUOTED = re.compile(r'"([^"]+)"')
_PHONE = re.compile(r"\b[A-Z]{1,2}\b")
ACCURACY = "accuracy"


def sentiment(text: str) -> float:
    """Return (praise - blame) / (praise + blame) of the opinions in a text; 0 without any.

    A word after "not", "no", "never" or "without" counts as its opposite.
    """
    polarities = [polarity for _, polarity in _opinions(text)]
    praise, blame = polarities.count(1), polarities.count(-1)
    return (praise - blame) / (praise + blame) if praise or blame else 0.0


def polarity_of(text: str) -> int | None:
    """Return the polarity of the first opinion in a text, -1, 0 or 1; `None` without any."""
    return next((polarity for _, polarity in _opinions(text)), None)


class RationaleTally:
    """Collects rationales; `to_dict` says how far they agree with labels."""

    def __init__(self) -> None:
        self._plausible: list[bool] = []
        self._mentions: dict[str, list[tuple[bool, bool]]] = {"words": [], "phones": []}

    def add(
        self, result: Assessment, pairs: Sequence[tuple[Word | None, ExpertWord | None]]
    ) -> None:
        """Take one result and its words beside the experts'; without a rationale, do nothing."""
        if result.rationale is None:
            return
        by_text: dict[str, list[tuple[Word, ExpertWord | None]]] = {}
        for word, expert in pairs:
            if word is not None:
                by_text.setdefault(word.text.lower(), []).append((word, expert))
        whole = []
        for part in re.split(r"(?<=[.!?])\s+", result.rationale):
            mention = next((m for m in _QUOTED.finditer(part) if m[1].lower() in by_text), None)
            if mention is None:
                whole.append(part)
                continue
            about, _, sounds = part[mention.end() :].partition(":")
            mentioned = by_text[mention[1].lower()]
            self._add_word(about, mentioned)
            self._add_phones(sounds, mentioned)
        own = [value for score in result.scores.values() if (value := place(score)) is not None]
        if own:
            self._plausible.append(np.sign(sentiment(" ".join(whole))) == np.sign(np.mean(own)))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; empty where no recording had a rationale."""
        if not self._plausible:
            return {}
        return {
            "n": len(self._plausible),
            "plausibility": _share(self._plausible),
            "faithfulness": {
                name: {
                    "mentions": len(pairs),
                    "own_labels": _share([own for own, _ in pairs]),
                    "experts": _share([expert for _, expert in pairs]),
                }
                for name, pairs in self._mentions.items()
            },
        }

    def _add_word(self, about: str, words: Sequence[tuple[Word, ExpertWord | None]]) -> None:
        if (opinion := polarity_of(about)) is None:
            return
        own = [polarity(word.scores.get(ACCURACY)) for word, _ in words]
        experts = [
            expert_polarity("words", expert.scores[ACCURACY])
            for _, expert in words
            if expert is not None and ACCURACY in expert.scores
        ]
        self._mentions["words"].append((opinion in own, opinion in experts))

    def _add_phones(self, sounds: str, words: Sequence[tuple[Word, ExpertWord | None]]) -> None:
        for mention in _PHONE.finditer(sounds):
            opinion = polarity_of(sounds[mention.end() :])
            own = [p for word, _ in words for p in word.phones if p.phone == mention[0]]
            if opinion is None or not own:
                continue
            experts = [
                expert_polarity("phones", phone.scores[ACCURACY])
                for _, expert in words
                if expert is not None
                for phone in expert.phones
                if phone.phone == mention[0] and ACCURACY in phone.scores
            ]
            self._mentions["phones"].append(
                (opinion in [polarity(phone.score) for phone in own], opinion in experts)
            )


def _opinions(text: str) -> Iterator[tuple[str, int]]:
    negated = False
    for term in _TERM.findall(text.lower()):
        if (polarity := _OPINIONS.get(term)) is not None:
            yield term, -polarity if negated else polarity
        negated = term in _NEGATIONS


def _share(values: Sequence[bool]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None
