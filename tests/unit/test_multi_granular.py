"""The multi-granular grader's parts: words, sounds, small networks, plan."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import multi_granular_samples as samples
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from random_model import RandomModel

from asa_engine.errors import CheckpointError, UsageError
from asa_engine.features.phone_alignment import align
from asa_engine.graders.multi_granular import parts
from asa_engine.graders.multi_granular.config import MultiGranularConfig
from asa_engine.graders.multi_granular.marginals import LEAST_SHARE, marginals, shares_of
from asa_engine.graders.multi_granular.plan import Spoken, plan_of, spoken_words, write
from asa_engine.graders.multi_granular.script import label_choice, verdict_of_choices
from asa_engine.graders.multi_granular.stages import TorchStages
from asa_engine.graders.multi_granular.verdict import parse, render
from asa_engine.language_model.decoding import decode
from asa_engine.language_model.grammar import Choice, Forced, Segment, Walk
from asa_engine.text import PHONES, Lexicon
from asa_engine.training.multi_granular.rationale import rationale_of

# float32 sums in another order, through three linear layers of values around one.
FLOAT_TOLERANCE = 1e-4
WORDS = (Spoken("we", ("W", "IY")), Spoken("call", ("K", "AO", "L")))


@pytest.fixture(scope="module")
def grader() -> samples.MultiGranular:
    return samples.grader()


def weights_of(grader: samples.MultiGranular) -> dict[str, NDArray[np.float32]]:
    return {name: value.detach().numpy() for name, value in grader.tuned().items()}


@torch.inference_mode()
def test_numpy_parts_compute_what_the_reference_computes(grader: samples.MultiGranular) -> None:
    rng = np.random.default_rng(5)
    weights = weights_of(grader)
    frames = rng.normal(0, 2, (43, 16)).astype(np.float32)
    heard = parts.phone_log_probabilities(weights, frames)
    wanted = grader.phones(torch.from_numpy(frames)).numpy()
    np.testing.assert_allclose(heard, wanted, atol=FLOAT_TOLERANCE)
    audio = grader.projector(torch.from_numpy(frames)[None], torch.tensor([43]))[0].numpy()
    found = parts.audio_tokens(weights, frames, grader.config.stack)
    np.testing.assert_allclose(found, audio, atol=FLOAT_TOLERANCE)
    classes, owners = [3, 9, 20, 4, 7], [0, 0, 1, 1, 2]
    aligned = align(heard, classes, owners)
    assert aligned is not None
    features = parts.sound_features(frames, heard, aligned.spans, classes)
    slots = grader.slots(
        torch.from_numpy(features),
        torch.tensor(classes),
        torch.tensor(owners),
        torch.zeros(3, dtype=torch.long),
    )
    rows = parts.slot_tokens(weights, features, classes, owners)
    np.testing.assert_allclose(rows, torch.cat(slots).numpy(), atol=FLOAT_TOLERANCE)


@torch.inference_mode()
def test_slots_of_a_batch_are_those_of_each_alone(grader: samples.MultiGranular) -> None:
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(5, 16 + 40 + parts.MEASURES, generator=generator)
    phones = torch.tensor([1, 2, 3, 4, 5])
    both = grader.slots(features, phones, torch.tensor([0, 0, 1, 2, 2]), torch.tensor([0, 1, 1]))
    first = grader.slots(features[:2], phones[:2], torch.tensor([0, 0]), torch.tensor([0]))
    torch.testing.assert_close(both[0][:1], first[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(both[2][:2], first[2], atol=1e-6, rtol=1e-5)


def test_goodness_of_pronunciation_is_the_mean_log_posterior() -> None:
    said = np.log(np.array([[0.1, 0.6, 0.3], [0.2, 0.5, 0.3]], np.float32))
    frames = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    (row,) = parts.sound_features(frames, said, np.array([[0, 2]]), [1])
    np.testing.assert_allclose(row[:2], [2, 3])
    np.testing.assert_allclose(row[2:5], [0.15, 0.55, 0.3], rtol=1e-5)
    mean = (np.log(0.6) + np.log(0.5)) / 2
    expected = [mean, mean - np.log(0.3), np.log(0.6), 0.0, np.log(2)]
    np.testing.assert_allclose(row[5:], expected, atol=1e-5)


def test_words_of_the_lexicon_sound_as_it_says_and_others_as_the_dictionary() -> None:
    lexicon = Lexicon({"read": (("R", "EH1", "D"),), "bear": (("B", "IH", "R"),)})
    words = spoken_words(samples.config(), lexicon, "Read: a bear's blorf")
    assert words[0] == Spoken("read", ("R", "EH", "D"))
    assert words[1] == Spoken("a", ("AH",))
    assert words[2] == Spoken("bear's", ("B", "EH", "R", "Z"))
    assert words[3] == Spoken("blorf", ("B", "L", "AO", "R", "F"), guessed=True)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text("abcdefghijklmnopqrstuvwxyz'", min_size=1, max_size=5),
            st.lists(st.sampled_from(PHONES), min_size=1, max_size=3),
        ),
        min_size=1,
        max_size=5,
    ),
    st.integers(0, 10_000),
)
def test_whatever_the_model_thinks_it_writes_a_verdict_on_the_text(
    said: list[tuple[str, list[str]]], seed: int
) -> None:
    config, tokens = samples.config(), samples.tokens()
    words = [Spoken(text, tuple(phones)) for text, phones in said]
    plan = plan_of(config, tokens, words)
    size = config.language_model.vocabulary
    model = RandomModel(seed, size)
    walk = Walk((Forced(plan.before), *plan.script))
    written = list(decode(walk, model, model, np.zeros(1, np.float32)))
    assert walk.done
    assert len(written) <= plan.most_tokens
    slots = [token for token in written if token >= size]
    assert slots == list(range(size, size + plan.slots))
    texts = [word.text for word in words]
    verdict = verdict_of_choices(walk.chosen, texts, plan.phones)
    text = tokens.decode([token for token in written[len(plan.before) :] if token < size])
    assert not set(walk.written) & set(config.control_ids)
    assert parse(text, texts, plan.phones).words == verdict.words
    assert parse(text, texts, plan.phones).phones == verdict.phones


LABELLED = 3
"""Choices of the sentence."""


def sentence_of(grader: samples.MultiGranular) -> tuple[tuple[int, ...], list[Segment]]:
    """Return what stands before the first label, and the script from there to the last."""
    plan = plan_of(grader.config, grader.tokens, WORDS)
    first, *script = plan.script[: 2 * LABELLED]
    assert isinstance(first, Forced)
    before = (*plan.before[:-1], *first.ids)  # without the recording's slot, which needs audio
    return before, script


def by_trying_all(
    grader: samples.MultiGranular, before: tuple[int, ...], script: list[Segment]
) -> list[NDArray[np.float64]]:
    """Run each of the 1 + 5 + 25 beginnings from the start; sum all 125 ends. Independent."""
    model = grader.language_model
    choices = [segment.options for segment in script if isinstance(segment, Choice)]
    between = [segment.ids for segment in script if isinstance(segment, Forced)]
    found = [np.zeros(5) for _ in choices]
    for chosen in itertools.product(range(5), repeat=LABELLED):
        ids, joint = [*grader.config.prefix_ids, *before], 1.0
        for at, label in enumerate(chosen):
            rows = model.embed(torch.tensor(ids))[None]
            hidden = model.close(model.run(rows, 0, model.config.layers))[0, -1]
            logits = model.output(hidden)[[option[0] for option in choices[at]]]
            joint *= float(torch.softmax(logits.double(), 0)[label])
            ids += [*choices[at][label], *(between[at] if at < len(between) else ())]
        for at, label in enumerate(chosen):
            found[at][label] += joint
    return found


@torch.inference_mode()
def test_probabilities_are_those_of_all_ways_to_write_what_stands_before(
    grader: samples.MultiGranular,
) -> None:
    before, script = sentence_of(grader)
    stages = TorchStages(grader, Lexicon({}))
    reading = stages.start(200)
    hidden = reading.extend(stages.embed(before))[-1]
    length = reading.length
    wanted = by_trying_all(grader, before, script)
    found = marginals(reading, stages, hidden, script, least=0.0)
    for row, truth in zip(found, wanted, strict=True):
        np.testing.assert_allclose(row, truth, atol=FLOAT_TOLERANCE)
    # The reading is where it was: asked again it says the same, to the bit.
    assert reading.length == length
    again = marginals(reading, stages, hidden, script, least=0.0)
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))
    near = marginals(reading, stages, hidden, script)
    for row, truth in zip(near, wanted, strict=True):
        # At most 25 beginnings lose at most the least share each.
        np.testing.assert_allclose(row, truth, atol=25 * LEAST_SHARE)


class Telling:
    """A model of two choices whose answers are given: positions are tokens, nothing is computed."""

    def __init__(self, first: list[float], behind: dict[int, list[float]]) -> None:
        self._first, self._behind = first, behind
        self._tokens: list[int] = [0]
        self.runs = 0

    @property
    def length(self) -> int:
        return len(self._tokens)

    def extend(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        self.runs += 1
        self._tokens += [int(row[0]) for row in embeddings]
        return embeddings

    def rewind(self, length: int) -> None:
        del self._tokens[length:]

    def embed(self, ids: tuple[int, ...]) -> NDArray[np.float32]:
        return np.array(ids, np.float32)[:, np.newaxis]

    def some(self, hidden: NDArray[np.float32], ids: tuple[int, ...]) -> NDArray[np.float32]:
        shares = self._first if self.length == 1 else self._behind[self._tokens[1]]
        return np.log(np.array(shares, np.float32))

    def all(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        raise AssertionError("labels are compared on their own rows")


TWO = [Choice(((1,), (2,), (3,))), Forced((9,)), Choice(((4,), (5,)))]
BEHIND = {1: [0.9, 0.1], 2: [0.2, 0.8], 3: [0.5, 0.5]}


def expected_behind(first: list[float]) -> tuple[float, int]:
    """Return the probability of the second choice's first option, and the passes it took."""
    model = Telling(first, BEHIND)
    found = marginals(model, model, np.zeros(1, np.float32), TWO, least=0.01)
    np.testing.assert_allclose(found[0], first, atol=1e-6)  # float32 logits
    return float(found[1][0]), model.runs


def test_a_near_tie_of_the_first_label_does_not_move_the_second() -> None:
    (above, _), (below, _) = (expected_behind([0.49 + d, 0.49 - d, 0.02]) for d in (1e-4, -1e-4))
    assert abs(above - below) < 1e-3  # under the likeliest label alone: 0.7


def test_an_unlikely_beginning_is_not_run_and_leaves_without_a_jump() -> None:
    above, both = expected_behind([0.5, 0.48999, 0.01001])
    below, one = expected_behind([0.5, 0.49001, 0.00999])
    assert (both, one) == (3, 2)
    assert abs(above - below) < 1e-4
    exact = 0.5 * 0.9 + 0.49 * 0.2
    np.testing.assert_allclose(below, exact / 0.99, atol=0.01)


def test_probabilities_add_up_whatever_the_logits() -> None:
    np.testing.assert_allclose(shares_of([1000.0, 1000.0, -1000.0]), [0.5, 0.5, 0.0])


def test_a_written_verdict_marks_where_labels_are_decided() -> None:
    config, tokens = samples.config(max_rationale=60), samples.tokens()
    plan = plan_of(config, tokens, WORDS)
    chosen = (4, 3, 2, 1, 0, 4, 3, 2, 1, 0)
    verdict = verdict_of_choices(chosen, ["we", "call"], plan.phones)
    written = write(plan, verdict, tokens.encode("Fine."), config.end_ids[0])
    assert tuple(d.label for d in written.decisions) == chosen
    for decision in written.decisions:
        assert written.ids[decision.position + 1] == decision.options[decision.label]
    # The slot of a word stands right before its label is decided.
    size = config.language_model.vocabulary
    shared = len(label_choice(tokens.encode, "")[0])
    assert written.ids[written.decisions[3].position - shared] == size + 1
    rationale = [written.ids[at + 1] for at in written.free]
    assert rationale == [*tokens.encode("Fine."), config.end_ids[0]]
    start = len(plan.before)
    text = tokens.decode([t for t in written.ids[start:-1] if t < size])
    assert text == render(dataclasses.replace(verdict, rationale="Fine."))


def test_a_rationale_says_what_the_labels_say() -> None:
    verdict = verdict_of_choices((3, 4, 2, 4, 1, 4, 4, 4, 0, 2), ["we", "call"], ["W"] * 5)
    verdict = dataclasses.replace(
        verdict, phones=tuple(zip(("W", "IY", "K", "AO", "L"), (4, 4, 4, 0, 2), strict=True))
    )
    assert rationale_of(verdict, WORDS) == (
        "Accuracy is good, fluency is excellent and prosody is average. "
        'The word "call" is bad: its AO is worst and its L is average.'
    )
    clear = verdict_of_choices((4,) * 10, ["we", "call"], ["W", "IY", "K", "AO", "L"])
    assert rationale_of(clear, WORDS).endswith("Every word is clear.")


def test_labels_that_begin_alike_are_refused() -> None:
    def encode(text: str) -> tuple[int, ...]:
        return (7, ord(text[-1]), 3) if text != "Good" else (7, ord("d"), 4)

    with pytest.raises(ValueError, match="begin"):
        label_choice(encode, "")


def test_a_text_of_too_many_words_is_refused() -> None:
    with pytest.raises(UsageError, match="sentence by sentence"):
        spoken_words(samples.config(), Lexicon({}), "we call it " * 3)


def test_a_configuration_survives_json() -> None:
    config = samples.config()
    assert MultiGranularConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("aspects", [{"name": "total"}]),
        ("label_scores", {"word": [1, 2, 3, 4, 5]}),
        ("layer_weights", [1.0]),
        ("stack", 7),
        ("suffix_ids", []),
        ("end_ids", [100]),
        ("max_audio_s", 0.5),
        ("least_fit", "low"),
        ("backbones", {"prior": "x"}),
        ("max_words", 0),
        ("unknown", 1),
    ],
)
def test_a_wrong_field_is_named(name: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=name):
        MultiGranularConfig.from_dict({**samples.config().to_dict(), name: value})


def test_control_tokens_in_a_text_stay_text() -> None:
    tokens = samples.tokens()
    ids = tokens.encode("<|im_end|> call")
    assert not set(ids) & {0, 1}
    assert tokens.decode(ids) == "<|im_end|> call"
    with pytest.raises(UsageError, match="'<'"):
        spoken_words(samples.config(), Lexicon({}), "<|im_end|> call")


def test_a_choice_is_of_five_labels() -> None:
    shared, choice = label_choice(samples.tokens().encode, " ")
    assert len(choice.options) == 5
    assert isinstance(choice, Choice)
    assert len(shared) == 1  # the space, a token of its own here


def test_a_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    for content in (b"{}", b"\xff", b"[1"):
        (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(CheckpointError):
            samples.TextTokens.read(tmp_path / "tokenizer.json")
    with pytest.raises(CheckpointError):
        samples.TextTokens.read(tmp_path / "none.json")
