"""Agreement on words and phones, by whatever labels a manifest has, counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from assessments import labelled_word

from asa_engine.assessment import Phone, Score, Word
from asa_engine.errors import ManifestError
from asa_engine.evaluation.manifest import Utterance
from asa_engine.evaluation.words import ExpertWord, WordTally, expert_words, pair_words

ROUNDED = 1e-4  # figures have four digits


def scored_word(text: str, value: float, *phones: tuple[str, float], error: str = "none") -> Word:
    """As the pronunciation grader has them: one score a word, one a phone, errors."""
    return Word(
        text,
        score=Score(value, 0.0, 10.0),
        error=error,
        phones=tuple(Phone(p, score=Score(x, 0.0, 2.0)) for p, x in phones),
    )


def truth(text: str, accuracy: float, *phones: tuple[str, float]) -> dict[str, Any]:
    return {
        "text": text,
        "accuracy": accuracy,
        "phones": [{"phone": p, "accuracy": x} for p, x in phones],
    }


def experts(*words: Any) -> tuple[ExpertWord, ...]:
    return expert_words(Utterance("a", Path("a.flac"), {}, extra={"words": list(words)}))


def compared(*recordings: tuple[list[Word], list[Any]]) -> dict[str, Any]:
    tally = WordTally()
    for said, expected in recordings:
        tally.add(said, experts(*expected))
    return tally.to_dict()


def test_labels_of_words_and_phones_are_compared_and_counted() -> None:
    said = [
        labelled_word("we", 4, 9.5, ("W", 4, 1.9), ("IY", 2, 1.2)),
        labelled_word("call", 1, 4.0, ("K", 4, 2.0)),
        labelled_word("it", 3, 8.0, ("IH", 0, 0.2)),
    ]
    expected = [
        truth("WE", 10.0, ("W", 2.0), ("IY1", 0.4)),
        truth("CALL", 3.0, ("K", 2.0), ("AO1", 1.0)),
        truth("IT", 5.0, ("IH1", 0.0)),
    ]
    found = compared((said, expected))
    assert found["words"]["n"] == found["words"]["judged"] == 3
    wanted = np.corrcoef([9.5, 4.0, 8.0], [10.0, 3.0, 5.0])[0, 1]
    assert found["words"]["pcc"] == pytest.approx(wanted, abs=ROUNDED)
    wanted = np.corrcoef([4, 1, 3], [10.0, 3.0, 5.0])[0, 1]
    assert found["words"]["pcc_of_labels"] == pytest.approx(wanted, abs=ROUNDED)
    # "it" is Good where the experts' 5 is average; "we" and "call" agree.
    assert found["words"]["polarity_agreement"] == pytest.approx(2 / 3, abs=ROUNDED)
    # "call" has other phones than the experts': they are judged, not compared.
    assert (found["phones"]["n"], found["phones"]["judged"]) == (3, 4)
    assert found["phones"]["polarity_agreement"] == pytest.approx(2 / 3, abs=ROUNDED)


def test_scores_of_words_and_phones_are_compared_without_labels() -> None:
    said = [scored_word("we", 9.0, ("W", 1.9), ("IY", 1.5)), scored_word("call", 4.0, ("K", 0.5))]
    expected = [truth("WE", 10.0, ("W", 2.0), ("IY1", 1.6)), truth("CALL", 3.0, ("K", 0.4))]
    found = compared((said, expected))
    assert found["words"]["rmse"] == pytest.approx(1.0, abs=ROUNDED)
    assert found["words"]["within_1_0"] == 1.0
    wanted = np.corrcoef([1.9, 1.5, 0.5], [2.0, 1.6, 0.4])[0, 1]
    assert found["phones"]["pcc"] == pytest.approx(wanted, abs=ROUNDED)
    assert "pcc_of_labels" not in found["words"]
    assert "word_errors" not in found


def test_words_with_phones_but_no_accuracy_are_compared_by_their_phones() -> None:
    expected = [{"text": "WE", "phones": [{"phone": "W", "accuracy": 2}, {"phone": "IY1"}]}]
    for word in (
        labelled_word("we", 4, 9.5, ("W", 4, 1.9), ("IY", 2, 1.2)),
        scored_word("we", 9.5, ("W", 1.9), ("IY", 1.2)),
    ):
        found = compared(([word], expected))
        assert (found["words"]["n"], found["words"]["judged"]) == (0, 1)
        assert found["words"]["pcc"] is None
        assert (found["phones"]["n"], found["phones"]["judged"]) == (1, 2)
        assert found["phones"]["rmse"] == pytest.approx(0.1, abs=ROUNDED)


def test_every_label_that_the_manifest_has_is_compared() -> None:
    expected = [
        {"text": "we", "accuracy": 9.0, "stress": 10, "total": 8.0, "note": "unclear", "rank": 3},
        {"text": "call", "total": 4.0},
    ]
    found = compared(([scored_word("we", 8.0), scored_word("call", 5.0)], expected))["words"]
    assert (found["label"], found["n"], found["rmse"]) == ("accuracy", 1, 1.0)
    others = found["other_labels"]
    assert set(others) == {"stress", "total"}
    assert others["total"]["n"] == 2
    assert others["total"]["rmse"] == pytest.approx(np.sqrt(0.5), abs=ROUNDED)
    assert others["stress"]["rmse"] == 2.0


def test_words_are_paired_over_what_one_side_lacks() -> None:
    said = [Word("well,"), Word("We"), Word("don\N{RIGHT SINGLE QUOTATION MARK}t"), Word("call")]
    expected = experts({"text": "WE"}, {"text": "DON'T"}, {"text": "EVER"}, {"text": "CALL"})
    pairs = [(a and a.text, b and b.text) for a, b in pair_words(said, expected)]
    assert pairs == [
        ("well,", None),
        ("We", "WE"),
        ("don\N{RIGHT SINGLE QUOTATION MARK}t", "DON'T"),
        (None, "EVER"),
        ("call", "CALL"),
    ]


def test_what_is_said_beside_the_text_is_paired_by_its_place() -> None:
    said = [
        scored_word("we", 9.0),
        scored_word("we", 5.0, error="repetition"),
        scored_word("call", 8.0),
        scored_word("", 0.0, error="insertion"),
        scored_word("it", 7.0),
        scored_word("", 0.0, error="insertion"),
    ]
    expected = [
        {"text": "we", "accuracy": 10},
        {"text": "we", "error": "repetition"},
        {"text": "call", "accuracy": 8},
        {"text": "uh", "error": "insertion"},
        {"text": "it", "accuracy": 7},
    ]
    pairs = pair_words(said, experts(*expected))
    assert [(a and a.error, b and b.text) for a, b in pairs] == [
        ("none", "we"),
        ("none", "call"),
        ("none", "it"),
        ("repetition", "we"),
        ("insertion", "uh"),
        ("insertion", None),
    ]
    found = compared((said, expected))
    assert found["words"]["n"] == 3
    assert found["words"]["rmse"] == pytest.approx(np.sqrt(1 / 3), abs=ROUNDED)
    assert found["word_errors"]["by_error"]["repetition"]["f1"] == 1.0
    assert found["word_errors"]["by_error"]["insertion"]["precision"] == 0.5
    assert found["word_errors"]["by_error"]["insertion"]["recall"] == 1.0


def test_errors_are_counted_where_the_experts_mark_them() -> None:
    said = [
        scored_word("we", 9.0),
        scored_word("call", 2.0, error="mispronunciation"),
        scored_word("it", 0.0, error="omission"),
        scored_word("a", 9.0, error="mispronunciation"),
        scored_word("bear", 9.0),
    ]
    expected = [
        {"text": "we", "error": "none"},
        {"text": "call", "error": "Mispronunciation"},
        {"text": "it", "error": "omission"},
        {"text": "a"},
        {"text": "bear", "error": "mispronunciation"},
        {"text": "uh", "error": "insertion"},
    ]
    found = compared((said, expected))["word_errors"]
    assert found["n"] == 6
    assert found["accuracy"] == pytest.approx(3 / 6, abs=ROUNDED)
    assert found["false_alarms"] == 0.5  # "a", of "we" and "a"
    by_error = found["by_error"]
    assert by_error["omission"] == {"n": 1, "precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert by_error["mispronunciation"] == {"n": 2, "precision": 0.5, "recall": 0.5, "f1": 0.5}
    assert by_error["insertion"] == {"n": 1, "precision": None, "recall": 0.0, "f1": 0.0}
    assert by_error["repetition"] == {"n": 0, "precision": None, "recall": None, "f1": None}


def test_what_is_not_judged_adds_nothing() -> None:
    assert compared(([Word("we", probability=0.9)], [truth("WE", 10.0)])) == {}
    assert compared(([labelled_word("we", 4, 9.0)], [])) == {}


def test_other_words_than_the_experts_are_judged_but_not_compared() -> None:
    found = compared(([labelled_word("we", 4, 9.0)], [truth("YOU", 10.0)]))
    assert (found["words"]["n"], found["words"]["judged"]) == (0, 1)
    assert found["words"]["pcc"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (5, "words is not a list"),
        ({"text": "we"}, "words is not a list"),
        ([None], "words[0] is not an object whose text is a string"),
        (["we"], "words[0] is not an object whose text is a string"),
        ([{"text": 3}], "words[0] is not an object whose text is a string"),
        ([{"text": "we", "accuracy": "good"}], "words[0].accuracy is not a finite number"),
        ([{"text": "we", "total": float("nan")}], "words[0].total is not a finite number"),
        ([{"text": "we", "stress": 10**400}], "words[0].stress is not a finite number"),
        ([{"text": "we", "error": "lisp"}], "there is no error 'lisp'"),
        ([{"text": "we", "phones": "W IY"}], "words[0].phones is not a list"),
        ([{"text": "we", "phones": [3]}], "words[0].phones[0] is neither"),
        ([{"text": "we", "phones": [{"accuracy": 2}]}], "words[0].phones[0] is neither"),
        ([{"text": "we", "phones": [{"phone": "W", "accuracy": []}]}], "phones[0].accuracy is not"),
    ],
)
def test_malformed_words_are_refused_by_name(words: Any, said: str) -> None:
    with pytest.raises(ManifestError) as caught:
        expert_words(Utterance("a17", Path("a.flac"), {}, extra={"words": words}))
    assert "a17: " in str(caught.value)
    assert said in str(caught.value)


def test_words_may_be_as_bare_as_a_text_and_symbols() -> None:
    assert experts() == ()
    assert expert_words(Utterance("a", Path("a.flac"), {})) == ()
    (word,) = experts({"text": "we", "accuracy": None, "error": None, "phones": ["w", "iy1"]})
    assert (word.scores, word.error) == ({}, None)
    assert [phone.phone for phone in word.phones] == ["W", "IY"]
