"""The pronouncing dictionary, the letter-to-sound model, IPA and syllables."""

from __future__ import annotations

import json
from importlib import resources

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asa_engine.errors import BundleError
from asa_engine.text import PHONES, ipa, pronounce, syllables
from asa_engine.text.dictionary import SYMBOLS, Dictionary, dictionary, pack
from asa_engine.text.letters import LetterModel, letter_model
from asa_engine.text.package_data import read_package_data
from asa_engine.text.phones import VOWELS, bare
from asa_engine.training.letters.alignment import align
from asa_engine.training.letters.corpus import is_held_out
from asa_engine.training.letters.model import measure, train_letters
from asa_engine.training.letters.ngrams import count, kneser_ney, prune

_SPELLING = st.text("abcdefghijklmnopqrstuvwxyz'", min_size=1, max_size=12)
_PHONES = st.lists(st.sampled_from(SYMBOLS), min_size=1, max_size=10).map(tuple)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(_SPELLING, st.lists(_PHONES, min_size=1, max_size=3), min_size=1))
def test_a_packed_dictionary_gives_back_its_entries(
    entries: dict[str, list[tuple[str, ...]]],
) -> None:
    packed = Dictionary(pack(entries))
    assert packed.words() == sorted(entries)
    for word, said in entries.items():
        assert packed.get(word) == tuple(said)
    assert packed.get("\N{SNOWMAN}") == ()


def test_the_dictionary_has_several_pronunciations_and_its_first_first() -> None:
    words = dictionary()
    assert words.get("read") == (("R", "EH1", "D"), ("R", "IY1", "D"))
    assert words.get("tomato")[1] == ("T", "AH0", "M", "AA1", "T", "OW2")
    assert words.get("zzzz") == ()
    assert words.get("") == ()
    assert len(words.words()) > 120_000


@pytest.mark.parametrize("cut", [0, 7, 100, 50_000, -1])
def test_damaged_data_are_refused(cut: int) -> None:
    for name, opened in (("dictionary.bin", _all_words), ("letters.bin", LetterModel)):
        data = read_package_data(name)
        with pytest.raises(BundleError):
            opened(data[:cut])


def _all_words(packed: bytes) -> list[str]:
    return Dictionary(packed).words()


def test_package_data_carry_hash_source_and_licence() -> None:
    folder = resources.files("asa_engine.text").joinpath("data")
    index = json.loads(folder.joinpath("data.json").read_text())
    assert set(index) == {"dictionary.bin", "letters.bin"}
    assert all("BSD" in entry["licence"] and entry["source"] for entry in index.values())
    with pytest.raises(BundleError, match="cannot be read"):
        read_package_data("none.bin")


@pytest.mark.parametrize(
    ("word", "other"),
    [("skilful", "skillful"), ("hospitalised", "hospitalized"), ("paralysed", "paralyzed")],
)
def test_british_spellings_are_looked_up_as_american(word: str, other: str) -> None:
    found = pronounce(word)
    assert found.source == "dictionary"
    assert found.pronunciations == dictionary().get(other)


def test_an_added_s_sounds_by_what_is_before_it() -> None:
    assert pronounce("giraffe's").pronunciations[0][-1] == "S"
    assert pronounce("xylophone's").pronunciations[0][-1] == "Z"
    assert pronounce("hippopotamus's").pronunciations[0][-2:] == ("AH0", "Z")
    assert pronounce("snazzle's").pronunciations[0][-1] == "Z"
    assert pronounce("snazzle's").source == "letters"


def test_unknown_words_are_read_by_their_letters() -> None:
    found = pronounce("snazzle")
    assert found.source == "letters"
    assert found.pronunciations[0] == ("S", "N", "AE1", "Z", "AH0", "L")
    assert 0.3 < found.confidence < 1


def test_held_out_words_are_guessed_as_the_documentation_says() -> None:
    # docs/text.md: 6.1 % phone error on all 6,176 words; the first 400 of them by hash are within
    # 1.5 points of that (one standard error of a share of 2,500 phones is 0.5).
    words = dictionary()
    kept = [word for word in words.words() if is_held_out(word)][:: 6176 // 400]
    figures = measure(letter_model(), {word: words.get(word) for word in kept})
    assert figures.words >= 400
    assert abs(figures.phone_error - 0.061) < 0.015
    assert (
        abs(figures.confidence - (1 - figures.word_error_stress)) < 0.05
    )  # error of a share: 0.023


@settings(max_examples=50, deadline=None)
@given(st.text("abcdefghijklmnopqrstuvwxyz'", min_size=1, max_size=15))
def test_any_letters_have_probabilities_that_add_up_to_at_most_one(word: str) -> None:
    guesses = letter_model().guess(word, most=100)
    probabilities = [guess.probability for guess in guesses]
    assert probabilities == sorted(probabilities, reverse=True)
    assert 0 < sum(probabilities) < 1 + 1e-9
    assert len({guess.phones for guess in guesses}) == len(guesses)


def test_letters_are_aligned_with_the_phones_they_stand_for() -> None:
    pairs = [("cat", ("K", "AE1", "T")), ("tack", ("T", "AE1", "K")), ("act", ("AE1", "K", "T"))]
    pairs += [("tax", ("T", "AE1", "K", "S")), ("sat", ("S", "AE1", "T")), ("a", ("EY1",) * 3)]
    found = align(pairs)
    assert found[0] == [("c", ("K",)), ("a", ("AE1",)), ("t", ("T",))]
    assert found[3][2] == ("x", ("K", "S"))
    assert found[5] == []  # one letter stands for two phones at most
    for (word, phones), units in zip(pairs[:5], found, strict=False):
        assert "".join(letter for letter, _ in units) == word
        assert tuple(p for _, said in units for p in said) == phones


def test_a_smoothed_and_a_pruned_model_are_distributions() -> None:
    rng = np.random.default_rng(7)
    words = [rng.integers(1, 6, rng.integers(1, 9)).tolist() for _ in range(300)]
    full = kneser_ney(count(words, 4), 6)
    for levels in (full, prune(full, 1.0)):
        assert len(levels[1].keys) > 10
        for history in ((0,), (0, 1), (3,), (2, 4), (5, 5, 1)):
            total = sum(_probability(levels, (*history, unit)) for unit in range(6))
            assert total == pytest.approx(1, abs=1e-9)


def _probability(levels: list, ngram: tuple[int, ...]) -> float:
    """Return a back-off probability, after S. Katz (1987): the definition, without vectors."""
    table = [dict(zip(x.keys.tolist(), range(len(x.keys)), strict=True)) for x in levels]
    ngram = ngram[-len(levels) :]

    def key(units: tuple[int, ...]) -> int:
        return int.from_bytes(bytes(units), "big")

    level = levels[len(ngram) - 1]
    if (at := table[len(ngram) - 1].get(key(ngram))) is not None:
        return float(level.p[at])
    context = ngram[:-1]
    at = table[len(context) - 1].get(key(context))
    weight = 1.0 if at is None else float(levels[len(context) - 1].backoff[at])
    return weight * _probability(levels, ngram[1:])


def test_a_model_learns_the_spelling_of_a_toy_language() -> None:
    sounds = {"b": "B", "d": "D", "a": "AA1", "o": "OW1", "k": "K"}
    words = [a + v + b for a in "bdk" for v in "ao" for b in "bdk"] * 2
    entries = {w * n: (tuple(sounds[c] for c in w * n),) for w in words for n in (1, 2, 3)}
    entries = {w: s for w, s in entries.items() if w != "bad"}
    model = LetterModel(train_letters(entries))
    assert model.guess("bad")[0].phones == ("B", "AA1", "D")


def test_syllables_split_before_what_may_begin_a_word() -> None:
    assert syllables(("EH1", "K", "S", "T", "R", "AH0")) == (("EH1", "K"), ("S", "T", "R", "AH0"))
    assert syllables(("S", "IH1", "NG", "IH0", "NG")) == (("S", "IH1", "NG"), ("IH0", "NG"))
    assert syllables(("HH", "M")) == (("HH", "M"),)
    assert syllables(()) == ()


@settings(max_examples=50, deadline=None)
@given(_PHONES)
def test_syllables_hold_all_phones_and_a_vowel_each(phones: tuple[str, ...]) -> None:
    found = syllables(phones)
    assert tuple(phone for part in found for phone in part) == phones
    vowels = sum(bare(phone) in VOWELS for phone in phones)
    assert len(found) == max(1, vowels)
    assert ipa(phones)


def test_ipa_is_general_american() -> None:
    # Transcriptions as in Merriam-Webster's and Wiktionary's General American.
    assert ipa(("B", "AH0", "N", "AE1", "N", "AH0")) == "bəˈnænə"
    assert ipa(("Y", "UW2", "N", "AH0", "V", "ER1", "S", "AH0", "T", "IY0")) == "ˌjunəˈvɝsəti"
    assert ipa(("K", "AE1", "T")) == "kæt"
    assert ipa(("B", "ER1", "D")) == "bɝd"
    assert ipa(("AH",)) == "ʌ"
    assert all(ipa((phone,)) for phone in PHONES)
