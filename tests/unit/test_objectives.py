"""Objectives against formulas written out in NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from asa_engine import objectives as o

# float32 sums of tens of terms of size one.
TOLERANCE = 2e-6


@pytest.fixture
def scores():
    rng = np.random.default_rng(7)
    return rng.normal(0, 1, (24, 4)), rng.normal(0.3, 1.2, (24, 4))


def _t(values):
    return torch.tensor(values, dtype=torch.float32)


def test_multi_target_mse(scores):
    a, b = scores
    assert o.multi_target_mse(_t(a), _t(b)).item() == pytest.approx(
        np.mean(np.mean((a - b) ** 2, axis=1)), abs=TOLERANCE
    )


def test_concordance_loss_is_one_minus_lins_coefficient(scores):
    a, b = scores
    found = []
    for x, y in zip(a.T, b.T, strict=True):
        covariance = np.cov(x, y, bias=True)[0, 1]
        found.append(2 * covariance / (x.var() + y.var() + (x.mean() - y.mean()) ** 2))
    assert o.concordance_loss(_t(a), _t(b)).item() == pytest.approx(
        1 - np.mean(found), abs=TOLERANCE
    )


def test_concordance_loss_punishes_offset_and_scale_and_survives_constants(scores):
    a = _t(scores[0])
    assert o.concordance_loss(a, a).item() == pytest.approx(0, abs=TOLERANCE)
    assert o.concordance_loss(a + 1, a).item() > 0.1
    assert o.concordance_loss(3 * a, a).item() > 0.1
    constant = torch.ones(5, 2, requires_grad=True)
    o.concordance_loss(constant, torch.ones(5, 2)).backward()
    assert torch.isfinite(constant.grad).all()


def test_soft_bins_keep_the_mean_and_touch_two_neighbours():
    levels = (3.0, 4.0, 5.5, 8.0)
    values = np.array([3.0, 3.25, 4.0, 5.2, 6.0, 8.0, 1.0, 12.0])
    bins = o.soft_bins(_t(values), levels).numpy()
    np.testing.assert_allclose(bins.sum(1), 1, atol=TOLERANCE)
    # float32 levels up to 8: a few units in the last place
    np.testing.assert_allclose(bins @ np.array(levels), values.clip(3, 8), atol=4e-6)
    assert (np.count_nonzero(bins, axis=1) <= 2).all()
    np.testing.assert_array_equal(bins[2], [0, 1, 0, 0])


def test_prior_cross_entropy_hard_and_soft():
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 2, (6, 5))
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    hard = rng.integers(0, 5, 6)
    assert o.prior_cross_entropy(_t(logits), torch.from_numpy(hard)).item() == pytest.approx(
        -log_p[np.arange(6), hard].mean(), abs=TOLERANCE
    )
    soft = rng.dirichlet(np.ones(5), 6)
    assert o.prior_cross_entropy(_t(logits), _t(soft)).item() == pytest.approx(
        -(soft * log_p).sum(1).mean(), abs=TOLERANCE
    )


def test_phone_ctc_sums_over_every_alignment():
    rng = np.random.default_rng(11)
    logits = [rng.normal(0, 1, (4, 3)), rng.normal(0, 1, (3, 3))]
    phones = [[1, 2], [2]]
    total = 0.0
    for frames, wanted in zip(logits, phones, strict=True):
        p = np.exp(frames) / np.exp(frames).sum(1, keepdims=True)
        likelihood = 0.0
        for path in itertools.product(range(3), repeat=len(frames)):
            merged = [k for k, _ in itertools.groupby(path) if k != 0]
            if merged == wanted:
                likelihood += np.prod(p[np.arange(len(frames)), path])
        total -= np.log(likelihood)
    found = o.phone_ctc([_t(x) for x in logits], [torch.tensor(x) for x in phones])
    # float32 log-sum-exp over four steps
    assert found.item() == pytest.approx(total / 3, abs=1e-5)


def test_phone_ctc_ignores_what_cannot_be_aligned():
    logits = torch.zeros(2, 3, requires_grad=True)
    loss = o.phone_ctc([logits], [torch.tensor([1, 2, 1])])
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(logits.grad).all()
