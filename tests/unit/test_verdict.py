"""The multi-granular verdict: bins, text and back, pairs that differ in one label."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asa_engine.graders.multi_granular import verdict as v

EXAMPLE = v.Verdict(
    3, 4, 2, (("WE", 4), ("CALL", 3)), (("W", 4), ("IY0", 4), ("K", 0)), "The vowel was long."
)
TEXT = (
    "Accuracy: Good\nFluency: Excellent\nProsody: Average\nWords: WE/Excellent CALL/Good\n"
    "Phonemes: W/Excellent IY0/Excellent K/Worst\nThe vowel was long."
)
WORDS, PHONES = ["WE", "CALL"], ["W", "IY0", "K"]


@pytest.mark.parametrize(
    ("cuts", "bins"),
    [
        (v.SENTENCE_CUTS, {4: (9, 10), 3: (7, 8), 2: (5, 6), 1: (3, 4), 0: (0, 1, 2)}),
        (v.WORD_CUTS, {4: (10,), 3: (7, 8, 9), 2: (4, 5, 6), 1: (2, 3), 0: (0, 1)}),
        (v.PHONE_CUTS, {4: (2.0,), 3: (1.6, 1.8), 2: (1.0, 1.2, 1.4), 1: (0.6, 0.8),
                        0: (0.0, 0.2, 0.4)}),
    ],
)  # fmt: skip
def test_bins(cuts, bins):
    for label, scores in bins.items():
        assert [v.label_of(score, cuts) for score in scores] == [label] * len(scores)


def test_a_sum_of_tenths_reaches_its_cut():
    assert v.label_of(0.2 + 0.2 + 0.2 - 1e-16, v.PHONE_CUTS) == 1


def test_a_verdict_of_a_manifest_line():
    words = [
        {"text": "WE", "accuracy": 10.0, "phones": [{"phone": "W", "accuracy": 2.0},
                                                    {"phone": "IY0", "accuracy": 1.8}]},
        {"text": "CALL", "accuracy": 3.0, "phones": [{"phone": "K", "accuracy": 0.4}]},
    ]  # fmt: skip
    found = v.verdict_of({"accuracy": 8.0, "fluency": 9.0, "prosodic": 2.0}, words)
    assert found == v.Verdict(3, 4, 0, (("WE", 4), ("CALL", 1)), (("W", 4), ("IY0", 3), ("K", 0)))


@pytest.mark.parametrize("words", [[{"text": "WE"}], [{"accuracy": 3.0, "text": "A"}], [3]])
def test_a_line_without_labels_makes_no_verdict(words):
    with pytest.raises(ValueError, match="no verdict"):
        v.verdict_of({"accuracy": 8.0, "fluency": 9.0, "prosodic": 2.0}, words)


def test_text_and_back():
    assert v.render(EXAMPLE) == TEXT
    assert v.parse(TEXT, WORDS, PHONES) == EXAMPLE


_label = st.integers(0, 4)
_word = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=8)


@given(
    _label, _label, _label,
    st.lists(st.tuples(_word, _label), max_size=6).map(tuple),
    st.lists(st.tuples(_word, _label), max_size=6).map(tuple),
    st.sampled_from(["", "Fine.", "Two lines.\nOf text."]),
)  # fmt: skip
def test_every_verdict_comes_back(accuracy, fluency, prosody, words, phones, rationale):
    verdict = v.Verdict(accuracy, fluency, prosody, words, phones, rationale)
    text = v.render(verdict)
    assert v.parse(text, [w for w, _ in words], [p for p, _ in phones]) == verdict


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Fluency: Excellent\n", "", "stands where 'Fluency'"),
        ("Good\nFluency", "good\nFluency", "'good' is no label"),
        ("WE/Excellent CALL", "CALL", "words are not those"),
        ("K/Worst", "K/", "is no label"),
        ("K/Worst", "G/Worst", "phones are not those"),
        ("\nPhonemes: W/Excellent IY0/Excellent K/Worst\nThe vowel was long.", "", "has 4"),
    ],
)
def test_a_text_that_is_no_verdict_is_refused(old, new, message):
    assert old in TEXT
    with pytest.raises(ValueError, match=message):
        v.parse(TEXT.replace(old, new), WORDS, PHONES)


@pytest.mark.parametrize("grain", v.GRAINS)
def test_a_rejected_response_differs_in_one_label(grain):
    chance = random.Random(3)
    seen = set()
    for _ in range(60):
        other = v.changed_once(EXAMPLE, grain, chance)
        flat = [
            (one.accuracy, one.fluency, one.prosody, *one.words, *one.phones)
            for one in (EXAMPLE, other)
        ]
        changed = [at for at, (a, b) in enumerate(zip(*flat, strict=True)) if a != b]
        assert len(changed) == 1
        first = {"accuracy": 0, "fluency": 1, "prosody": 2, "word": 3, "phone": 5}[grain]
        last = {"word": 4, "phone": 7}.get(grain, first)
        assert first <= changed[0] <= last
        assert [text for text, _ in other.words] == WORDS
        assert [text for text, _ in other.phones] == PHONES
        seen.add(str(other))
    assert len(seen) == 4 * (last - first + 1)


def test_what_cannot_be_changed_is_refused():
    with pytest.raises(ValueError, match="no grain 'rhythm'"):
        v.changed_once(EXAMPLE, "rhythm", random.Random(0))
    with pytest.raises(ValueError, match="has no words"):
        v.changed_once(v.Verdict(1, 1, 1, (), ()), "word", random.Random(0))
