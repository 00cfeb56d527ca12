"""Metrics against SciPy-free definitions written out another way."""

from __future__ import annotations

import math

import numpy as np
import pytest

from asa_engine import metrics as m

# Sums of a few hundred float64 terms: agreement far below this is all that rounding allows.
TOLERANCE = 1e-12


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    expected = np.round(rng.uniform(0, 10, 300))
    return expected + rng.normal(0, 1.5, 300), expected


def test_pcc_is_the_corrcoef_entry(pair):
    assert m.pcc(*pair) == pytest.approx(np.corrcoef(*pair)[0, 1], abs=TOLERANCE)


def test_srcc_ranks_ties_by_their_mean(pair):
    predicted, expected = pair

    def ranks(values):
        return [(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values]

    wanted = np.corrcoef(ranks(predicted), ranks(expected))[0, 1]
    assert m.srcc(predicted, expected) == pytest.approx(wanted, abs=TOLERANCE)
    assert m.srcc([1, 2, 3, 9], [1, 4, 9, 16]) == pytest.approx(1.0, abs=TOLERANCE)


def test_errors_of_a_worked_example():
    predicted, expected = [1.0, 2.5, 4.0, 9.0], [1.5, 2.5, 2.0, 8.0]
    assert m.rmse(predicted, expected) == pytest.approx(math.sqrt(5.25 / 4), abs=TOLERANCE)
    assert m.mae(predicted, expected) == pytest.approx(3.5 / 4, abs=TOLERANCE)
    assert m.within(predicted, expected, 0.5) == 0.5
    assert m.within(predicted, expected, 1.0) == 0.75


def test_qwk_is_the_confusion_matrix_definition(pair):
    predicted, expected = pair
    a = np.floor(predicted + 0.5).astype(int)
    b = np.floor(expected + 0.5).astype(int)
    low, size = min(a.min(), b.min()), max(a.max(), b.max()) - min(a.min(), b.min()) + 1
    observed = np.zeros((size, size))
    for i, j in zip(a - low, b - low, strict=True):
        observed[i, j] += 1
    chance = np.outer(observed.sum(1), observed.sum(0)) / len(a)
    weight = np.subtract.outer(np.arange(size), np.arange(size)) ** 2
    wanted = 1 - (weight * observed).sum() / (weight * chance).sum()
    assert m.qwk(predicted, expected) == pytest.approx(wanted, abs=TOLERANCE)


def test_constant_scores_have_no_correlation():
    assert math.isnan(m.pcc([1, 1, 1], [1, 2, 3]))
    assert math.isnan(m.qwk([2, 2], [2, 2]))


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 2.0]), ([[1.0]], [[1.0]])])
def test_vectors_that_do_not_pair_are_refused(a, b):
    with pytest.raises(ValueError, match="two vectors"):
        m.metrics(a, b)


def test_metrics_name_what_evaluate_promises(pair):
    names = ["pcc", "srcc", "rmse", "mae", "within_0_5", "within_1_0", "qwk"]
    assert list(m.metrics(*pair)) == names


def test_classification_of_a_worked_example():
    expected = [0, 0, 0, 0, 1, 1, 2, 2, 2, 3]
    predicted = [0, 0, 0, 1, 1, 0, 2, 2, 1, 2]
    counts = m.confusion(predicted, expected, 5)
    np.testing.assert_array_equal(
        counts,
        [[3, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 2, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]],
    )
    assert m.accuracy(counts) == pytest.approx(6 / 10, abs=TOLERANCE)
    # The fifth class has neither examples nor predictions: nothing can be said of it.
    assert m.macro_accuracy(counts) == pytest.approx((3 / 4 + 1 / 2 + 2 / 3 + 0) / 4, abs=TOLERANCE)
    # Precision and recall: 3/4 3/4, 1/3 1/2, 2/3 2/3, none.
    assert m.macro_f1(counts) == pytest.approx((3 / 4 + 2 / 5 + 2 / 3 + 0) / 4, abs=TOLERANCE)


def test_a_class_predicted_but_never_there_costs_f1_alone():
    counts = m.confusion([0, 1], [0, 0], 2)
    assert m.macro_accuracy(counts) == pytest.approx(0.5, abs=TOLERANCE)
    assert m.macro_f1(counts) == pytest.approx((2 / 3 + 0) / 2, abs=TOLERANCE)


@pytest.mark.parametrize(("a", "b"), [([3], [0]), ([0], [3]), ([-1], [0])])
def test_what_is_no_class_is_refused(a, b):
    with pytest.raises(ValueError, match="class indices"):
        m.confusion(a, b, 3)
