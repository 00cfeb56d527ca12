"""Metrics against SciPy's and scikit-learn's, on edges too."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from asa_engine.evaluation import metrics as m

# Sums of a few hundred float64 terms: agreement far below this is all that rounding allows.
TOLERANCE = 1e-12
NAN = math.nan

CORRELATIONS: dict[str, tuple[Callable[..., float], Callable[..., float]]] = {
    "pcc": (m.pcc, lambda a, b: stats.pearsonr(a, b).statistic),
    "srcc": (m.srcc, lambda a, b: stats.spearmanr(a, b).statistic),
    "krc": (m.krc, lambda a, b: stats.kendalltau(a, b, variant="b").statistic),
}

EDGES = {
    "two of two": ([1.0, 2.0], [5.0, 3.0]),
    "a constant against itself": ([0.1] * 3, [0.1] * 3),
    "two constants": ([0.1] * 7, [0.7] * 7),
    "a constant against a varying one": ([0.1] * 7, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.5]),
    "a varying one against a constant": ([0.3, 0.1, 0.2], [0.7] * 3),
    "NaN predicted": ([1.0, NAN, 3.0], [1.0, 2.0, 3.0]),
    "NaN expected": ([1.0, 2.0, 3.0], [NAN, 2.0, 3.0]),
    "NaN beside a constant": ([NAN, 2.0, 3.0], [2.0, 2.0, 2.0]),
    "half points with ties": ([2.5, 3.0, 3.0, 4.5, 5.0, 3.5], [3.0, 3.0, 3.5, 4.0, 5.5, 3.0]),
    "tied in both": ([1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 1.0]),
    "upside down": ([1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]),
    "tiny differences": ([1e-170, 2e-170, 4e-170], [1.0, 2.0, 2.5]),
    "small differences on a large mean": ([1e8, 1e8 + 1, 1e8 + 3], [1.0, 2.0, 2.5]),
}


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    expected = np.round(rng.uniform(0, 10, 300))
    return expected + rng.normal(0, 1.5, 300), expected


def quietly(function: Callable[..., float], *values: object) -> float:
    """SciPy and scikit-learn warn where a value is undefined; the value is what is compared."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(function(*values))


@pytest.mark.parametrize("name", CORRELATIONS)
def test_correlations_are_scipys(name, pair):
    ours, theirs = CORRELATIONS[name]
    assert ours(*pair) == pytest.approx(theirs(*pair), abs=TOLERANCE)
    rounded = [np.round(values * 2) / 2 for values in pair]
    assert ours(*rounded) == pytest.approx(theirs(*rounded), abs=TOLERANCE)


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("name", CORRELATIONS)
def test_correlations_are_scipys_on_edges(name, edge):
    ours, theirs = CORRELATIONS[name]
    wanted = quietly(theirs, *EDGES[edge])
    assert ours(*EDGES[edge]) == pytest.approx(wanted, abs=TOLERANCE, nan_ok=True)


@pytest.mark.parametrize("name", CORRELATIONS)
def test_one_example_has_no_correlation(name):
    assert math.isnan(CORRELATIONS[name][0]([1.0], [2.0]))


@pytest.mark.parametrize("size", [2, 3, 17, 1000])
@pytest.mark.parametrize("values", [2, 5, 1000, 100_000])
def test_krc_counts_pairs_as_scipy_does(size, values):
    rng = np.random.default_rng([size, values])
    a, b = rng.integers(0, values, (2, size))
    wanted = quietly(CORRELATIONS["krc"][1], a, b)
    assert m.krc(a, b) == pytest.approx(wanted, abs=TOLERANCE, nan_ok=True)


def test_errors_of_a_worked_example():
    predicted, expected = [1.0, 2.5, 4.0, 9.0], [1.5, 2.5, 2.0, 8.0]
    assert m.rmse(predicted, expected) == pytest.approx(math.sqrt(5.25 / 4), abs=TOLERANCE)
    assert m.mae(predicted, expected) == pytest.approx(3.5 / 4, abs=TOLERANCE)
    assert m.within(predicted, expected, 0.5) == 0.5
    assert m.within(predicted, expected, 1.0) == 0.75


def test_errors_are_scikit_learns(pair):
    predicted, expected = pair
    wanted = sklearn_metrics.root_mean_squared_error(expected, predicted)
    assert m.rmse(predicted, expected) == pytest.approx(wanted, abs=TOLERANCE)
    wanted = sklearn_metrics.mean_absolute_error(expected, predicted)
    assert m.mae(predicted, expected) == pytest.approx(wanted, abs=TOLERANCE)


def test_no_error_hides_a_nan():
    for metric in (m.rmse, m.mae, lambda a, b: m.within(a, b, 0.5), m.qwk):
        assert math.isnan(metric([1.0, NAN], [1.0, 2.0]))
        assert math.isnan(metric([1.0, 2.0], [NAN, 2.0]))


def test_within_is_not_moved_by_rounding():
    assert 1.1 - 0.6 > 0.5  # in float64
    assert m.within([1.1, 1.11], [0.6, 0.6], 0.5) == 0.5


@pytest.mark.parametrize("step", [1.0, 0.5, 0.25])
def test_qwk_is_scikit_learns_in_steps_of_the_scale(pair, step):
    a, b = (np.floor(values / step + 0.5).astype(int) for values in pair)
    labels = np.arange(min(a.min(), b.min()), max(a.max(), b.max()) + 1)
    wanted = sklearn_metrics.cohen_kappa_score(a, b, labels=labels, weights="quadratic")
    assert m.qwk(*pair, step=step) == pytest.approx(wanted, abs=TOLERANCE)


def test_qwk_of_half_points_tells_half_points_apart():
    expected = [2.5, 3.0, 3.5, 4.0, 4.5, 3.0]
    predicted = [2.0, 3.0, 3.5, 4.5, 4.5, 3.5]
    twice = [[round(2 * value) for value in values] for values in (predicted, expected)]
    wanted = sklearn_metrics.cohen_kappa_score(*twice, labels=range(4, 10), weights="quadratic")
    assert m.metrics(predicted, expected)["qwk"] == pytest.approx(wanted, abs=TOLERANCE)
    assert m.qwk(predicted, expected) != pytest.approx(wanted, abs=0.01)  # in whole points


@pytest.mark.parametrize(
    ("a", "b"),
    [([2, 2], [2, 2]), ([2, 2], [3, 3]), ([2, 2], [2, 3]), ([1, 2], [2, 1]), ([4], [4])],
)
def test_qwk_is_scikit_learns_on_edges(a, b):
    def theirs(x, y):
        return sklearn_metrics.cohen_kappa_score(x, y, labels=range(6), weights="quadratic")

    wanted = quietly(theirs, a, b)
    assert m.qwk(a, b) == pytest.approx(wanted, abs=TOLERANCE, nan_ok=True)


@pytest.mark.parametrize(
    ("expected", "step"),
    [
        ([1.0, 2.0, 10.0], 1.0),
        ([2.5, 3.0], 0.5),
        ([2.5, 3.0, 3.125], 1.0),  # means
        ([0.1, 0.2], 1.0),
        ([NAN, 2.5], 1.0),
    ],
)
def test_the_step_of_a_scale_is_read_off_the_experts_scores(expected, step):
    assert m.scale_step(expected) == step


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 2.0]), ([[1.0]], [[1.0]])])
def test_vectors_that_do_not_pair_are_refused(a, b):
    with pytest.raises(ValueError, match="two vectors"):
        m.metrics(a, b)


def test_metrics_name_what_evaluate_promises(pair):
    names = ["pcc", "srcc", "krc", "rmse", "mae", "within_0_5", "within_1_0", "qwk"]
    assert list(m.metrics(*pair)) == list(m.METRICS) == names


def test_what_is_undefined_is_null_in_json():
    values = {"a": NAN, "b": math.inf, "c": np.float64(1 / 3)}
    assert m.defined(values) == {"a": None, "b": None, "c": 1 / 3}
    assert m.defined(values, digits=2) == {"a": None, "b": None, "c": 0.33}


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


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        ([0, 1, 2, 1, 0, 3], [0, 1, 1, 1, 2, 3]),
        ([0, 1], [0, 0]),  # predicted, but never there
        ([0, 0], [0, 1]),  # there, but never predicted
        ([2, 2, 2], [2, 2, 2]),  # one class
        ([1, 1], [0, 0]),  # all wrong
        ([3], [3]),
    ],
)
def test_classification_is_scikit_learns(predicted, expected):
    counts = m.confusion(predicted, expected, 4)
    wanted = sklearn_metrics.confusion_matrix(expected, predicted, labels=range(4))
    np.testing.assert_array_equal(counts, wanted)

    def macro_f1(a, b):
        return sklearn_metrics.f1_score(a, b, average="macro", zero_division=0)

    found = m.classification(counts)
    for name, theirs in (
        ("accuracy", sklearn_metrics.accuracy_score),
        ("macro_accuracy", sklearn_metrics.balanced_accuracy_score),
        ("macro_f1", macro_f1),
    ):
        assert found[name] == pytest.approx(quietly(theirs, expected, predicted), abs=TOLERANCE)


@pytest.mark.parametrize(
    ("a", "b"), [([3], [0]), ([0], [3]), ([-1], [0]), ([0.5], [0]), ([0], [NAN])]
)
def test_what_is_no_class_is_refused(a, b):
    with pytest.raises(ValueError, match="class indices"):
        m.confusion(a, b, 3)


def test_an_edit_distance_is_the_fewest_edits() -> None:
    said = "we call it bear".split()
    assert m.edit_distance([], []) == 0
    assert m.edit_distance(said, []) == m.edit_distance([], said) == 4
    assert m.edit_distance(said, "we called bear too".split()) == 3
