"""What training is given and made of: corpora, augmentation, frozen features, steps."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from acoustic_samples import write_recipe

from asa_engine.evaluation.splits import read_sides
from asa_engine.graders.acoustic.model import AcousticGrader
from asa_engine.nn.whisper import WhisperEncoder
from asa_engine.training.acoustic.frozen import FrozenFeatures
from asa_engine.training.acoustic.kernel import fit_kernel, speaker_folds
from asa_engine.training.acoustic.recipe import (
    AcousticRecipe,
    AugmentRecipe,
    KernelRecipe,
    PhaseRecipe,
)
from asa_engine.training.acoustic.report import calibrated
from asa_engine.training.acoustic.steps import (
    Network,
    Targets,
    learning_rate,
    losses,
    parameter_groups,
)
from asa_engine.training.augment import augment_mel, augment_samples
from asa_engine.training.data import epoch_order, load_corpus, make_batch

ALL_ON = AugmentRecipe(speed=0.1, gain_db=12, noise=1, low_pass=1, shift=1, tilt=0.2, mel_mask=10)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path)


@pytest.fixture
def corpus(recipe):
    return load_corpus(
        read_sides(recipe.parent / "corpus" / "train.jsonl"), ["accuracy", "total"], "raters"
    )


def test_corpus_targets(corpus):
    train_side, dev, phones = corpus
    assert (len(train_side), len(dev), phones) == (10, 4, ["AH", "T"])
    assert not {u.speaker for u in train_side.utterances} & {u.speaker for u in dev.utterances}
    np.testing.assert_allclose(train_side.targets - train_side.scores, [[0.5, 0]] * 10)
    # AH good -> 1; T poor -> 2 + inventory of 2
    assert train_side.phones[0].tolist() == [1, 4]
    np.testing.assert_allclose(train_side.auxiliary[0, :5], [7, 4, 0.5, 1.2, 0.5])


def test_an_epoch_has_every_utterance_once(corpus):
    order = epoch_order(corpus[0], 4, np.random.default_rng(0))
    assert sorted(i for batch in order for i in batch) == list(range(10))
    assert order != epoch_order(corpus[0], 4, np.random.default_rng(1))


def test_augmentation_is_a_function_of_the_generator():
    samples = np.random.default_rng(0).normal(0, 0.3, 20_000).astype(np.float32)
    one, two, other = (
        augment_samples(samples, ALL_ON, np.random.default_rng(seed)) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(one, two)
    assert one.dtype == np.float32
    assert len(one) != len(other) or not np.array_equal(one, other)
    assert np.abs(one).max() <= 1
    silent = augment_samples(np.zeros(5000, np.float32), ALL_ON, np.random.default_rng(3))
    assert np.isfinite(silent).all()
    mel = np.random.default_rng(1).normal(0, 1, (80, 30)).astype(np.float32)
    changed = augment_mel(mel, ALL_ON, np.random.default_rng(2))
    assert changed.shape == mel.shape
    assert not np.array_equal(changed, mel)
    nothing = augment_samples(samples, AugmentRecipe(), np.random.default_rng(3))
    np.testing.assert_array_equal(nothing, samples)


def test_copies_stand_behind_what_they_are_of(recipe, corpus):
    """Half of the ten train recordings, said twice over a telephone: nothing above 4 kHz."""
    augment = AugmentRecipe(copies=0.5, twice=1.0, telephone=1.0)
    manifest = recipe.parent / "corpus" / "train.jsonl"
    train_side, dev, _ = load_corpus(
        read_sides(manifest), ["accuracy", "total"], "raters", augment=augment, seed=7
    )
    assert (len(train_side), len(dev)) == (15, 4)
    as_is = {u.id: i for i, u in enumerate(train_side.utterances[:10])}
    for number in range(10, 15):
        source = as_is[train_side.utterances[number].id]
        copy, original = train_side.samples(number), corpus[0].samples(source)
        assert len(copy) == 2 * len(original)
        there = np.abs(np.fft.rfft(original)) ** 2
        assert there[len(there) * 9 // 16 :].sum() > 1e-4 * there.sum()
        np.testing.assert_array_equal(corpus[0].samples(source), train_side.samples(source))
        power = np.abs(np.fft.rfft(copy)) ** 2
        # From 4.5 kHz, behind the resampler's slope; a recording's hard ends reach everywhere.
        above = power[len(power) * 9 // 16 :].sum()
        assert above < 1e-4 * power.sum()
        assert train_side.phones[number].tolist() == 2 * train_side.phones[source].tolist()
        np.testing.assert_array_equal(train_side.targets[number], train_side.targets[source])
        np.testing.assert_allclose(train_side.auxiliary[number], train_side.auxiliary[source])
    assert len({u.id for u in train_side.utterances[10:]}) == 5


def test_frozen_features_are_the_encoders_outputs(recipe, corpus):
    config = AcousticRecipe.load(recipe).grader
    torch.manual_seed(0)
    encoder = WhisperEncoder(config.encoder).eval()
    features = FrozenFeatures(encoder, config, corpus[1], "frames").batch([2, 0])
    batch = make_batch(corpus[1], [2, 0], config)
    with torch.inference_mode():
        wanted = torch.stack(encoder(batch.mel, batch.lengths), 1)
    assert torch.equal(features.owner, batch.owner)
    frames = (batch.lengths + 1) // 2
    for got, want, valid in zip(features.mel, wanted, frames.tolist(), strict=True):
        # float16 keeps 11 bits of values below 4
        torch.testing.assert_close(got[:, :valid], want[:, :valid], atol=2e-3, rtol=0)


def test_the_kernel_is_ridge_regression_in_its_dual_form(recipe, corpus):
    config = AcousticRecipe.load(recipe).grader
    torch.manual_seed(0)
    network = AcousticGrader(config).eval()
    network.round_halves()
    side = corpus[0]
    features = FrozenFeatures(network.encoder, config, side, "frames")
    # all directions kept and one candidate, so that nothing is left to chance
    fit = fit_kernel(
        network, side, features, KernelRecipe(blend=0.0, width=99, gammas=(0.7,), ridges=(0.3,))
    )
    mean, square = np.split(features.sums / features.counts, 2, axis=1)
    pooled = np.concatenate((mean, np.sqrt(np.maximum(square - mean**2, 1e-5))), axis=1)
    pooled = (pooled - pooled.mean(0)) / np.maximum(pooled.std(0), 1e-6)
    duration = np.clip(np.log(features.counts / 175) / 0.5, -2, 3.5)
    duration /= duration.std()

    def kernel(i, j):
        near = ((pooled[i] - pooled[j]) ** 2).mean() + 0.3 * ((duration[i] - duration[j]) ** 2)[0]
        return np.exp(-0.7 * near)

    table = np.array([[kernel(i, j) for j in range(10)] for i in range(10)])
    offset = side.targets.mean(0)
    weights = np.linalg.inv(table + 0.3 * np.eye(10)) @ (side.targets - offset)
    wanted = table @ weights + offset
    found = [fit.grader.assess_samples(side.samples(i)).scores for i in range(10)]
    # the projection is rounded to float16: three digits of distances of about two
    np.testing.assert_allclose(found, wanted, atol=5e-3)


def test_folds_hold_speakers_out():
    speakers = [f"{i % 7:04d}" for i in range(50)]
    folds = speaker_folds(speakers, 3)
    assert set(folds.tolist()) == {0, 1, 2}
    for speaker in set(speakers):
        assert len({f for f, s in zip(folds, speakers, strict=True) if s == speaker}) == 1


@pytest.mark.parametrize("phones_only", [False, True])
def test_only_phones_reach_the_encoder_when_asked(recipe, corpus, phones_only):
    config = AcousticRecipe.load(recipe).grader
    torch.manual_seed(0)
    network = Network(AcousticGrader(config), phones=2)
    grader, side = network.grader, corpus[0]
    targets = Targets(side, grader.score_mean, grader.score_std, config.prior_levels)
    batch = make_batch(side, [0, 1, 2], config)
    phase = PhaseRecipe("x", 1, ccc=1.0, prior=1.0, auxiliary=1.0, phones_only=phones_only)

    def gradient(ctc):
        network.zero_grad()
        frames = grader.mix(grader.encoder(batch.mel, batch.lengths))
        chosen = dataclasses.replace(phase, ctc=ctc)
        losses(network, frames, batch, targets, chosen)["total"].backward()
        assert grader.head_fc1.weight.grad.abs().max() > 0
        found = grader.encoder.conv1.weight.grad
        return 0.0 if found is None else found.abs().max().item()

    assert (gradient(ctc=0.0) == 0) == phones_only
    assert gradient(ctc=1.0) > 0


def test_learning_rates_rise_and_fall_and_differ_by_layer(recipe):
    rates = [learning_rate(step, 100, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1, rel=0.01)
    assert max(rates) == rates[9]
    assert rates[-1] == pytest.approx(0.02, abs=0.001)

    network = Network(AcousticGrader(AcousticRecipe.load(recipe).grader), phones=2)
    phase = PhaseRecipe("x", 1, encoder_lr=1.0, head_lr=3.0, layer_decay=0.5, frozen_layers=1)
    names = {parameter: name for name, parameter in network.named_parameters()}
    found = {names[g["params"][0]]: g for g in parameter_groups(network, phase)}
    assert not any("conv" in name or "positions" in name for name in found)
    assert not network.grader.encoder.conv1.weight.requires_grad
    assert found["grader.encoder.layers.0.fc1.weight"]["lr"] == 0.5
    assert found["grader.encoder.layers.1.fc1.weight"]["lr"] == 1.0
    assert found["grader.encoder.layer_norm.bias"]["lr"] == 1.0
    assert found["ctc.weight"]["lr"] == 3.0
    assert found["ctc.bias"]["weight_decay"] == 0
    assert found["ctc.weight"]["weight_decay"] == phase.weight_decay


def test_expected_error_is_the_rmse_on_dev(recipe, corpus):
    dev = corpus[1]
    predicted = dev.scores + np.array([[1.0, -2.0]])
    config = calibrated(AcousticRecipe.load(recipe).grader, dev, predicted)
    assert [aspect.sd_at(5.0) for aspect in config.aspects] == [1.0, 2.0]
