"""How well a grader's words and phones agree with the experts', by whatever labels there are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from asa_engine.assessment import WORD_ERRORS, Score, Word
from asa_engine.errors import ManifestError
from asa_engine.evaluation.manifest import Utterance, is_number
from asa_engine.evaluation.metrics import METRICS, classification, confusion, defined, metrics, pcc

__all__ = [
    "ExpertPhone",
    "ExpertWord",
    "WordTally",
    "expert_polarity",
    "expert_words",
    "pair_words",
    "place",
    "polarity",
]

LABELS = ("accuracy", "score", "total", "stress")
"""Experts' labels that one score of a word or phone is compared with; the first known leads."""
_NO_ERROR = WORD_ERRORS[0]
_EXTRA = ("insertion", "repetition")
# speechocean762's accuracies, 0 to 10 and 0 to 2: below the first cut is poor, the second average.
_CUTS = {"words": (4.0, 7.0), "phones": (1.0, 1.6)}
_EPSILON = 1e-6
_DIGITS = 4


@dataclass(frozen=True, slots=True)
class ExpertPhone:
    """A phone as the experts judge it: its symbol without stress, and label -> value."""

    phone: str
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExpertWord:
    """A word as the experts judge it.

    Attributes:
        text: The word.
        scores: Label -> value; empty where the experts scored phones or whole recordings alone.
        error: One of `WORD_ERRORS`; `None` where errors are not marked.
        phones: Its phones; empty where the manifest names none.
    """

    text: str
    scores: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    phones: tuple[ExpertPhone, ...] = ()


def expert_words(utterance: Utterance) -> tuple[ExpertWord, ...]:
    """Return the words of a manifest's line; none where it has none.

    An entry is an object with a `text`, without which it has no counterpart, numbers of any name,
    an `error`, and `phones`: symbols, or objects with a `phone` and numbers of any name.

    Raises:
        ManifestError: They are malformed; the message names the utterance and the entry.
    """
    entries = utterance.extra.get("words")
    if entries is None:
        return ()
    where = f"{utterance.id}: words"
    if not isinstance(entries, list):
        raise ManifestError(f"{where} is not a list")
    return tuple(_word(entry, f"{where}[{i}]") for i, entry in enumerate(entries))


def _word(entry: object, where: str) -> ExpertWord:
    if not isinstance(entry, dict) or not isinstance(entry.get("text", ""), str):
        raise ManifestError(f"{where} is not an object whose text is a string")
    error = entry.get("error")
    if error is not None:
        error = str(error).casefold()
        if error not in WORD_ERRORS:
            raise ManifestError(
                f"{where}: there is no error {error!r}", hint=f"errors are {', '.join(WORD_ERRORS)}"
            )
    phones = entry.get("phones") or []
    if not isinstance(phones, list):
        raise ManifestError(f"{where}.phones is not a list")
    return ExpertWord(
        entry.get("text", ""),
        _scores(entry, where),
        error,
        tuple(_phone(phone, f"{where}.phones[{i}]") for i, phone in enumerate(phones)),
    )


def _phone(entry: object, where: str) -> ExpertPhone:
    fields = {"phone": entry} if isinstance(entry, str) else entry
    if not isinstance(fields, dict) or not isinstance(fields.get("phone"), str):
        raise ManifestError(f"{where} is neither a symbol nor an object with a phone")
    return ExpertPhone(_symbol(fields["phone"]), _scores(fields, where))


def _scores(entry: Mapping[str, Any], where: str) -> dict[str, float]:
    for name in LABELS:
        if entry.get(name) is not None and not is_number(entry[name]):
            raise ManifestError(f"{where}.{name} is not a finite number")
    return {str(name): float(value) for name, value in entry.items() if is_number(value)}


def _symbol(phone: str) -> str:
    return phone.upper().rstrip("012")


Pair = tuple[Word | None, ExpertWord | None]


def pair_words(words: Sequence[Word], experts: Sequence[ExpertWord]) -> list[Pair]:
    """Return each word beside the expert's; `None` where one has no counterpart.

    Words of the text are paired by what they say, in order; case, and punctuation around a word, do
    not tell them apart. Insertions and repetitions are paired by the word that they come after,
    whatever they say, and stand behind the others.
    """
    read, marked = _read(words), _read(experts)
    ours, theirs = (_plain(words[i].text) for i in read), (_plain(experts[j].text) for j in marked)
    matcher = SequenceMatcher(None, list(ours), list(theirs), autojunk=False)
    pairs: list[Pair] = []
    places: dict[int, int] = {}  # of a paired word -> of its expert's
    i = j = 0
    for block in matcher.get_matching_blocks():
        pairs += [(words[k], None) for k in read[i : block.a]]
        pairs += [(None, experts[k]) for k in marked[j : block.b]]
        i, j = block.a + block.size, block.b + block.size
        matched = list(zip(read[block.a : i], marked[block.b : j], strict=True))
        places.update(matched)
        pairs += [(words[k], experts[m]) for k, m in matched]
    return [*pairs, *_pair_extras(words, experts, places)]


def _pair_extras(
    words: Sequence[Word], experts: Sequence[ExpertWord], places: Mapping[int, int]
) -> Iterator[Pair]:
    extras: dict[int, list[ExpertWord]] = {}  # after which paired word of the experts'
    after = -1
    paired = set(places.values())
    for j, expert in enumerate(experts):
        after = j if j in paired else after
        if expert.error in _EXTRA:
            extras.setdefault(after, []).append(expert)
    after = -1
    for i, word in enumerate(words):
        after = places.get(i, after)
        if word.error in _EXTRA:
            yield word, extras[after].pop(0) if extras.get(after) else None
    yield from ((None, expert) for group in extras.values() for expert in group)


def _read(words: Sequence[Word | ExpertWord]) -> list[int]:
    """Return which words are of the text, and not beside it."""
    return [i for i, word in enumerate(words) if word.error not in _EXTRA]


def _plain(text: str) -> str:
    kept = text.casefold().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    ends = [i for i, character in enumerate(kept) if character.isalnum()]
    return kept[ends[0] : ends[-1] + 1] if ends else kept


_Pairs = dict[str, list[tuple[Score, float]]]


class WordTally:
    """Collects judged words beside the experts'; `to_dict` says how far they agree."""

    def __init__(self) -> None:
        self._judged = {"words": 0, "phones": 0}
        self._pairs: dict[str, _Pairs] = {"words": {}, "phones": {}}
        self._errors: list[tuple[str, str]] = []

    def add(self, words: Sequence[Word], experts: Sequence[ExpertWord]) -> list[Pair]:
        """Take one recording's words; return them paired, or nothing if there is nothing to pair.

        Words that the grader did not judge, and recordings whose words the experts did not,
        add nothing.
        """
        if not experts or not any(w.score or w.scores or w.error for w in words):
            return []
        pairs = pair_words(words, experts)
        for word, expert in pairs:
            if word is not None:
                self._add_word(word, expert)
        if any(expert.error for expert in experts):
            self._errors += [
                ((expert and expert.error) or _NO_ERROR, (word and word.error) or _NO_ERROR)
                for word, expert in pairs
            ]
        return pairs

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; empty where nothing was judged."""
        if not self._judged["words"]:
            return {}
        values: dict[str, Any] = {name: self._agreement(name) for name in self._pairs}
        if self._errors:
            values["word_errors"] = _errors(self._errors)
        return values

    def _add_word(self, word: Word, expert: ExpertWord | None) -> None:
        self._judged["words"] += 1
        self._judged["phones"] += len(word.phones)
        if expert is None:
            return
        self._add("words", word.scores, word.score, expert.scores)
        # Other phones than the experts' are other sounds: they are judged, not compared.
        if [_symbol(phone.phone) for phone in word.phones] == [p.phone for p in expert.phones]:
            for phone, truth in zip(word.phones, expert.phones, strict=True):
                self._add("phones", {}, phone.score, truth.scores)

    def _add(
        self,
        level: str,
        scores: Mapping[str, Score],
        score: Score | None,
        expected: Mapping[str, float],
    ) -> None:
        judged = dict(scores)
        if score is not None:
            judged = {**dict.fromkeys(LABELS, score), **judged}
        for name, value in judged.items():
            if name in expected:
                self._pairs[level].setdefault(name, []).append((value, expected[name]))

    def _agreement(self, level: str) -> dict[str, Any]:
        by_label = {name: _figures(level, pairs) for name, pairs in self._pairs[level].items()}
        leading = next((name for name in (*LABELS, *by_label) if name in by_label), None)
        values = {"judged": self._judged[level]}
        if leading is None:
            return {"n": 0, **values, **dict.fromkeys(METRICS)}
        others = {name: each for name, each in by_label.items() if name != leading}
        return {
            **by_label[leading],
            **values,
            "label": leading,
            **({"other_labels": others} if others else {}),
        }


def _figures(level: str, pairs: Sequence[tuple[Score, float]]) -> dict[str, Any]:
    said = np.array([score.value for score, _ in pairs])
    wanted = np.array([value for _, value in pairs])
    values: dict[str, Any] = {"n": len(pairs), **defined(metrics(said, wanted), digits=_DIGITS)}
    labels = [label for score, _ in pairs if (label := _likeliest(score)) is not None]
    if len(labels) == len(pairs):
        agrees = [polarity(score) == expert_polarity(level, value) for score, value in pairs]
        share = float(np.mean(agrees))
        agreement = {"pcc_of_labels": pcc(labels, wanted), "polarity_agreement": share}
        values |= defined(agreement, digits=_DIGITS)
    return values


def polarity(score: Score | None) -> int | None:
    """Return whether a score's likeliest class is poor (-1), the middle one (0) or good (1).

    `None` for a score without classes.
    """
    where = None if score is None else place(score)
    return None if where is None else int(np.sign(where))


def place(score: Score) -> float | None:
    """Return by how many classes a score's likeliest is above the middle one; `None` without."""
    label = _likeliest(score)
    return None if label is None else label - (len(score.probabilities or ()) - 1) / 2


def expert_polarity(level: str, value: float) -> int:
    """Return whether an expert's value of "words" or "phones" is poor, average or good."""
    return sum(value + _EPSILON >= cut for cut in _CUTS[level]) - 1


def _likeliest(score: Score) -> int | None:
    shares = score.probabilities
    return int(np.argmax(list(shares.values()))) if shares else None


def _errors(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return how often each error was named where the experts mark it."""
    expected, said = (np.array([WORD_ERRORS.index(pair[i]) for pair in pairs]) for i in (0, 1))
    counts = confusion(said, expected, len(WORD_ERRORS))
    by_error = {}
    for index, name in enumerate(WORD_ERRORS):
        hits, marked, named = counts[index, index], counts[index].sum(), counts[:, index].sum()
        shares = {
            "precision": _share(hits, named),
            "recall": _share(hits, marked),
            "f1": _share(2 * hits, marked + named),
        }
        by_error[name] = {"n": int(marked), **defined(shares, digits=_DIGITS)}
    right = WORD_ERRORS.index(_NO_ERROR)
    alarms = _share(counts[right].sum() - counts[right, right], counts[right].sum())
    return {
        "n": len(pairs),
        **defined({**classification(counts), "false_alarms": alarms}, digits=_DIGITS),
        "classes": list(WORD_ERRORS),
        "confusion": counts.tolist(),
        "by_error": by_error,
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
