"""Whatever a model thinks, what it writes along a verdict's script is a verdict on the words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from random_model import RandomModel

from asa_engine.graders.multi_granular.script import verdict_of_choices, verdict_script
from asa_engine.graders.multi_granular.verdict import LABELS, parse, render
from asa_engine.language_model.decoding import decode
from asa_engine.language_model.grammar import Choice, Forced, Walk

END, CONTROL = 0x110000, 0x110001  # beyond every character: a token is a character's number


def encode(text: str) -> tuple[int, ...]:
    return tuple(ord(character) for character in text)


def text_of(ids: list[int]) -> str:
    return "".join(chr(token) for token in ids if token < END)


class Writer(RandomModel):
    """Writes ASCII, an end or a control token, which it likes best."""

    def all(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = np.full(self._size, -100, np.float32)
        for token in (*range(32, 127), END, CONTROL):
            logits[token] = self._rng.normal()
        logits[END] += 1.5
        logits[CONTROL] += 3.0
        return logits


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Z", "C")), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(WORDS.filter(lambda w: len(w.split()) == 1), max_size=4),
    st.lists(st.sampled_from(("W", "IY0", "K")), max_size=5),
    st.integers(0, 1000),
)
def test_what_is_written_is_a_verdict_on_the_words(
    words: list[str], phones: list[str], seed: int
) -> None:
    script = verdict_script(
        words, phones, encode, end_ids=(END,), control_ids=(END, CONTROL), most_rationale=9
    )
    walk, model = Walk(script), Writer(seed, CONTROL + 1)
    ids = list(decode(walk, model, model, np.zeros(1, np.float32)))
    assert CONTROL not in ids
    rationale = text_of(walk.written)
    found = verdict_of_choices(walk.chosen, words, phones, rationale)
    assert parse(text_of(ids), words, phones) == found
    assert len(walk.written) <= 9


def test_every_verdict_can_be_written() -> None:
    words, phones = ["WE", "CALL"], ["W", "IY0"]
    for label in range(len(LABELS)):
        chosen = [label, 4 - label, 2, label, 0, 4, label]
        verdict = verdict_of_choices(chosen, words, phones)
        walk = Walk(verdict_script(words, phones, encode, end_ids=(END,)))
        for token in encode(render(verdict)):
            walk.take(token)
        assert walk.done
        assert walk.chosen == chosen


def test_a_sentences_label_has_its_space() -> None:
    script = verdict_script([], [], encode, end_ids=(END,))
    # A token of its own, as of one character each here, tells no labels apart: it is given.
    assert script[0] == Forced(encode("Accuracy: "))
    assert script[1] == Choice(tuple(encode(label) for label in LABELS))
    assert script[-2:] == (Forced(encode("\nWords: ")), Forced(encode("\nPhonemes: ")))


@pytest.mark.parametrize("word", ["", "two words", "line\nbreak", " led"])
def test_what_is_no_word_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="is not one word"):
        verdict_script(["GOOD", word], [], encode, end_ids=(END,))


def test_choices_must_be_complete() -> None:
    with pytest.raises(ValueError, match="4 choices"):
        verdict_of_choices([1, 2, 3, 4], ["WE", "CALL"], [])
