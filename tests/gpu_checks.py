"""What a model on a device keeps, whatever its kernels are written in: checks that tests share."""

from __future__ import annotations

from functools import cache

import numpy as np
from gpu_samples import SMALL, random_mel, random_weights, reader, speech_like

from asa_engine.gpu.device import Limits, Model, Ragged
from asa_engine.gpu.numpy_device import NumpyDevice, NumpyModel
from asa_engine.nn.acoustic_tensors import GraderShape

LIMITS = Limits(windows=6, frames=100)
MELS = [random_mel(length, seed) for seed, length in enumerate((1, 2, 33, 80, 7))]
# Batches that no model under these limits takes, by what is wrong.
UNFIT = {
    "windows": [random_mel(2)] * 7,
    "frames": [random_mel(80)] * 3,
    "a long window": [random_mel(82)],
    "an empty window": [np.zeros((80, 0), np.float32)],
    "few samples": [np.zeros(200, np.float32)],
    "mel bins": [random_mel(4, n_mels=79)],
}


@cache
def truth(shape: GraderShape = SMALL) -> NumpyModel:
    """The model of these weights in NumPy's float64."""
    return NumpyDevice().load(shape, reader(random_weights(shape)), "fp32", LIMITS)


def some_sums(count: int, shape: GraderShape = SMALL) -> np.ndarray:
    """What came before: a hundred frames of mean 0.1, with some spread."""
    rng = np.random.default_rng(3)
    sums = rng.uniform(0, 20, (count, shape.stats_width))
    sums[:, 0] = 100
    return sums


def check_agrees(model: Model, shape: GraderShape, *, scores: float, stats: float) -> None:
    """Check scores, prior, sums and frames against `truth`, within these distances."""
    batch, sums = Ragged.of(MELS), some_sums(len(MELS), shape)
    outputs = model.encode(batch, sums, frames=True)
    expected = truth(shape).encode(batch, sums, frames=True)
    np.testing.assert_allclose(outputs.scores, expected.scores, rtol=0, atol=scores)
    np.testing.assert_allclose(outputs.prior, expected.prior, rtol=0, atol=scores)
    scale = expected.stats[:, :1] + np.abs(expected.stats)
    np.testing.assert_allclose(outputs.stats / scale, expected.stats / scale, atol=stats)
    assert outputs.frames is not None
    assert expected.frames is not None
    for ours, theirs in zip(outputs.frames, expected.frames, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=stats)


def check_samples(model: Model, *, scores: float) -> None:
    """Check that samples give what their log-mel gives."""
    batch = Ragged.of([speech_like(length) for length in (201, 12_000, 640)])
    expected = truth().encode(batch).scores
    np.testing.assert_allclose(model.encode(batch).scores, expected, rtol=0, atol=scores)


def check_company(model: Model, *, frames: bool) -> None:
    """Check that a window gives the same bits alone, among others, and in another order."""
    sums = some_sums(len(MELS))
    together = model.encode(Ragged.of(MELS), sums, frames=frames)
    order = [3, 0, 2]
    shuffled = model.encode(Ragged.of([MELS[i] for i in order]), sums[order])
    for place, i in enumerate(order):
        alone = model.encode(Ragged.of([MELS[i]]), sums[i : i + 1], frames=frames)
        for part in ("stats", "scores", "prior"):
            one = getattr(alone, part)[0]
            np.testing.assert_array_equal(one, getattr(together, part)[i])
            np.testing.assert_array_equal(one, getattr(shuffled, part)[place])
        if frames:
            assert alone.frames is not None
            assert together.frames is not None
            np.testing.assert_array_equal(alone.frames[0], together.frames[i])


def check_nan_stays(model: Model, kind: str) -> None:
    """Check that NaN in one window reaches neither its neighbours nor the next batch.

    `kind` is what windows hold: mel or samples.
    """
    windows = MELS[1:4] if kind == "mel" else [speech_like(n) for n in (400, 5000, 900)]
    good = model.encode(Ragged.of(windows))
    broken = [window.copy() for window in windows]
    broken[1][..., 5] = np.nan
    outputs = model.encode(Ragged.of(broken))
    assert np.isnan(outputs.stats[1, 1:]).any()
    assert np.isnan(outputs.scores[1]).all()
    for i in (0, 2):
        np.testing.assert_array_equal(outputs.stats[i], good.stats[i])
        np.testing.assert_array_equal(outputs.scores[i], good.scores[i])
    np.testing.assert_array_equal(model.encode(Ragged.of(windows)).stats, good.stats)


def check_sums(model: Model) -> None:
    """Check that a recording's score does not depend on who adds its windows."""
    first, second = (model.encode(Ragged.of([mel])).stats for mel in MELS[2:4])
    on_device = model.encode(Ragged.of([MELS[3]]), first.astype(np.float64))
    total = first.astype(np.float64) + second
    scores, prior = model.head(total.astype(np.float32))
    np.testing.assert_array_equal(on_device.scores, scores)
    np.testing.assert_array_equal(on_device.prior, prior)


def check_head(model: Model, *, scores: float, prior: float) -> None:
    """Check that the head takes more rows than a batch has."""
    stats = some_sums(LIMITS.windows + 3).astype(np.float32)
    ours, expected = model.head(stats), truth().head(stats)
    np.testing.assert_allclose(ours[0], expected[0], rtol=0, atol=scores)
    np.testing.assert_allclose(ours[1], expected[1], rtol=0, atol=prior)
