"""wav2vec2 as the multi-aspect grader's speech encoder: a tiny one with random weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from multi_aspect_samples import tiny_config
from text_samples import SHAPE, make_bert

from asa_engine.errors import CheckpointError
from asa_engine.graders.multi_aspect import reference
from asa_engine.graders.multi_aspect.config import MultiAspectConfig
from asa_engine.graders.multi_aspect.features import (
    SpeechFrames,
    WaveFrames,
    speech_frames,
)
from asa_engine.nn.wav2vec2 import load_wav2vec2
from asa_engine.profiling import StageClock

WIDTH = 12


@pytest.fixture
def source(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
    )
    folder = tmp_path / "wav2vec2"
    transformers.Wav2Vec2Model(config).save_pretrained(folder)
    return folder


@pytest.fixture
def config(source: Path, tmp_path: Path) -> MultiAspectConfig:
    backbones = {"speech_encoder": str(source), "text_encoder": str(make_bert(tmp_path / "bert"))}
    made = tiny_config(frame_width=WIDTH, prompt_width=SHAPE.width, backbones=backbones)
    return MultiAspectConfig.from_dict(made.to_dict())


@pytest.fixture
def backbones(config: MultiAspectConfig, monkeypatch: pytest.MonkeyPatch) -> reference.Backbones:
    monkeypatch.setattr(reference, "open_analyser", lambda name: None)
    return reference.Backbones(config)


def test_frames_are_those_of_hugging_face(source: Path, backbones: reference.Backbones) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    inputs = extractor(samples, sampling_rate=16_000, return_tensors="pt").input_values
    with torch.inference_mode():
        theirs = load_wav2vec2(source)(inputs).last_hidden_state[0].numpy()
    # One window, neighbours not averaged.
    config = dataclasses.replace(backbones._config, window_s=2.0, frame_pool=1)
    speech = WaveFrames(config, backbones.encode, StageClock())
    speech.push(samples)
    found = speech.finish()
    assert found is not None
    assert found.shape == (49, WIDTH)
    # The extractor normalises in another order of float32 sums.
    np.testing.assert_allclose(found, theirs, atol=1e-5)


def test_the_frames_do_not_depend_on_chunks(
    config: MultiAspectConfig, backbones: reference.Backbones
) -> None:
    samples = np.random.default_rng(1).normal(0.1, 0.1, 40_000).astype(np.float32)
    found = []
    for chunk in (40_000, 777):
        speech = speech_frames(config, backbones.encode, StageClock())
        assert isinstance(speech, WaveFrames)
        for start in range(0, len(samples), chunk):
            speech.push(samples[start : start + chunk])
        found.append(speech.finish())
    assert found[0] is not None
    np.testing.assert_array_equal(found[0], found[1])
    assert found[0].shape == (25, WIDTH)  # windows of 1, 1 and 0.5 s: 49, 49 and 24 frames, by 5


def test_nothing_to_hear_is_no_frames(backbones: reference.Backbones) -> None:
    speech = WaveFrames(backbones._config, backbones.encode, StageClock())
    assert speech.finish() is None
    speech.push(np.zeros(1000, np.float32))
    assert speech.finish() is None


def test_without_a_wav2vec2_the_recognisers_encoder_hears() -> None:
    config = tiny_config()
    assert isinstance(speech_frames(config, lambda mel: mel, StageClock()), SpeechFrames)


def test_what_is_no_wav2vec2_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="wav2vec2"):
        load_wav2vec2(tmp_path)
    (source / "config.json").write_text((source / "config.json").read_text()[:50])
    with pytest.raises(CheckpointError, match="wav2vec2"):
        load_wav2vec2(source)
