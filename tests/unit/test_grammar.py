"""Scripts: what may be written is written, and what is certain is never asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from asa_engine.language_model.decoding import decode
from asa_engine.language_model.grammar import Choice, Forced, Free, Segment, Walk

TOKENS = 12
END = 11


def written_by_hand(script: list[Segment], score: list[NDArray[np.float32]]) -> list[int]:
    """Walk a script slowly: at each position, the best token of those that some text goes on with.

    `score[n]` holds the model's logits after n tokens; every possible text is kept in a list.
    """
    out: list[int] = []
    for segment in script:
        if isinstance(segment, Free):
            for _ in range(segment.most):
                order = np.argsort(-score[len(out)], kind="stable")
                token = next(int(t) for t in order if t not in segment.banned_ids)
                out.append(token)
                if token in segment.end_ids:
                    break
            continue
        texts = [segment.ids] if isinstance(segment, Forced) else list(segment.options)
        start = len(out)
        while any(len(text) > len(out) - start for text in texts):
            at = len(out) - start
            token = max(sorted({t[at] for t in texts}), key=lambda t: score[len(out)][t])
            texts = [text for text in texts if text[at] == token]
            out.append(token)
    return out


class Recorded:
    """A model whose logits depend on the position alone; a hidden state is that position."""

    def __init__(self, score: list[NDArray[np.float32]]) -> None:
        self.score = score
        self.length = 0
        self.passes = 0

    def extend(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        self.passes += 1
        first = self.length + 1
        self.length += len(embeddings)
        return np.arange(first, first + len(embeddings), dtype=np.float32)[:, None]

    def embed(self, ids: tuple[int, ...]) -> NDArray[np.float32]:
        return np.array(ids, np.float32)[:, None]

    def some(self, hidden: NDArray[np.float32], ids: tuple[int, ...]) -> NDArray[np.float32]:
        return self.all(hidden)[list(ids)]

    def all(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.score[int(hidden[0])]


def make_choice(options: list[list[int]]) -> Choice | None:
    try:
        return Choice(tuple(tuple(option) for option in options))
    except ValueError:
        return None


IDS = st.lists(st.integers(0, TOKENS - 2), max_size=4)
SEGMENTS = st.one_of(
    IDS.map(lambda ids: Forced(tuple(ids))),
    st.lists(IDS, min_size=2, max_size=4).map(make_choice).filter(bool),
    st.integers(0, 5).map(lambda most: Free((END,), most, banned_ids=(0, 3))),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(SEGMENTS, max_size=6), st.integers(0, 1000))
def test_it_writes_what_a_slow_walk_writes(script: list[Segment], seed: int) -> None:
    score = list(np.random.default_rng(seed).normal(0, 1, (60, TOKENS)).astype(np.float32))
    model, walk = Recorded(score), Walk(script)
    found = list(decode(walk, model, model, np.zeros(1, np.float32)))
    assert found == written_by_hand(script, score)
    assert walk.done


def test_one_pass_for_each_decision() -> None:
    script = [
        Forced((1, 2, 3, 4)),
        Choice(((5, 6, 7), (5, 8), (9, 1))),
        Forced((2,) * 20),
        Choice(((4,), (5,))),
        Forced((6,) * 10),
    ]
    score = [np.zeros(TOKENS, np.float32) for _ in range(60)]
    score[4][5] = score[5][6] = 1.0
    model, walk = Recorded(score), Walk(script)
    found = list(decode(walk, model, model, np.zeros(1, np.float32)))
    assert found == [1, 2, 3, 4, 5, 6, 7, *(2,) * 20, 4, *(6,) * 10]
    assert walk.chosen == [0, 0]
    # 5 or 9, then 6 or 8, then 4 or 5; 7, what is forced and the end of the text cost nothing.
    assert model.passes == 3
    assert model.length == 4 + 1 + 22


def test_free_text_is_handed_out_as_it_comes() -> None:
    score = [np.zeros(TOKENS, np.float32) for _ in range(9)]
    for at, token in enumerate((4, 5, 6, END)):
        score[at][token] = 1.0
        score[at][0] = 2.0  # banned, though the likeliest
    model, walk = Recorded(score), Walk([Free((END,), 8, banned_ids=(0,))])
    stream = decode(walk, model, model, np.zeros(1, np.float32))
    assert next(stream) == 4
    assert model.passes == 0
    assert next(stream) == 5
    assert model.passes == 1
    assert list(stream) == [6, END]
    assert walk.written == [4, 5, 6]


def test_free_text_is_bounded() -> None:
    score = [np.zeros(TOKENS, np.float32) for _ in range(9)]
    model, walk = Recorded(score), Walk([Free((END,), 3), Forced((7,))])
    assert list(decode(walk, model, model, np.zeros(1, np.float32))) == [0, 0, 0, 7]


def test_what_may_not_come_is_refused() -> None:
    walk = Walk([Forced((1,)), Choice(((2, 3), (4,))), Free((END,), 2, banned_ids=(5,))])
    with pytest.raises(ValueError, match="token 2 may not come here"):
        walk.take(2)
    walk.take(1)
    assert walk.allowed() == (2, 4)
    walk.take(2)
    with pytest.raises(ValueError, match="token 4 may not come here"):
        walk.take(4)
    assert walk.skip() == (3,)
    assert walk.free
    with pytest.raises(ValueError, match="token 5 may not come here"):
        walk.take(5)
    walk.take(END)
    assert walk.done
    assert walk.allowed() == ()
    with pytest.raises(ValueError, match="token 1 may not come here"):
        walk.take(1)


@pytest.mark.parametrize("options", [((1,),), ((1,), (1, 2)), ((), (1,)), ((1, 2), (1, 2))])
def test_choices_that_cannot_be_told_apart_are_refused(options: tuple[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="options are two or more"):
        Choice(options)
