"""The multi-margin ordinal loss against loops over the paper's equations 8 and 9."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asa_engine.objectives.ordinal import AdjacentDistances, mmo


def by_loops(
    logits: np.ndarray, labels: np.ndarray, distances: np.ndarray, reduction: str = "triples"
) -> float:
    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b))

    terms, pairs = [], set()
    for i, y in enumerate(labels):
        for j, same in enumerate(labels):
            for k, other in enumerate(labels):
                if j != i and same == y and other != y:
                    low, high = sorted((y, other))
                    apart = sum(distances[t] for t in range(low, high))
                    near = cosine(logits[i], logits[k]) - cosine(logits[i], logits[j])
                    terms.append(max(0.0, apart + near))
                    pairs.add((i, j))
    if not terms:
        return 0.0
    return float(np.mean(terms)) if reduction == "triples" else float(sum(terms) / len(pairs))


@pytest.mark.parametrize("reduction", ["triples", "pairs"])
@pytest.mark.parametrize("seed", range(6))
def test_mmo_is_reduced_over_triples_as_named(seed, reduction):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(0, 2, (11, 5)), rng.integers(0, 5, 11)
    distances = rng.uniform(0.05, 0.9, 4)
    found = mmo(torch.tensor(logits), torch.tensor(labels), torch.tensor(distances), reduction)
    # float64 on both sides: sums of some hundred terms of size one.
    assert found.item() == pytest.approx(by_loops(logits, labels, distances, reduction), abs=1e-12)


def test_pairs_are_larger_by_the_negatives_that_each_has():
    rng = np.random.default_rng(1)
    logits, labels = torch.tensor(rng.normal(0, 2, (32, 8))), torch.arange(32) % 8
    distances = torch.full((7,), 0.7, dtype=torch.float64)
    triples, pairs = (mmo(logits, labels, distances, name) for name in ("triples", "pairs"))
    # Four of a kind among 32: 28 negatives for each pair. float64, the same sum.
    assert pairs.item() == pytest.approx(28 * triples.item(), rel=1e-12)
    with pytest.raises(ValueError, match="'batch'"):
        mmo(logits, labels, distances, "batch")


def test_farther_labels_ask_for_wider_margins():
    logits = torch.eye(3, dtype=torch.float64)[[0, 0, 1]]
    distances = torch.full((3,), 0.9, dtype=torch.float64)
    near = mmo(logits, torch.tensor([0, 0, 1]), distances)
    far = mmo(logits, torch.tensor([0, 0, 3]), distances)
    # cos(z_i, z_j) = 1 and cos(z_i, z_k) = 0: margins 0.9 - 1 and 2.7 - 1.
    assert near.item() == 0
    assert far.item() == pytest.approx(1.7, abs=1e-12)


def test_gradients_agree_with_finite_differences():
    rng = np.random.default_rng(3)
    logits = torch.tensor(rng.normal(0, 1, (7, 4)), requires_grad=True)
    labels = torch.tensor([0, 0, 1, 3, 3, 2, 1])
    distances = torch.tensor([0.6, 0.9, 0.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z, d: mmo(z, labels, d), (logits, distances))


@pytest.mark.parametrize("labels", [[0, 1, 2], [1, 1, 1]])
def test_a_batch_without_triples_costs_nothing_and_has_finite_gradients(labels):
    logits = torch.randn(3, 4, requires_grad=True)
    loss = mmo(logits, torch.tensor(labels), torch.ones(3))
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(logits.grad).all()


def test_distances_start_between_a_half_and_one_and_stay_positive():
    drawn = AdjacentDistances(8, torch.Generator().manual_seed(1))
    start = drawn().detach()
    assert start.shape == (7,)
    # softplus of its own inverse, in float32
    assert (start > 0.5 - 1e-6).all()
    assert (start < 1 + 1e-6).all()
    with torch.no_grad():
        drawn.theta.sub_(20)
    assert (drawn() > 0).all()
