"""The pronunciation grader: its numbers, its judges, its run."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pronunciation_samples import READING, vocabulary, write_grader
from safetensors.torch import save

from asa_engine.artifacts.safetensors import Tensors
from asa_engine.bundle import Bundle
from asa_engine.features.phone_alignment import align
from asa_engine.graders.pronunciation.describe import (
    GAPS,
    classes_of,
    describe_free,
    describe_gaps,
    describe_text,
    describe_words,
)
from asa_engine.graders.pronunciation.hypothesis import phone_run
from asa_engine.graders.pronunciation.judge import Judge, Pooled
from asa_engine.graders.pronunciation.measures import (
    PHONE_SCALARS,
    WORD_SCALARS,
    Forced,
    Segments,
    phone_scalars,
)
from asa_engine.graders.pronunciation.model import TorchStages
from asa_engine.graders.pronunciation.plan import groups_of, lay, leaps_of, tokens_of
from asa_engine.graders.pronunciation.stages import (
    NetworkReader,
    eight_bits,
    network_names,
    open_native,
)
from asa_engine.kernels import log_mel
from asa_engine.recogniser.vocabulary import Vocabulary
from asa_engine.text import speak
from asa_engine.training.pronunciation.network import JudgeNetwork, Shape
from asa_engine.training.pronunciation.phones import Lesson, align_many

SPOKEN = [["HH", "AH0", "L", "OW1"], ["DH", "EH1", "R"]]


def posteriors(frames: int, seed: int = 0) -> NDArray[np.float32]:
    logits = np.random.default_rng(seed).normal(0, 2, (frames, 40))
    return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)


def laid(frames: int, seed: int = 0) -> tuple[NDArray[np.float32], Segments, float]:
    heard = posteriors(frames, seed)
    sounds = classes_of(SPOKEN)
    found = align(heard, sounds.classes.tolist(), sounds.owners.tolist())
    assert found is not None
    return heard, Segments(found.spans, sounds.classes, sounds.owners, sounds.stress), found.fit


def forced(tokens: list[int], frames: int, seed: int = 0) -> Forced:
    random = np.random.default_rng(seed)
    count = len(tokens) + 1
    attended = random.random((count, frames)).astype(np.float32)
    numbers = random.random((6, count)).astype(np.float32)
    return Forced(
        own=-numbers[0],
        best=-numbers[1],
        rank=numbers[2],
        entropy=numbers[3],
        quiet=-2 * numbers[0],
        attended=attended / attended.sum(1, keepdims=True),
        att_entropy=numbers[4],
        att_peak=numbers[5],
        owners=np.array(tokens),
    )


def test_numbers_of_a_phone_are_what_a_plain_loop_gives() -> None:
    heard, segments, _ = laid(40)
    levels = np.linspace(-40, -20, 40).astype(np.float32)
    usual = np.tile(np.array([[1.0, 0.5]], np.float32), (40, 1))
    rows, means = phone_scalars(heard, levels, segments, usual)
    at = {name: i for i, name in enumerate(PHONE_SCALARS)}
    for row, mean, (start, end), phone in zip(
        rows, means, segments.spans.tolist(), segments.classes.tolist(), strict=True
    ):
        said = heard[start:end].astype(np.float64)
        rivals = np.delete(said, [0, phone], axis=1).max(1)
        expected = {
            "own_mean": said[:, phone].mean(),
            "own_max": said[:, phone].max(),
            "own_min": said[:, phone].min(),
            "own_sd": said[:, phone].std(),
            "lead_mean": (said[:, phone] - rivals).mean(),
            "distance": (said[:, phone] - said.max(1)).mean(),
            "log_frames": np.log(end - start),
            "length": (np.log(end - start) - 1.0) / 0.5,
        }
        for name, value in expected.items():
            # float32 sums of a dozen numbers of this size.
            assert row[at[name]] == pytest.approx(value, abs=2e-4), name
        np.testing.assert_allclose(mean, np.exp(said).mean(0), atol=1e-5)


def test_silence_around_the_speech_changes_no_number_of_a_reading() -> None:
    heard, segments, fit = laid(40)
    frames = np.random.default_rng(1).normal(size=(40, 8)).astype(np.float32)
    levels = np.full(40, -30.0, np.float32)
    usual = np.tile(np.array([[1.0, 0.5]], np.float32), (40, 1))
    told = forced([0, 1], 40)
    one = describe_text(frames, heard, levels, segments, fit, told, usual)

    more = 25
    quiet = np.full((more, 40), -9.0, np.float32)
    quiet[:, 0] = 0.0
    moved = dataclasses.replace(segments, spans=segments.spans + more)
    pad = np.zeros((more, 8), np.float32)
    two = describe_text(
        np.concatenate((pad, frames, pad)),
        np.concatenate((quiet, heard, quiet)),
        np.concatenate((np.full(more, -80.0), levels, np.full(more, -80.0))).astype(np.float32),
        moved,
        fit,
        dataclasses.replace(told, attended=np.pad(told.attended, ((0, 0), (more, more)))),
        usual,
    )
    np.testing.assert_allclose(two.phones, one.phones, atol=1e-6)
    assert one.words is not None
    assert two.words is not None
    np.testing.assert_allclose(two.words, one.words, atol=1e-5)
    np.testing.assert_allclose(two.reading, one.reading, atol=1e-5)


def test_tables_have_a_column_for_every_name() -> None:
    heard, segments, fit = laid(60)
    frames = np.random.default_rng(1).normal(size=(60, 8)).astype(np.float32)
    levels = np.full(60, -30.0, np.float32)
    usual = np.tile(np.array([[1.0, 0.5]], np.float32), (40, 1))
    told = forced([0, 0, 1], 60)
    found = describe_text(frames, heard, levels, segments, fit, told, usual)
    assert found.phones.shape == (7, len(PHONE_SCALARS))
    assert found.words is not None
    assert found.words.shape == (2, len(WORD_SCALARS))
    assert found.reading.shape == (READING["text"],)
    gaps = describe_gaps(heard, levels, found, told)
    assert gaps.shape == (3, len(GAPS))
    free = describe_free(frames, heard, levels, usual)
    assert free is not None
    assert free.reading.shape == (READING["free"],)
    for table in (found.phones, found.words, found.reading, gaps, free.reading):
        assert np.isfinite(table).all()


def test_a_word_that_was_not_said_is_likelier_left_out() -> None:
    sounds = classes_of([["K", "AO1", "L"], ["IH1", "T"], ["B", "EH1", "R"]])
    said = sounds.classes[sounds.owners != 1]
    heard = np.full((6 * len(said), 40), -8.0, np.float32)
    for index, phone in enumerate(said):
        heard[6 * index : 6 * index + 6, phone] = -0.01
    found = align(heard, sounds.classes.tolist(), sounds.owners.tolist())
    assert found is not None
    segments = Segments(found.spans, sounds.classes, sounds.owners, sounds.stress)
    frames = np.zeros((len(heard), 8), np.float32)
    levels = np.full(len(heard), -30.0, np.float32)
    usual = np.tile(np.array([[1.0, 0.5]], np.float32), (40, 1))
    told = forced([0, 1, 2], len(heard))
    one = describe_text(frames, heard, levels, segments, found.fit, told, usual)
    leaps = np.array([0, 1, 0], np.float32)
    rows = describe_words(heard, one, told, leaps)
    assert rows.shape == (3, 2 * len(WORD_SCALARS) + 15)
    # Two frames are another phone's: 2 (8 - 0.01) nats over two phones.
    assert rows[1, -1] == pytest.approx(7.99, abs=0.01)
    assert max(rows[0, -1], rows[2, -1]) < -5
    np.testing.assert_array_equal(rows[:, -3], leaps)
    np.testing.assert_allclose(rows[:, -2], leaps * (told.best - told.own)[:3])


def test_the_decoder_leaps_where_it_would_write_the_next_word() -> None:
    found = Vocabulary(vocabulary(), "here")
    tokens, owners = tokens_of(found, ["the", "thing", "is"])
    firsts = np.flatnonzero(np.diff(owners, prepend=-1))
    other = np.full(len(tokens), tokens[0])
    other[firsts[0]] = found.encode(" Thing")[0]
    other[firsts[1]] = tokens[firsts[2]]
    other[firsts[2]] = tokens[-1]
    first = found.text([tokens[firsts[1]]]) == found.text([int(other[firsts[0]])])
    expected = [float(first), 1.0, 1.0]
    assert leaps_of(found, tokens, owners, other).tolist() == expected


def test_many_texts_are_laid_as_each_alone() -> None:
    random = np.random.default_rng(3)
    lessons, heard = [], []
    for seed in range(24):
        count = int(random.integers(1, 20))
        owners = np.cumsum(random.random(count) < 0.3)
        owners = np.unique(owners, return_inverse=True)[1]
        heard.append(posteriors(int(random.integers(max(2, count - 3), 60)), seed))
        nothing = np.zeros((len(heard[-1]), 2), np.float16)
        classes = random.integers(1, 40, count)
        lessons.append(Lesson(nothing, classes, owners, np.ones(count)))
    for rows, lesson, found in zip(heard, lessons, align_many(heard, lessons), strict=True):
        alone = align(rows, lesson.classes.tolist(), lesson.owners.tolist())
        assert (alone is None) == (found is None)
        if alone is not None and found is not None:
            np.testing.assert_array_equal(found[0], alone.spans)
            assert found[1] == pytest.approx(alone.fit, abs=1e-5)


def test_the_beginning_of_a_text_is_found_in_the_beginning_of_its_reading() -> None:
    classes = classes_of(SPOKEN).classes
    heard = np.full((4 * len(classes), 40), -8.0, np.float32)
    for index, phone in enumerate(classes):
        heard[4 * index : 4 * index + 4, phone] = -0.01
    owners = classes_of(SPOKEN).owners.tolist()
    for count in (1, 3, 5):
        found = align(heard[: 4 * count], classes.tolist(), owners, whole=False)
        assert found is not None
        assert found.spans.tolist() == [[4 * i, 4 * i + 4] for i in range(count)]


def test_the_pronunciation_that_was_said_is_taken() -> None:
    (word,) = speak("either").words
    assert len(word.pronunciations) > 1
    for said in word.pronunciations[:2]:
        classes = classes_of([said]).classes
        heard = np.full((5 * len(classes), 40), -8.0, np.float32)
        for index, phone in enumerate(classes):
            heard[5 * index : 5 * index + 5, phone] = -0.01
        found = lay(heard, [word])
        assert found is not None
        assert found[0].symbols == said


def test_a_run_of_phones_is_read_off_clear_posteriors() -> None:
    heard = np.full((30, 40), -8.0, np.float32)
    for start, phone in ((0, 0), (6, 5), (14, 9), (22, 0)):
        heard[start : start + 8, phone] = -0.01
    spans, classes = phone_run(heard)
    assert classes.tolist() == [5, 9]
    assert spans.tolist() == [[6, 14], [14, 22]]


def test_groups_hold_all_words_once_and_end_where_the_next_begins() -> None:
    spans = np.array([[i * 300, i * 300 + 200] for i in range(12)])
    groups = groups_of(spans, np.repeat(np.arange(12), 2), 3700)
    assert groups[0].words[0] == 0
    assert groups[-1].words[1] == 12
    assert groups[-1].frames[1] == 3700
    for one, two in itertools.pairwise(groups):
        assert one.words[1] == two.words[0]
        assert one.frames[1] == two.frames[0]
        assert one.frames[1] - one.frames[0] <= 24 * 50 + 300


def test_tokens_join_as_they_were_learnt(tmp_path: Path) -> None:
    found = Vocabulary(vocabulary(), "here")
    assert found.text(found.encode(" the thing")) == " the thing"
    ids = found.encode(" the")
    assert [vocabulary()[i] for i in ids] == ["\u0120the"]
    tokens, owners = tokens_of(found, ["i", "went"])
    assert found.text(tokens) == " I went."
    assert owners.tolist() == [0] * len(found.encode(" I")) + [1] * len(found.encode(" went."))


def test_weights_in_8_bits_are_read_back_and_stored_again_alike(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(6, 256)).astype(np.float32)
    stored = eight_bits({"a/weight": weight, "a/bias": weight[0]}, "decoder.")
    held = {name: torch.from_numpy(np.asarray(value)) for name, value in stored.items()}
    (tmp_path / "weights.safetensors").write_bytes(save(held))
    file = Tensors(tmp_path / "weights.safetensors")
    assert network_names(file, "decoder.") == {"a/weight": (6, 256), "a/bias": (256,)}
    read = NetworkReader(file, "decoder.")("a/weight", (6, 256))
    step = np.abs(weight.reshape(6, 2, 128)).max(2).max() / 127
    assert np.abs(read - weight).max() <= 0.51 * step
    again = eight_bits({"a/weight": read}, "decoder.")
    np.testing.assert_array_equal(again["decoder.a/weight"], stored["decoder.a/weight"])


def test_the_judge_computes_what_its_training_computes() -> None:
    torch.manual_seed(0)
    words, whole = 5, 9
    network = JudgeNetwork(Shape(inputs=11, whole=whole, words=words, width=16, seeds=3)).eval()
    _, segments, _ = laid(40)
    random = np.random.default_rng(0)
    rows = random.normal(size=(7, 11)).astype(np.float32)
    table = random.normal(size=(2, words)).astype(np.float32)
    numbers = random.normal(size=whole - 2).astype(np.float32)
    tensors = {f"text.{name}": value.numpy() for name, value in network.state().items()}
    one, nothing = np.ones(1, np.float32), np.zeros(1, np.float32)
    tensors |= {
        "text.reading.mean": np.zeros(whole - 2, np.float32),
        "text.reading.scale": np.ones(whole - 2, np.float32),
        "text.pooled.mean": np.zeros(4, np.float32),
        "text.pooled.scale": np.ones(4, np.float32),
        "text.pooled.directions": np.eye(4, 3, dtype=np.float32),
        "text.net_pooled": np.ones(2, np.float32),
        "text.words.mean": np.zeros(words, np.float32),
        "text.words.scale": np.ones(words, np.float32),
        "text.kernel.reading": np.ones(whole - 2, np.float32),
        "text.kernel.pooled": np.ones(3, np.float32),
        "text.kernel.centres": np.zeros((2, whole + 1), np.float32),
        "text.kernel.weights": np.zeros((2, 4), np.float32),
        "text.kernel.mean": np.zeros(4, np.float32),
        "text.blend": np.ones(4, np.float32),
    }
    for name in ("scores", "word_scores", "phone_scores"):
        tensors |= {f"text.{name}.mean": nothing, f"text.{name}.scale": one}
    pooled = Pooled(2, np.array([2.0, 0.0, 4.0, 2.0]))
    judge = Judge(tensors, "text", heads=4)
    found = judge(rows, segments, table, numbers, pooled)
    profile = pooled.profile()
    with torch.no_grad():
        said = network(
            torch.from_numpy(rows)[None],
            torch.from_numpy(segments.classes)[None],
            torch.ones(1, 7, dtype=torch.bool),
            torch.from_numpy(segments.owners)[None],
            torch.from_numpy(table)[None],
            torch.from_numpy(np.concatenate((numbers, profile[:2])).astype(np.float32))[None],
        )
    # The same float32 sums in another order.
    np.testing.assert_allclose(found.scores, said.scores[:, 0].mean(0), atol=2e-5)
    np.testing.assert_allclose(found.words, said.words[:, 0].mean(0), atol=2e-5)
    np.testing.assert_allclose(found.phones, said.phones[:, 0].mean(0), atol=2e-5)


def test_kernels_and_pytorch_hear_and_write_the_same(tmp_path: Path) -> None:
    bundle = Bundle.open(write_grader(tmp_path / "grader"))
    ours = open_native(bundle, "fp32", 1)
    theirs = TorchStages.load(bundle.path)
    samples = np.random.default_rng(0).normal(0, 0.05, 24_000).astype(np.float32)
    mel = log_mel(samples)
    one, two = ours.encode(mel), theirs.encode(mel)
    np.testing.assert_allclose(one.frames, two.frames, atol=2e-3)
    frames = np.ascontiguousarray(two.frames[:, two.frames.shape[1] // 2 :])
    tokens = ours.vocabulary.encode(" the thing.")
    a, b = ours.write(frames, tokens), theirs.write(frames, tokens)
    for name in ("own", "best", "entropy", "attended", "att_entropy", "att_peak"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=2e-4, err_msg=name)
    np.testing.assert_allclose(ours.write_quiet(tokens), theirs.write_quiet(tokens), atol=2e-3)
