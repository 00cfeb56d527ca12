"""Objectives of the speech LLM and of preferences against formulas written out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asa_engine import objectives as o

# float64 sums of a few dozen terms of size one.
TOLERANCE = 1e-12
SCORES = (3.0, 4.0, 5.5, 6.0, 9.0)


@pytest.fixture
def batch():
    rng = np.random.default_rng(31)
    return rng.normal(0, 3, (40, len(SCORES))), rng.uniform(2.0, 10.0, 40)


def _t(values):
    return torch.from_numpy(np.asarray(values))


def _softmax(z):
    powers = np.exp(z - z.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def test_fair_average_is_the_squared_error_of_the_expected_score(batch):
    z, y = batch
    wanted = np.mean([(sum(p * s for p, s in zip(_softmax(row), SCORES, strict=True)) - t) ** 2
                      for row, t in zip(z, y, strict=True)])  # fmt: skip
    assert o.fair_average(_t(z), _t(y), SCORES).item() == pytest.approx(wanted, rel=TOLERANCE)


def test_fair_average_renormalises_over_the_labels():
    """The labels' share of a whole vocabulary's softmax, renormalised, is their own softmax."""
    rng = np.random.default_rng(5)
    vocabulary = rng.normal(0, 2, 50)
    labels = [3, 7, 8, 21, 49]
    share = _softmax(vocabulary)[labels]
    wanted = (share / share.sum() * SCORES).sum()
    found = o.expected_score(_t(vocabulary[labels])[None], SCORES)
    assert found.item() == pytest.approx(wanted, rel=TOLERANCE)


def test_soft_labels_split_a_score_between_its_neighbours(batch):
    z, y = batch
    terms = []
    for row, t in zip(z, y, strict=True):
        t = min(max(t, SCORES[0]), SCORES[-1])
        upper = next(k for k, s in enumerate(SCORES) if s >= t and k)
        share = (t - SCORES[upper - 1]) / (SCORES[upper] - SCORES[upper - 1])
        log_p = np.log(_softmax(row))
        terms.append(-share * log_p[upper] - (1 - share) * log_p[upper - 1])
    found = o.soft_label_cross_entropy(_t(z), _t(y), SCORES).item()
    assert found == pytest.approx(np.mean(terms), rel=TOLERANCE)


def test_hard_labels_are_the_nearest(batch):
    z, y = batch
    nearest = [int(np.argmin([abs(t - s) for s in SCORES])) for t in y]
    wanted = -np.mean([np.log(_softmax(row)[k]) for row, k in zip(z, nearest, strict=True)])
    found = o.label_cross_entropy(_t(z), _t(y), SCORES).item()
    assert found == pytest.approx(wanted, rel=TOLERANCE)


def test_a_score_between_two_labels_goes_to_the_higher():
    z = torch.tensor([[0.0, 5.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    at_middle = o.label_cross_entropy(z, torch.tensor([3.5], dtype=torch.float64), SCORES)
    at_label = o.label_cross_entropy(z, torch.tensor([4.0], dtype=torch.float64), SCORES)
    assert at_middle.item() == at_label.item()


def test_response_log_probability_is_the_mean_over_the_response():
    rng = np.random.default_rng(8)
    logits, tokens = rng.normal(0, 1, (3, 6, 11)), rng.integers(0, 11, (3, 6))
    mask = np.array([[0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1]])
    wanted = [
        np.mean([np.log(_softmax(z[t])[k[t]]) for t in range(6) if m[t]])
        for z, k, m in zip(logits, tokens, mask, strict=True)
    ]
    found = o.response_log_probability(_t(logits), _t(tokens), _t(mask))
    np.testing.assert_allclose(found.numpy(), wanted, rtol=TOLERANCE)
    loss = o.supervised_fine_tuning(found)
    assert loss.item() == pytest.approx(-np.mean(wanted), rel=TOLERANCE)


def _pairs():
    rng = np.random.default_rng(13)
    return [rng.normal(-3, 2, 20) for _ in range(4)]


@pytest.mark.parametrize("mix", [0.1, 0.5, 0.9])
def test_bounded_dpo_is_its_definition(mix):
    w, lose, ref_w, ref_l = _pairs()
    mixed = np.log(mix * np.exp(lose) + (1 - mix) * np.exp(ref_l))
    margin = 0.3 * ((w - ref_w) - (mixed - ref_l))
    wanted = np.mean(np.log1p(np.exp(-margin)))
    found = o.bounded_dpo(*map(_t, (w, lose, ref_w, ref_l)), beta=0.3, mix=mix)
    assert found.item() == pytest.approx(wanted, rel=TOLERANCE)


def test_bounded_dpo_becomes_dpo():
    w, lose, ref_w, ref_l = _pairs()
    wanted = np.mean(np.log1p(np.exp(-0.1 * ((w - ref_w) - (lose - ref_l)))))
    pairs = [_t(x) for x in (w, lose, ref_w, ref_l)]
    assert o.bounded_dpo(*pairs, mix=1.0).item() == pytest.approx(wanted, rel=TOLERANCE)
    # The rejected term moves by log(mix) and at most (1 - mix) e^-r, r above -15 here.
    assert o.bounded_dpo(*pairs, mix=1 - 1e-12).item() == pytest.approx(wanted, abs=1e-5)


def test_what_a_rejected_response_can_pay_is_bounded():
    chosen = torch.zeros(1, dtype=torch.float64)
    bound = np.log1p(np.exp(0.1 * np.log(0.5)))
    far = torch.tensor([-1e4], dtype=torch.float64, requires_grad=True)
    loss = o.bounded_dpo(chosen, far, chosen, chosen, beta=0.1, mix=0.5)
    loss.backward()
    assert loss.item() == pytest.approx(bound, rel=TOLERANCE)
    assert torch.isfinite(far.grad).all()
    assert far.grad.item() == 0.0
    losses = [
        o.bounded_dpo(chosen, chosen - r, chosen, chosen, beta=0.1, mix=0.5).item()
        for r in (0.0, 1.0, 5.0, 30.0)
    ]
    assert losses == sorted(losses, reverse=True)
    assert min(losses) >= bound


@pytest.mark.parametrize("mix", [0.0, -0.5, 1.5])
def test_a_mix_out_of_range_is_refused(mix):
    zero = torch.zeros(1)
    with pytest.raises(ValueError, match="mix"):
        o.bounded_dpo(zero, zero, zero, zero, mix=mix)
