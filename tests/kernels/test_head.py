"""The head in one pass against NumPy in float64, with and without its kernel regressor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from other_isa import run_with_isa

from asa_engine import kernels
from asa_engine.kernels import reference
from asa_engine.kernels.head import Head

Weights = dict[str, NDArray[np.float32]]

# float32 products of a few thousand terms each; scores are of size 1 to 10 here.
SCORES, PRIOR = 1e-5, 1e-6


def random_head(
    width: int,
    heads: int,
    *,
    prior_width: int = 13,
    levels: int = 8,
    embedding: int = 5,
    hidden: int = 30,
    aspects: int = 3,
    outputs: int = 0,
    place: int = 9,
    centres: int = 0,
) -> Weights:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> NDArray[np.float32]:
        return (rng.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32)

    weights = {
        "prior_norm.weight": 1 + normal(width),
        "prior_norm.bias": normal(width),
        "prior_fc1.weight": normal(prior_width, width),
        "prior_fc1.bias": normal(prior_width),
        "prior_fc2.weight": normal(levels, prior_width),
        "prior_fc2.bias": normal(levels),
        "prior_projector.weight": normal(embedding, levels),
        "prior_projector.bias": normal(embedding),
        "head_fc1.weight": normal(hidden, (2 + heads) * width + embedding + 1),
        "head_fc1.bias": normal(hidden),
        "head_fc2.weight": normal(aspects, hidden),
        "head_fc2.bias": normal(aspects),
        "score_mean": 6 + normal(aspects),
        "score_std": 1 + normal(aspects),
    }
    for i in range(2 + heads):
        weights[f"pool_norms.{i}.weight"] = 1 + normal(width)
        weights[f"pool_norms.{i}.bias"] = normal(width)
    if centres:
        weights |= {
            "blend": rng.uniform(0, 1, aspects).astype(np.float32),
            "kernel_projection": normal(place, 2 * outputs * width),
            "kernel_bias": normal(place),
            "kernel_duration": normal(1),
            "kernel_centres": normal(centres, place + 1),
            "kernel_weights": normal(aspects, centres),
            "kernel_mean": 6 + normal(aspects),
        }
    return weights


def random_stats(width: int, heads: int, outputs: int = 0, frames: int = 50) -> NDArray[np.float32]:
    """Sums over frames whose mean is not their deviation's equal."""
    rng = np.random.default_rng(frames)
    x = 0.5 + rng.standard_normal((frames, width)).astype(np.float32)
    w = rng.uniform(0.1, 3, (frames, heads)).astype(np.float32)
    parts = [[frames], x.sum(0), (x**2).sum(0), w.sum(0), (w.T @ x).ravel()]
    layers = rng.standard_normal((frames, outputs * width)).astype(np.float32)
    return np.concatenate([*parts, layers.sum(0), (layers**2).sum(0)]).astype(np.float32)


def check(weights: Weights, stats: NDArray[np.float32]) -> None:
    scores, prior = Head(weights)(stats)
    expected_scores, expected_prior = reference.head(weights, stats)
    np.testing.assert_allclose(scores, expected_scores, rtol=0, atol=SCORES)
    np.testing.assert_allclose(prior, expected_prior, rtol=0, atol=PRIOR)


SHAPES = [(48, 4, 0, 0), (384, 4, 5, 333), (33, 1, 2, 7), (5, 2, 1, 1)]


@pytest.mark.parametrize(("width", "heads", "outputs", "centres"), SHAPES)
@pytest.mark.parametrize("frames", [2, 175, 100_000])
def test_agrees(width: int, heads: int, outputs: int, centres: int, frames: int) -> None:
    weights = random_head(width, heads, outputs=outputs, centres=centres)
    stats = random_stats(width, heads, outputs, min(frames, 500))
    stats *= frames / min(frames, 500)  # as long a recording of the same means
    check(weights, stats)


BOUNDS = {
    **{"width": (3, 70), "heads": (1, 4), "prior_width": (1, 20), "levels": (1, 10)},
    **{"embedding": (1, 20), "hidden": (1, 40), "aspects": (1, 9), "outputs": (1, 3)},
    **{"place": (1, 40), "centres": (0, 20)},
}


@settings(max_examples=60, deadline=None)
@given(**{name: st.integers(*bounds) for name, bounds in BOUNDS.items()})
def test_any_shape(width: int, heads: int, outputs: int, centres: int, **sizes: int) -> None:
    weights = random_head(width, heads, outputs=outputs, centres=centres, **sizes)
    check(weights, random_stats(width, heads, outputs if centres else 0))


@pytest.mark.parametrize("isa", kernels.available_isas())
def test_every_isa(isa: str, tmp_path: Path) -> None:
    """Kernels are chosen once a process."""
    weights = random_head(60, 3, outputs=3, centres=70)
    stats = random_stats(60, 3, 3)
    np.savez(tmp_path / "weights.npz", **weights)
    np.save(tmp_path / "stats.npy", stats)
    code = (
        "import sys, numpy as np\n"
        "from asa_engine.kernels.head import Head\n"
        "head = Head(dict(np.load(sys.argv[1] + '/weights.npz')))\n"
        "scores, prior = head(np.load(sys.argv[1] + '/stats.npy'))\n"
        "np.savez(sys.argv[1] + '/out.npz', scores=scores, prior=prior)\n"
    )
    done = run_with_isa(isa, "-c", code, str(tmp_path))
    assert done.returncode == 0, done.stderr
    out = np.load(tmp_path / "out.npz")
    scores, prior = reference.head(weights, stats)
    np.testing.assert_allclose(out["scores"], scores, rtol=0, atol=SCORES)
    np.testing.assert_allclose(out["prior"], prior, rtol=0, atol=PRIOR)


def test_stats_that_do_not_fit() -> None:
    head = Head(random_head(48, 4))
    stats = random_stats(48, 4)
    with pytest.raises(ValueError, match="takes 293"):
        head(stats[:-1])
    for wrong in (stats.astype(np.float64), stats[None], stats[::-1]):
        with pytest.raises(TypeError):
            head(wrong)  # type: ignore[arg-type]


def test_weights_that_do_not_fit() -> None:
    weights = random_head(48, 4, outputs=2, centres=5)
    for name in ("head_fc1.weight", "kernel_centres", "blend", "score_std"):
        with pytest.raises(ValueError, match="elements"):
            Head({**weights, name: weights[name][..., :-1].copy()})
    with pytest.raises(KeyError, match="prior_fc2"):
        Head({name: weight for name, weight in weights.items() if "prior_fc2" not in name})


def test_weights_of_another_layout() -> None:
    weights, stats = random_head(48, 4, outputs=2, centres=5), random_stats(48, 4, 2)
    strided = {name: np.asfortranarray(weight) for name, weight in weights.items()}
    for found, expected in zip(Head(strided)(stats), Head(weights)(stats), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_numbers_that_are_none_stay_so() -> None:
    """A window of no frames, or of sums that overflowed: NaN, and nothing worse."""
    head = Head(random_head(48, 4, outputs=2, centres=5))
    for fill in (0.0, np.nan, np.inf):
        scores, _ = head(np.full_like(random_stats(48, 4, 2), fill))
        assert np.isnan(scores).all()
