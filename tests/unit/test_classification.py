"""Objectives of classifiers against formulas written out in NumPy, and their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from asa_engine import objectives as o

# float64 sums of a few dozen terms of size one.
TOLERANCE = 1e-12
COUNTS = (176, 201, 172, 804, 647)


@pytest.fixture
def batch():
    rng = np.random.default_rng(23)
    return rng.normal(0, 3, (24, 5)), rng.integers(0, 5, 24)


def _log_softmax(z):
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def _picked(z, y):
    return np.array([row[label] for row, label in zip(_log_softmax(z), y, strict=True)])


def _t(values):
    return torch.from_numpy(values)


def _noise(seed, shape, sigma):
    generator = torch.Generator().manual_seed(seed)
    return sigma * torch.randn(shape, generator=generator, dtype=torch.float64).numpy()


def test_cross_entropy(batch):
    z, y = batch
    assert o.cross_entropy(_t(z), _t(y)).item() == pytest.approx(
        -_picked(z, y).mean(), abs=TOLERANCE
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_loss(batch, gamma):
    z, y = batch
    p = np.exp(_picked(z, y))
    wanted = -np.mean((1 - p) ** gamma * np.log(p))
    assert o.focal_loss(_t(z), _t(y), gamma).item() == pytest.approx(wanted, abs=TOLERANCE)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_stays_finite_where_the_answer_is_certain(gamma):
    z = torch.tensor([[800.0, 0.0], [0.0, 800.0]], requires_grad=True)
    loss = o.focal_loss(z, torch.tensor([0, 0]), gamma)
    loss.backward()
    assert loss.item() == pytest.approx(400.0)  # half of the examples are 800 nats wrong
    assert torch.isfinite(z.grad).all()


def test_variation_scales_follow_rarity_and_end_at_one():
    wanted = [math.log(sum(COUNTS) / q) for q in COUNTS]
    wanted = [value / max(wanted) for value in wanted]
    found = o.variation_scales(COUNTS).tolist()
    assert found == pytest.approx(wanted, abs=1e-7)  # one rounding to float32
    assert max(found) == 1.0
    assert found.index(1.0) == COUNTS.index(min(COUNTS))


@pytest.mark.parametrize("counts", [(5,), (3, 0, 4), ()])
def test_variation_scales_need_examples_of_every_class(counts):
    with pytest.raises(ValueError, match="needs examples"):
        o.variation_scales(counts)


@pytest.mark.parametrize(("sigma", "clamp"), [(2.0, None), (6.0, None), (6.0, 1.0)])
def test_blv_is_the_cross_entropy_of_raised_logits(batch, sigma, clamp):
    z, y = batch
    scales = o.variation_scales(COUNTS)
    found = o.balanced_logit_variation(
        _t(z), _t(y), scales, sigma, clamp, torch.Generator().manual_seed(5)
    )
    delta = _noise(5, z.shape, sigma)
    if clamp is not None:
        delta = np.minimum(np.maximum(delta, -clamp), clamp)
    raised = z + scales.double().numpy() * np.abs(delta)
    assert found.item() == pytest.approx(-_picked(raised, y).mean(), abs=TOLERANCE)


def test_blv_without_noise_is_cross_entropy(batch):
    z, y = _t(batch[0]), _t(batch[1])
    scales = o.variation_scales(COUNTS)
    assert o.balanced_logit_variation(z, y, scales, 0.0).item() == pytest.approx(
        o.cross_entropy(z, y).item(), abs=TOLERANCE
    )


def test_blv_draws_anew_each_time_and_for_each_example_and_class():
    z = torch.zeros(4, 5, dtype=torch.float64, requires_grad=True)
    y = torch.zeros(4, dtype=torch.int64)
    generator = torch.Generator().manual_seed(1)
    losses = {
        o.balanced_logit_variation(z, y, torch.ones(5), 2.0, None, generator).item()
        for _ in range(3)
    }
    assert len(losses) == 3
    (grad,) = torch.autograd.grad(
        o.balanced_logit_variation(z, y, torch.ones(5), 2.0, None, generator), z
    )
    assert len(set(grad.flatten().tolist())) == grad.numel()


@pytest.mark.parametrize(
    "objective",
    [
        pytest.param(lambda z, y: o.cross_entropy(z, y), id="cross_entropy"),
        pytest.param(lambda z, y: o.focal_loss(z, y, 2.0), id="focal"),
        pytest.param(lambda z, y: o.focal_loss(z, y, 0.5), id="focal_root"),
        pytest.param(
            lambda z, y: o.balanced_logit_variation(
                z, y, o.variation_scales(COUNTS), 6.0, None, torch.Generator().manual_seed(2)
            ),
            id="blv",
        ),
        pytest.param(
            lambda z, y: o.balanced_logit_variation(
                z, y, o.variation_scales(COUNTS), 6.0, 1.0, torch.Generator().manual_seed(2)
            ),
            id="blv_clamped",
        ),
    ],
)
def test_gradients_agree_with_finite_differences(batch, objective):
    z, y = batch
    logits = _t(z[:6]).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: objective(values, _t(y[:6])), (logits,))
