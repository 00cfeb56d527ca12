"""Rationales held against labels, counted by hand."""

from __future__ import annotations

from typing import Any

import pytest
from assessments import labelled, labelled_word

from asa_engine.assessment import Assessment, Timing, Word
from asa_engine.audio.validity import Validity
from asa_engine.evaluation.rationales import RationaleTally, polarity_of, sentiment
from asa_engine.evaluation.words import ExpertPhone, ExpertWord, pair_words


def result(rationale: str, sentence: tuple[int, ...], *words: Word) -> Assessment:
    names = ("accuracy", "fluency", "prosodic")
    return Assessment(
        grader="multi_granular",
        scores={name: labelled(k, 2.0 * k) for name, k in zip(names, sentence, strict=True)},
        validity=Validity(True, (), 0.0, 0.0, 0.0, 1.0, None),
        timing=Timing(1.0, 0.0, 0.0, 0.0, None, None, 0.0, 0.0, 0.0),
        receipt={},
        words=words,
        rationale=rationale,
    )


def truth(text: str, accuracy: float, *phones: tuple[str, float]) -> ExpertWord:
    return ExpertWord(
        text,
        {"accuracy": accuracy},
        phones=tuple(ExpertPhone(p, {"accuracy": x}) for p, x in phones),
    )


def told(*cases: tuple[Assessment, tuple[ExpertWord, ...]]) -> dict[str, Any]:
    tally = RationaleTally()
    for assessed, experts in cases:
        tally.add(assessed, pair_words(assessed.words, experts))
    return tally.to_dict()


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


def test_a_rationale_is_held_against_its_own_labels_and_the_experts() -> None:
    said = (
        labelled_word("we", 4, 9.5, ("W", 4, 1.9), ("IY", 1, 0.8)),
        labelled_word("call", 1, 4.0, ("K", 4, 2.0), ("L", 0, 0.1)),
    )
    experts = (
        truth("WE", 10.0, ("W", 2.0), ("IY", 2.0)),
        truth("CALL", 3.0, ("K", 0.0), ("L", 0.0)),
    )
    rationale = (
        "Accuracy is good and fluency is clear. "
        'The word "call" is bad: its L is worst and its K is bad. The word "we" is poor.'
    )
    found = told(
        (result(rationale, (3, 4, 3), *said), experts),
        (result("Accuracy is bad.", (3, 4, 3), *said), experts),
    )
    assert found["n"] == 2
    assert found["plausibility"] == 0.5
    # "call" is bad by both, "we" is poor by neither.
    assert found["faithfulness"]["words"] == {"mentions": 2, "own_labels": 0.5, "experts": 0.5}
    # L is bad by both, K by the experts alone.
    assert found["faithfulness"]["phones"] == {"mentions": 2, "own_labels": 0.5, "experts": 1.0}


def test_labels_that_experts_did_not_give_are_held_against_nothing() -> None:
    said = labelled_word("call", 1, 4.0, ("K", 0, 0.1))
    expert = ExpertWord("CALL", {"total": 3.0}, phones=(ExpertPhone("K"),))
    found = told((result('The word "call" is bad: its K is bad.', (1, 1, 1), said), (expert,)))
    assert found["faithfulness"]["words"] == {"mentions": 1, "own_labels": 1.0, "experts": 0.0}
    assert found["faithfulness"]["phones"] == {"mentions": 1, "own_labels": 1.0, "experts": 0.0}


def test_without_rationales_nothing_is_told() -> None:
    assert told() == {}
