"""Drift is measured on every aspect, judged by the precision's budget, and said in words."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from export_samples import make_checkpoint
from numpy.typing import NDArray

from asa_engine.bundle import Bundle
from asa_engine.errors import AudioError, BundleError, DriftError
from asa_engine.graders.aspects import AspectConfig
from asa_export.in_order import in_order
from asa_export.parity import REFERENCE, Parity, Scorer, compare
from asa_export.speech import Recording, synthetic_recordings, synthetic_speech

ASPECTS = (AspectConfig("fluency"), AspectConfig("total", scale_min=1.0, scale_max=4.0))
RNG = np.random.default_rng(11)
TRUTH = np.column_stack([RNG.uniform(2, 9, 150), RNG.uniform(1.5, 3.5, 150)])
EXPERTS = TRUTH + RNG.normal(0, 0.5, TRUTH.shape)


def recordings(count: int = 150) -> list[Recording]:
    """Silent recordings whose length, in hundredths of a second, is their row in TRUTH."""
    return [
        Recording(
            str(row),
            np.zeros(160 * (row + 10), np.float32),
            {"fluency": EXPERTS[row, 0], "total": EXPERTS[row, 1]},
        )
        for row in range(count)
    ]


def scorer(
    change: Callable[[NDArray[np.float64]], Any], precision: str, aspects: Any = ASPECTS
) -> Any:
    """A stand-in for `Scorer` whose scores are the truth, changed."""
    table = change(TRUTH.copy())
    return SimpleNamespace(
        variant=f"stub/{precision}",
        precision=precision,
        config=SimpleNamespace(aspects=aspects),
        score=lambda samples, texts, parts: table[samples.size // 160 - 10],
    )


def judged(change: Callable[[NDArray[np.float64]], Any], precision: str, **options: Any) -> Parity:
    reference = scorer(lambda scores: scores, "fp32")
    found = compare(reference, [scorer(change, precision)], recordings(), "stubs", **options)
    return found[0]


def test_the_figures_are_those_of_their_definitions() -> None:
    noise = np.random.default_rng(5).normal(0, 0.01, TRUTH.shape)
    found = judged(lambda scores: scores + noise, "int8").aspects
    for index, name in enumerate(("fluency", "total")):
        assert found[name].rms == pytest.approx(np.sqrt(np.mean(noise[:, index] ** 2)))
        assert found[name].max == pytest.approx(np.abs(noise[:, index]).max())
        assert found[name].mean == pytest.approx(noise[:, index].mean())
        before, after = TRUTH[:, index], TRUTH[:, index] + noise[:, index]
        experts = EXPERTS[:, index]
        change = np.corrcoef(after, experts)[0, 1] - np.corrcoef(before, experts)[0, 1]
        assert found[name].pcc_change == pytest.approx(change, abs=1e-9)
        rmse = [np.sqrt(np.mean((x - experts) ** 2)) for x in (before, after)]
        assert found[name].rmse_change == pytest.approx(rmse[1] - rmse[0], abs=1e-9)
    # README of the papers: int8 RMS 0.02 on a scale of width 6.
    assert found["fluency"].rms_budget == pytest.approx(0.02 * 10 / 6)
    assert found["total"].rms_budget == pytest.approx(0.02 * 3 / 6)


def test_levels_that_flip_are_counted() -> None:
    def over_a_cut(scores: NDArray[np.float64]) -> NDArray[np.float64]:
        scores[:7, 0] = np.floor(scores[:7, 0]) + 0.5 + 1e-9
        return scores

    near = TRUTH.copy()
    near[:7, 0] = np.floor(near[:7, 0]) + 0.5 - 1e-9
    reference = scorer(lambda _: near, "fp32")
    (found,) = compare(reference, [scorer(over_a_cut, "fp32")], recordings(7), "stubs")
    assert found.aspects["fluency"].level_flips == 7
    assert found.aspects["total"].level_flips == 0


@pytest.mark.parametrize(
    ("precision", "offset", "within"),
    [
        ("fp32", 1.5e-4, True),
        ("fp32", 1.8e-4, False),
        ("bf16", 0.016, True),
        ("bf16", 0.018, False),
        ("int8", 0.032, True),
        ("int8", 0.035, False),
        ("int4", 0.082, True),
        ("int4", 0.085, False),
    ],
)
def test_budgets_are_scaled_to_the_aspect(precision: str, offset: float, within: bool) -> None:
    found = judged(lambda scores: scores + np.array([offset, 0.0]), precision)
    assert (not found.exceeded) is within
    if not within:
        assert all(said.startswith("fluency") for said in found.exceeded)
        with pytest.raises(DriftError, match="fluency RMS"):
            found.check()


def test_one_broken_recording_is_found() -> None:
    def broken(scores: NDArray[np.float64]) -> NDArray[np.float64]:
        scores[3, 0] += 0.3
        return scores

    assert [said.split(" ")[1] for said in judged(broken, "int8").exceeded] == ["max"]


def test_not_a_number_is_over_every_budget() -> None:
    def broken(scores: NDArray[np.float64]) -> NDArray[np.float64]:
        scores[3, 1] = np.nan
        return scores

    assert any(said.startswith("total RMS nan") for said in judged(broken, "int4").exceeded)


def test_a_lost_correlation_is_over_the_budget() -> None:
    towards = 0.08 * np.sign(TRUTH.mean(0) - TRUTH) * np.sign(EXPERTS - TRUTH)
    found = judged(lambda scores: scores - np.abs(towards) * np.sign(EXPERTS - scores), "int4")
    assert any("PCC change" in said for said in found.exceeded)


def test_another_budget_can_be_set() -> None:
    assert judged(lambda scores: scores + 0.01, "int8", rms_budget=0.001).exceeded
    assert not judged(lambda scores: scores + 0.1, "int8", rms_budget=0.3).exceeded


def test_the_table_names_every_aspect() -> None:
    found = judged(lambda scores: scores + np.array([0.05, 0.0]), "int8")
    text = found.table()
    assert "fluency" in text
    assert "total" in text
    assert "over the budget: fluency RMS 0.05000 (at most 0.03333)" in text


def test_graders_of_other_scales_are_not_compared() -> None:
    other = scorer(lambda scores: scores, "fp32", aspects=ASPECTS[:1])
    with pytest.raises(BundleError, match="different aspects"):
        compare(scorer(lambda scores: scores, "fp32"), [other], recordings(), "stubs")


def test_recordings_that_only_one_of_the_two_scores_are_counted() -> None:
    reference = scorer(lambda scores: scores, "fp32")
    candidate = scorer(lambda scores: scores, "int8")
    silent = {recordings()[0].samples().size}
    candidate.score = lambda samples, texts, parts: (
        None if samples.size in silent else reference.score(samples, texts, parts)
    )
    found = compare(reference, [candidate], recordings(), "stubs")[0]
    assert found.split == 1
    assert found.recordings == len(recordings()) - 1
    few = [r for r in recordings() if r.samples().size in silent] + recordings()[1:20]
    assert (
        "1 recordings are scored by only one"
        in compare(reference, [candidate], few, "")[0].exceeded[0]
    )
    neither = compare(candidate, [candidate], recordings(), "stubs")[0]
    assert (neither.split, neither.exceeded) == (0, ())


def test_nothing_long_enough_is_an_error() -> None:
    reference = scorer(lambda scores: scores, "fp32")
    with pytest.raises(AudioError, match="no recording"):
        compare(reference, [reference], [Recording("a", np.zeros(100, np.float32))], "stubs")


def test_synthetic_recordings_are_sound_and_always_the_same() -> None:
    first, again = synthetic_recordings(), synthetic_recordings()
    assert len(first) >= 10
    for one, other in zip(first, again, strict=True):
        samples = one.samples()
        np.testing.assert_array_equal(samples, other.samples())
        assert samples.dtype == np.float32
        assert 0.001 < np.sqrt(np.mean(samples**2)) < 0.5
        assert np.abs(samples).max() <= 1


def test_recordings_scored_at_a_time_have_the_scores_of_those_scored_in_turn(
    tmp_path: Path,
) -> None:
    bundle = Bundle.open(make_checkpoint(tmp_path))
    speech = synthetic_recordings()
    scorers = [Scorer(bundle, *REFERENCE) for _ in range(2)]
    taken: list[str] = []

    def counted() -> Iterator[Recording]:
        for recording in speech:
            taken.append(recording.id)
            yield recording

    one, three = (
        compare(scorers[0], scorers[1:], counted(), "synthetic", workers=workers)[0]
        for workers in (1, 3)
    )
    assert taken == 2 * [recording.id for recording in speech]
    assert three == one
    assert one.recordings == len(speech)


def test_results_come_in_the_order_of_the_items_and_the_first_error_is_raised() -> None:
    def slowest_first(item: int) -> int:
        time.sleep(0.02 / (1 + item))
        if item == 5:
            raise ValueError(item)
        return item

    results = in_order(slowest_first, range(8), 4)
    assert [next(results) for _ in range(5)] == list(range(5))
    with pytest.raises(ValueError, match="5"):
        next(results)
    assert list(in_order(slowest_first, range(5), 4)) == list(range(5))


def test_speech_of_sessions_keeps_its_parts() -> None:
    names = ("P1", "P3", "P4", "P5")
    made_up = synthetic_speech(names)
    for session in (*made_up.calibration, *made_up.judging):
        assert tuple(part for part, _ in session.responses()) == names
        assert len(session.samples()) == sum(len(said) for _, said in session.responses())
