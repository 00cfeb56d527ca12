"""Agreement on words, phones and rationales, counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asa_engine.assessment import Assessment, Phone, Score, Timing, Word
from asa_engine.granular import GranularTally, polarity_of, sentiment
from asa_engine.manifest import Utterance
from asa_engine.validity import Validity

LABELS = ("Worst", "Bad", "Average", "Good", "Excellent")


def score(label: int, value: float, most: float = 10.0) -> Score:
    shares = {name: 0.8 if i == label else 0.05 for i, name in enumerate(LABELS)}
    return Score(value, 0.0, most, probabilities=shares)


def word(text: str, label: int, value: float, *phones: tuple[str, int, float]) -> Word:
    return Word(
        text,
        label=LABELS[label],
        scores={"accuracy": score(label, value)},
        phones=tuple(Phone(p, LABELS[k], score(k, v, 2.0)) for p, k, v in phones),
    )


def result(rationale: str, sentence: tuple[int, ...], *words: Word) -> Assessment:
    names = ("accuracy", "fluency", "prosodic")
    return Assessment(
        grader="multi_granular",
        scores={name: score(k, 2.0 * k) for name, k in zip(names, sentence, strict=True)},
        validity=Validity(True, (), 0.0, 0.0, 0.0, 1.0, None),
        timing=Timing(1.0, 0.0, 0.0, 0.0, None, None, 0.0, 0.0, 0.0),
        receipt={},
        words=words,
        rationale=rationale,
    )


def utterance(*words: dict[str, Any]) -> Utterance:
    return Utterance("a", Path("a.flac"), {}, extra={"words": list(words)})


def truth(text: str, accuracy: float, *phones: tuple[str, float]) -> dict[str, Any]:
    return {
        "text": text,
        "accuracy": accuracy,
        "phones": [{"phone": p, "accuracy": x} for p, x in phones],
    }


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", 0.0),
        ("It is good and clear.", 1.0),
        ("It is bad.", -1.0),
        ("It is good, but one sound is poor.", 0.0),
        ("It is not good.", -1.0),
        ("It is average.", 0.0),
    ],
)
def test_sentiment_is_praise_against_blame(text: str, wanted: float) -> None:
    assert sentiment(text) == wanted


def test_the_first_opinion_decides_a_polarity() -> None:
    assert polarity_of(" is average, not bad") == 0
    assert polarity_of(" is not clear") == -1
    assert polarity_of("nothing") is None


def test_words_and_phones_are_compared_and_counted() -> None:
    tally = GranularTally()
    said = (
        word("we", 4, 9.5, ("W", 4, 1.9), ("IY", 2, 1.2)),
        word("call", 1, 4.0, ("K", 4, 2.0)),
        word("it", 3, 8.0, ("IH", 0, 0.2)),
    )
    experts = (
        truth("WE", 10.0, ("W", 2.0), ("IY1", 0.4)),
        truth("CALL", 3.0, ("K", 2.0), ("AO1", 1.0)),
        truth("IT", 5.0, ("IH1", 0.0)),
    )
    tally.add(utterance(*experts), result("", (3, 3, 3), *said))
    found = tally.to_dict()
    assert found["words"]["n"] == found["words"]["judged"] == 3
    expected = np.corrcoef([9.5, 4.0, 8.0], [10.0, 3.0, 5.0])[0, 1]
    assert found["words"]["pcc"] == pytest.approx(expected, abs=1e-4)  # rounded to 4 digits
    # "it" is Good where the experts' 5 is average; "we" and "call" agree.
    assert found["words"]["polarity_agreement"] == pytest.approx(2 / 3, abs=1e-4)
    # "call" has other phones than the experts': they are judged, not compared.
    assert (found["phones"]["n"], found["phones"]["judged"]) == (3, 4)
    assert found["phones"]["polarity_agreement"] == pytest.approx(2 / 3, abs=1e-4)


def test_a_rationale_is_held_against_its_own_labels_and_the_experts() -> None:
    tally = GranularTally()
    said = (
        word("we", 4, 9.5, ("W", 4, 1.9), ("IY", 1, 0.8)),
        word("call", 1, 4.0, ("K", 4, 2.0), ("L", 0, 0.1)),
    )
    experts = (
        truth("WE", 10.0, ("W", 2.0), ("IY1", 2.0)),
        truth("CALL", 3.0, ("K", 0.0), ("L", 0.0)),
    )
    rationale = (
        "Accuracy is good and fluency is clear. "
        'The word "call" is bad: its L is worst and its K is bad. The word "we" is poor.'
    )
    tally.add(utterance(*experts), result(rationale, (3, 4, 3), *said))
    tally.add(utterance(*experts), result("Accuracy is bad.", (3, 4, 3), *said))
    found = tally.to_dict()["rationales"]
    assert found["n"] == 2
    assert found["plausibility"] == 0.5
    # "call" is bad by both, "we" is poor by neither.
    assert found["faithfulness"]["words"] == {"mentions": 2, "own_labels": 0.5, "experts": 0.5}
    # L is bad by both, K by the experts alone.
    assert found["faithfulness"]["phones"] == {"mentions": 2, "own_labels": 0.5, "experts": 1.0}


def test_what_has_no_labels_adds_nothing() -> None:
    tally = GranularTally()
    tally.add(utterance(truth("WE", 10.0)), result("", (3, 3, 3), Word("we")))
    tally.add(Utterance("a", Path("a.flac"), {}), result("", (3, 3, 3), word("we", 4, 9.0)))
    assert tally.to_dict() == {}


def test_other_words_than_the_experts_are_judged_but_not_compared() -> None:
    tally = GranularTally()
    tally.add(utterance(truth("YOU", 10.0)), result("", (3, 3, 3), word("we", 4, 9.0)))
    found = tally.to_dict()
    assert (found["words"]["n"], found["words"]["judged"]) == (0, 1)
    assert found["words"]["pcc"] is None
