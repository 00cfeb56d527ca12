"""The multi-aspect grader's network, baselines and configuration."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from multi_aspect_samples import tiny_config

from asa_engine.errors import CheckpointError
from asa_engine.features.linguistic import inventory
from asa_engine.graders.multi_aspect.baselines import (
    BASELINES,
    Baseline,
    Prototypes,
    class_weights,
)
from asa_engine.graders.multi_aspect.config import MultiAspectConfig
from asa_engine.graders.multi_aspect.model import (
    Inputs,
    MultiAspectGrader,
    expected_scores,
    rotate,
)
from asa_engine.training.multi_aspect.importance import feature_importance

# float32 sums of some tens of terms of size one.
TOLERANCE = 2e-6


def random_inputs(config: MultiAspectConfig, frames: list[int], words: list[int]) -> Inputs:
    rng = torch.Generator().manual_seed(5)
    shape = len(frames), max(frames), max(words)

    def draw(*sizes: int):
        return torch.randn(sizes, generator=rng)

    return Inputs(
        frames=draw(shape[0], shape[1], config.frame_width),
        frame_counts=torch.tensor(frames),
        prompt=draw(shape[0], config.prompt_width),
        delivery=draw(shape[0], shape[2], 16),
        language=(draw(shape[0], shape[2], len(inventory())) > 1.5).float(),
        word_counts=torch.tensor(words),
    )


@pytest.mark.parametrize("form", ["paper", "lab"])
def test_padding_changes_nothing(form):
    torch.manual_seed(3)
    config = tiny_config(form=form, layers=2)
    grader = MultiAspectGrader(config).eval()
    inputs = random_inputs(config, [9, 4, 1], [3, 6, 1])
    together = grader(inputs)
    assert together.shape == (3, 2, 3)
    for i, (frames, words) in enumerate([(9, 3), (4, 6), (1, 1)]):
        alone = Inputs(
            inputs.frames[i : i + 1, :frames],
            inputs.frame_counts[i : i + 1],
            inputs.prompt[i : i + 1],
            inputs.delivery[i : i + 1, :words],
            inputs.language[i : i + 1, :words],
            inputs.word_counts[i : i + 1],
        )
        torch.testing.assert_close(grader(alone)[0], together[i], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("form", ["paper", "lab"])
def test_every_input_matters_and_only_rotary_content_knows_order(form):
    torch.manual_seed(4)
    config = tiny_config(form=form)
    grader = MultiAspectGrader(config).eval()
    inputs = random_inputs(config, [8], [5])
    logits = grader(inputs)
    for name in ("frames", "prompt", "delivery", "language"):
        value = getattr(inputs, name)
        changed = inputs._replace(**{name: value + 1})
        assert (grader(changed) - logits).abs().max() > 1e-4, name
    turned = grader(inputs._replace(frames=inputs.frames.flip(1)))
    assert ((turned - logits).abs().max() > 1e-4) == (form == "lab")
    same = grader(inputs._replace(delivery=inputs.delivery.flip(1)))
    torch.testing.assert_close(same, logits, atol=TOLERANCE, rtol=0)


def test_the_defaults_are_the_papers_sizes():
    paper = MultiAspectConfig(aspects=tiny_config().aspects, class_scores=(3.0, 5.5, 9.0))
    assert paper.widths == (1536, 16, 263)
    assert paper.fused_width == 1536 + 16 + 263
    with torch.device("meta"):
        grader = MultiAspectGrader(paper)
    assert isinstance(grader.content.enter, torch.nn.Identity)


def test_rotary_positions_keep_lengths_and_depend_on_the_distance_alone():
    torch.manual_seed(1)
    x = torch.randn(1, 1, 9).expand(1, 6, 9)
    turned = rotate(x)
    torch.testing.assert_close(turned.norm(dim=2), x.norm(dim=2))
    products = turned[0] @ turned[0].T
    # Angles up to 5 in float32.
    torch.testing.assert_close(products[0, 2], products[3, 5], atol=1e-5, rtol=0)
    torch.testing.assert_close(turned[:, 0], x[:, 0])


def test_expected_scores_weigh_class_scores():
    config = tiny_config()
    logits = torch.log(torch.tensor([0.2, 0.3, 0.5]))
    wanted = 0.2 * 3 + 0.3 * 5.5 + 0.5 * 9
    assert expected_scores(logits, config).item() == pytest.approx(wanted, abs=1e-5)


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    torch.manual_seed(2)
    grader = MultiAspectGrader(tiny_config(form="lab")).eval()
    grader.round_halves()
    grader.save(tmp_path / "grader", extra={"note.txt": "hello"})
    again = MultiAspectGrader.load(tmp_path / "grader")
    assert again.config == grader.config
    inputs = random_inputs(grader.config, [4], [2])
    assert torch.equal(again(inputs), grader(inputs))
    assert (tmp_path / "grader" / "note.txt").read_text() == "hello"
    (tmp_path / "grader" / "weights.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(CheckpointError, match="cannot be read"):
        MultiAspectGrader.load(tmp_path / "grader")


def test_a_configuration_comes_back_as_it_was():
    config = tiny_config(backbones={"recogniser": "whisper-tiny.en"})
    assert MultiAspectConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("form", "essay"),
        ("class_scores", [3.0, 5.5]),
        ("class_scores", [3.0, 5.5, 11.0]),
        ("class_scores", [5.5, 3.0, 9.0]),
        ("frame_width", 0),
        ("frame_width", 1 << 40),
        ("layers", True),
        ("window_s", 0.03),
        ("window_s", 31.0),
        ("window_s", float("nan")),
        ("mixed_layers", 1),
        ("prompt_pooling", "max"),
        ("analyser", "nltk"),
        ("backbones", {"vocoder": "x"}),
        ("backbones", {"recogniser": 3}),
        ("dropout", 1.0),
        ("speech_encoder", {"layers": 10**6}),
        ("aspects", []),
        ("nonsense", 1),
        ("grader", "acoustic"),
        ("format_revision", 99),
    ],
)
def test_configurations_that_cannot_be_are_refused(field, value):
    fields = tiny_config().to_dict() | {field: value}
    with pytest.raises(CheckpointError):
        MultiAspectConfig.from_dict(fields)


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_look_at_what_they_should(name):
    torch.manual_seed(6)
    config = tiny_config()
    baseline = Baseline(name, config).eval()
    inputs = random_inputs(config, [7, 3], [2, 2])
    transcript = torch.randn(2, config.prompt_width)
    logits = baseline(inputs, transcript)
    assert logits.shape == (2, 2, 3)
    by_frames = baseline(inputs._replace(frames=inputs.frames + 1), transcript) - logits
    by_words = baseline(inputs, transcript + 1) - logits
    assert bool(by_frames.abs().max() > 1e-4) == ("frames" in BASELINES[name])
    assert bool(by_words.abs().max() > 1e-4) == ("transcript" in BASELINES[name])
    # What lies behind the valid frames is padding.
    inputs.frames[1, 3:] = 1e3
    torch.testing.assert_close(baseline(inputs, transcript), logits, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("cosine", [False, True])
def test_prototype_logits_by_loops(cosine):
    torch.manual_seed(7)
    layer = Prototypes(5, 4, cosine=cosine).double()
    hidden = torch.randn(3, 5, dtype=torch.float64)
    found = layer(hidden).detach().numpy()
    points = layer.prototypes.detach().numpy()
    for b, h in enumerate(hidden.numpy()):
        for c in range(4):
            terms = [
                10 * (h @ p) / np.linalg.norm(h) / np.linalg.norm(p) - 5
                if cosine
                else -np.sum((h - p) ** 2)
                for p in points[c]
            ]
            # float64
            assert found[b, c] == pytest.approx(np.mean(terms), abs=1e-10)


def test_class_weights_by_their_formula():
    counts = [10, 30, 0, 60]
    share = np.array([0.1, 0.3, 0.6])
    raised = share**0.5
    wanted = raised / raised.sum() / share
    found = class_weights(counts)
    np.testing.assert_allclose(found[[0, 1, 3]], wanted, rtol=1e-6)
    assert found[2] == 0


def test_importance_finds_what_the_scores_are_made_of():
    rng = np.random.default_rng(1)
    features = rng.normal(0, 1, (400, 6))
    scores = 2 * features[:, 4] + np.abs(features[:, 1]) + rng.normal(0, 0.1, 400)
    shares = feature_importance(features, scores)
    assert shares.sum() == pytest.approx(1)
    assert shares.argsort()[::-1][:2].tolist() == [4, 1]
    assert shares[[0, 2, 3, 5]].max() < 0.1
    np.testing.assert_array_equal(shares, feature_importance(features, scores))
    assert not feature_importance(features, np.ones(400)).any()


def test_aspects_must_share_their_classes():
    config = tiny_config()
    odd = dataclasses.replace(config.aspects[1], level_names=("a", "b", "c"))
    fields = dataclasses.replace(config, aspects=(config.aspects[0], odd)).to_dict()
    with pytest.raises(CheckpointError, match="level name"):
        MultiAspectConfig.from_dict(fields)
