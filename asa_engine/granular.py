"""How well words, phones and rationales agree: with the experts, and a rationale with its labels.

Plausibility: does the sentiment of what a rationale says of the whole sentence agree with the
labels that the grader itself gave the sentence? Faithfulness: does what a rationale says of the
words and phones that it mentions agree with their labels, the grader's own and the experts'?
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from asa_engine.assessment import Assessment, Score, Word
from asa_engine.manifest import Utterance
from asa_engine.metrics import pcc, rmse

__all__ = ["GranularTally", "polarity_of", "sentiment"]

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
# Labels of five levels and of experts' scores: below the third is poor, the third is average.
_WORD_CUTS, _PHONE_CUTS = (4.0, 7.0), (1.0, 1.6)
_EPSILON = 1e-6


def sentiment(text: str) -> float:
    """Return (praise - blame) / (praise + blame) of the opinions in a text; 0 without any.

    A word after "not", "no", "never" or "without" counts as its opposite.
    """
    found = [polarity for _, polarity in _opinions(text)]
    praise, blame = found.count(1), found.count(-1)
    return (praise - blame) / (praise + blame) if praise or blame else 0.0


def polarity_of(text: str) -> int | None:
    """Return the polarity of the first opinion in a text, -1, 0 or 1; `None` without any."""
    return next((polarity for _, polarity in _opinions(text)), None)


class GranularTally:
    """Collects scored recordings; `to_dict` says how far they agree."""

    def __init__(self) -> None:
        self._pairs: dict[str, list[tuple[float, float, int, bool]]] = {"words": [], "phones": []}
        self._judged = {"words": 0, "phones": 0}
        self._plausible: list[bool] = []
        self._mentions: dict[str, list[tuple[bool, bool]]] = {"words": [], "phones": []}
        self._rationales = 0

    def add(self, utterance: Utterance, result: Assessment) -> None:
        """Take one recording; one without labelled words adds nothing."""
        experts = utterance.extra.get("words")
        words = result.words
        if not words or words[0].label is None or not isinstance(experts, list):
            return
        expected = experts if _same_words(words, experts) else [None] * len(words)
        for word, truth in zip(words, expected, strict=True):
            self._add_word(word, truth)
        if result.rationale is not None:
            self._add_rationale(result, expected)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; empty where no recording had labelled words."""
        if not self._judged["words"]:
            return {}
        found: dict[str, Any] = {name: self._agreement(name) for name in self._pairs}
        if self._rationales:
            found["rationales"] = {
                "n": self._rationales,
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
        return found

    def _agreement(self, name: str) -> dict[str, Any]:
        pairs = self._pairs[name]
        said, wanted, labels = (np.array([pair[i] for pair in pairs]) for i in range(3))
        return {
            "n": len(pairs),
            "judged": self._judged[name],
            "pcc": _number(pcc(said, wanted)) if pairs else None,
            "pcc_of_labels": _number(pcc(labels, wanted)) if pairs else None,
            "rmse": _number(rmse(said, wanted)) if pairs else None,
            "polarity_agreement": _share([pair[3] for pair in pairs]),
        }

    def _add_word(self, word: Word, truth: Mapping[str, Any] | None) -> None:
        self._judged["words"] += 1
        self._judged["phones"] += len(word.phones)
        if truth is None:
            return
        score = word.scores.get("accuracy")
        self._pair("words", score, float(truth["accuracy"]), _WORD_CUTS)
        phones = truth.get("phones") or []
        if [p.phone for p in word.phones] == [str(p["phone"]).rstrip("012") for p in phones]:
            for phone, expert in zip(word.phones, phones, strict=True):
                self._pair("phones", phone.score, float(expert["accuracy"]), _PHONE_CUTS)

    def _pair(
        self, name: str, score: Score | None, truth: float, cuts: tuple[float, float]
    ) -> None:
        if score is None:
            return
        label = _label(score)
        agrees = _polarity_of_label(label) == _polarity_of_score(truth, cuts)
        self._pairs[name].append((score.value, truth, label, agrees))

    def _add_rationale(
        self, result: Assessment, expected: Sequence[Mapping[str, Any] | None]
    ) -> None:
        self._rationales += 1
        whole = []
        by_text: dict[str, list[int]] = {}
        for index, word in enumerate(result.words):
            by_text.setdefault(word.text, []).append(index)
        for part in re.split(r"(?<=[.!?])\s+", result.rationale or ""):
            mention = next((m for m in _QUOTED.finditer(part) if m[1].lower() in by_text), None)
            if mention is None:
                whole.append(part)
                continue
            about, _, sounds = part[mention.end() :].partition(":")
            indices = by_text[mention[1].lower()]
            if (polarity := polarity_of(about)) is not None:
                self._mentions["words"].append(
                    (
                        any(
                            _own(result.words[i].scores.get("accuracy")) == polarity
                            for i in indices
                        ),
                        any(
                            _polarity_of_score(float(truth["accuracy"]), _WORD_CUTS) == polarity
                            for i in indices
                            if (truth := expected[i]) is not None
                        ),
                    )
                )
            self._add_phones(sounds, [(result.words[i], expected[i]) for i in indices])
        own = np.mean([_label(score) for score in result.scores.values()]) - 2
        self._plausible.append(np.sign(sentiment(" ".join(whole))) == np.sign(own))

    def _add_phones(
        self, sounds: str, words: Sequence[tuple[Word, Mapping[str, Any] | None]]
    ) -> None:
        for mention in _PHONE.finditer(sounds):
            polarity = polarity_of(sounds[mention.end() :])
            own = [p for word, _ in words for p in word.phones if p.phone == mention[0]]
            if polarity is None or not own:
                continue
            experts = [
                _polarity_of_score(float(phone["accuracy"]), _PHONE_CUTS)
                for _, truth in words
                if truth is not None
                for phone in truth.get("phones") or []
                if str(phone["phone"]).rstrip("012") == mention[0]
            ]
            self._mentions["phones"].append(
                (any(_own(phone.score) == polarity for phone in own), polarity in experts)
            )


def _opinions(text: str) -> Iterator[tuple[str, int]]:
    negated = False
    for term in _TERM.findall(text.lower()):
        if (polarity := _OPINIONS.get(term)) is not None:
            yield term, -polarity if negated else polarity
        negated = term in _NEGATIONS


def _same_words(words: Sequence[Word], experts: Sequence[Any]) -> bool:
    try:
        return [word.text for word in words] == [str(e["text"]).lower() for e in experts]
    except (KeyError, TypeError):
        return False


def _label(score: Score) -> int:
    """Return the index of the likeliest label."""
    shares = list((score.probabilities or {}).values())
    return int(np.argmax(shares)) if shares else 0


def _own(score: Score | None) -> int | None:
    return None if score is None else _polarity_of_label(_label(score))


def _polarity_of_label(label: int) -> int:
    return int(np.sign(label - 2))


def _polarity_of_score(score: float, cuts: tuple[float, float]) -> int:
    return sum(score + _EPSILON >= cut for cut in cuts) - 1


def _share(values: Sequence[bool]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
