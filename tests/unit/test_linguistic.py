"""Language use: the inventory, slots, analysers and what they map."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from asa_engine.errors import BackendError
from asa_engine.features import linguistic
from asa_engine.features.linguistic import (
    ANALYSERS,
    Slot,
    Token,
    inventory,
    open_analyser,
    summarise,
    word_features,
)


@pytest.fixture(scope="module")
def spacy():
    pytest.importorskip(linguistic.SPACY_MODEL)
    return open_analyser("spacy")


def slots(token: Token) -> set[str]:
    (row,) = word_features([token])
    return {inventory()[place].tag for place in np.flatnonzero(row)}


def test_the_inventory_has_263_different_slots():
    counts = Counter(slot.kind for slot in inventory())
    assert counts == {"upos": 17, "morph": 188, "deprel": 58}
    assert len(set(inventory())) == 263


def test_unknown_tags_have_no_slot():
    token = Token(("NOUN", "KLINGON"), ("Number=Sing", "Warp=9"), ("nsubj", "beam:up"))
    assert slots(token) == {"NOUN", "Number=Sing", "nsubj"}
    assert word_features([Token((), (), ())]).sum() == 0
    assert word_features([]).shape == (0, 263)


def test_spacy_speaks_universal_dependencies(spacy):
    words = "The man who was bitten by dogs doesn't like cats.".split()
    found = dict(zip(words, map(slots, spacy.analyse(words)), strict=True))
    assert {"VERB", "acl:relcl", "VerbForm=Part"} <= found["bitten"]
    assert "aux:pass" in found["was"]
    assert "case" in found["by"]
    assert "obl:agent" in found["dogs"]
    assert {"AUX", "PART", "Polarity=Neg"} <= found["doesn't"]
    assert "obj" in found["cats."]
    assert "PUNCT" not in found["cats."]


def test_every_relation_of_spacys_pipeline_has_a_slot(spacy):
    labels = spacy._pipeline.get_pipe("parser").labels
    mapped = {linguistic._SPACY_RELATIONS.get(label, label) for label in labels}
    assert mapped <= {slot.tag for slot in inventory() if slot.kind == "deprel"}
    targets = {*linguistic._SPACY_RELATIONS.values(), *linguistic._STANZA_RELATIONS.values()}
    assert all(Slot("deprel", target) in inventory() for target in targets)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["a"],
        ["😀", "🇬🇧"],
        ["\x07bell", "zero\u200bwidth"],
        ["and"] * 500,
        ["..."],
        ["x" * 3000],
        ["don't", "gonna", "they'd've"],
    ],
)
def test_any_transcript_gets_a_token_for_each_word(spacy, words):
    tokens = spacy.analyse(words)
    assert len(tokens) == len(words)
    rows = word_features(tokens)
    assert rows.shape == (len(words), 263)
    assert set(np.unique(rows)) <= {0.0, 1.0}
    assert all(np.isfinite(value) for value in summarise(words, tokens).values())


def test_words_beyond_the_bound_have_empty_tokens(spacy, monkeypatch):
    monkeypatch.setattr(linguistic, "MAX_WORDS", 3)
    tokens = spacy.analyse(["he", "goes", "home", "now", "again"])
    assert tokens[0].upos == ("PRON",)
    assert tokens[3:] == [Token((), (), ())] * 2


def test_a_missing_package_or_model_is_a_clear_error(monkeypatch):
    monkeypatch.setattr(linguistic.importlib.util, "find_spec", lambda name: None)
    for name in ANALYSERS:
        with pytest.raises(BackendError, match="not installed"):
            open_analyser(name)
    with pytest.raises(BackendError, match="no analyser 'nltk'"):
        open_analyser("nltk")


class _Stanza:
    """Stands for the package: one pipeline that knows one sentence, or none at all."""

    def __init__(self, has_models: bool) -> None:
        self.has_models = has_models

    def Pipeline(self, language, **options):
        assert options["download_method"] is None
        if not self.has_models:
            raise FileNotFoundError("resources.json")
        return self.run

    @staticmethod
    def run(text):
        def word(upos, feats, deprel):
            return SimpleNamespace(upos=upos, feats=feats, deprel=deprel)

        def token(start, *words):
            return SimpleNamespace(start_char=start, words=list(words))

        assert text == "he won't stop"
        tokens = [
            token(0, word("PRON", "Case=Nom|Person=3", "nsubj")),
            token(3, word("AUX", None, "aux"), word("PART", "Polarity=Neg", "advmod")),
            token(9, word("VERB", "VerbForm=Inf", "obl:npmod")),
        ]
        return SimpleNamespace(sentences=[SimpleNamespace(tokens=tokens)])


def _with_stanza(monkeypatch, has_models):
    monkeypatch.setattr(linguistic.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(linguistic.importlib, "import_module", lambda name: _Stanza(has_models))


def test_stanza_is_mapped_to_the_same_inventory(monkeypatch):
    _with_stanza(monkeypatch, has_models=True)
    tokens = open_analyser("stanza").analyse(["he", "won't", "stop"])
    assert slots(tokens[0]) == {"PRON", "Case=Nom", "Person=3", "nsubj"}
    assert slots(tokens[1]) == {"AUX", "PART", "Polarity=Neg", "aux", "advmod"}
    assert slots(tokens[2]) == {"VERB", "VerbForm=Inf", "obl:unmarked"}


def test_missing_stanza_models_are_a_clear_error(monkeypatch):
    _with_stanza(monkeypatch, has_models=False)
    with pytest.raises(BackendError, match="models cannot be loaded"):
        open_analyser("stanza")


def test_summary_counts_shares_of_words():
    tokens = [
        Token(("PRON",), (), ("nsubj",)),
        Token(("VERB",), ("Tense=Past",), ("root",)),
        Token(("PRON",), (), ("obj",)),
        Token(("VERB",), ("Tense=Past",), ("advcl",)),
    ]
    named = summarise(["He", "saw", "he", "fell."], tokens)
    assert named["distinct_word_share"] == pytest.approx(0.75)
    assert named["past_tense_share"] == pytest.approx(0.5)
    assert named["subordinate_clause_share"] == pytest.approx(0.25)
    assert named["content_word_share"] == pytest.approx(0.5)
