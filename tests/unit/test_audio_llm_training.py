"""Fine-tuning on the folder of an audio language model: its own encoder, projector and decoder."""

from __future__ import annotations

import json

import audio_llm_samples as audio
import numpy as np
import pytest
import speech_llm_samples as samples
import torch
import training_samples

from asa_engine.errors import CheckpointError
from asa_engine.evaluation.splits import read_sides
from asa_engine.graders.lm.windows import (
    phi4_log_mel,
    qwen2_log_mel,
)
from asa_engine.graders.speech_llm.config import SpeechLLMConfig
from asa_engine.graders.speech_llm.model import SpeechLLM
from asa_engine.nn.audio_language_model import audio_family, load_backbones
from asa_engine.nn.weights import load_whisper_encoder
from asa_engine.training import train
from asa_engine.training.data import load_corpus


@pytest.fixture(scope="module", params=audio.FAMILIES)
def folder(request, tmp_path_factory):
    return training_samples.audio_llm(tmp_path_factory.mktemp(request.param), request.param)


def test_a_recipe_that_names_a_folder_ends_with_a_checkpoint(folder, tmp_path):
    output = train(folder / "small.toml", tmp_path / "out")
    report = json.loads((output / "training.json").read_text())
    fair = report["objectives"]["fair"]["history"]
    assert fair[-1]["loss"] < fair[0]["loss"]
    grader = SpeechLLM.load(output)
    source, family = str(folder / "model"), audio_family(folder / "model")
    assert grader.config.backbones == {"encoder": source, "language_model": source}
    assert grader.config.encoder.family == family
    # What was trained are adapters alone, in every linear layer of the upper two.
    names = {name.rsplit(".", 2)[1] for name in grader.tuned()}
    fused = {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
    apart = {f"{part}_proj" for part in ("q", "k", "v", "o", "gate", "up", "down")}
    assert names == (fused if family == "phi4_multimodal" else apart)
    # The checkpoint, through the whole reference, says what the report was made of.
    _, dev, _ = load_corpus(read_sides(folder / "train.jsonl"), ("total",), "medians")
    said = [grader.assess_samples(dev.samples(i)).scores[0] for i in range(len(dev))]
    rmse = float(np.sqrt(np.mean((np.array(said) - dev.scores[:, 0]) ** 2)))
    # Audio tokens are kept as float16 between the stages.
    assert rmse == pytest.approx(report["dev"]["rmse"], abs=5e-3)


def test_an_encoder_of_another_width_is_refused(folder):
    encoder, _ = load_backbones(folder / "model", folder / "model")
    other = samples.language_model("llama")
    _, language_model = load_backbones(folder / "model", folder / "model")
    config = audio.config(encoder, language_model, folder / "model")
    wide = torch.nn.Linear(encoder.projector.linears[-1].in_features, other.config.hidden_size + 1)
    encoder.projector.linears[-1] = wide
    with pytest.raises(CheckpointError, match="name the same model for both"):
        SpeechLLM(config, encoder, language_model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "wav2vec2"}, "encoder.family"),
        ({"n_mels": 40}, "encoder.n_mels"),
        ({"stack": 5}, "stack"),
        ({"stack": 1000}, "encoder.stack"),
    ],
)
def test_a_hostile_encoder_is_refused(folder, change, message):
    parts = load_backbones(folder / "model", folder / "model")
    fields = audio.config(*parts, folder / "model").to_dict()
    assert SpeechLLMConfig.from_dict(fields).encoder == parts[0].config
    with pytest.raises(CheckpointError, match=message):
        SpeechLLMConfig.from_dict({**fields, "encoder": {**fields["encoder"], **change}})


def test_other_graders_say_that_they_need_a_whisper(folder):
    with pytest.raises(CheckpointError, match="not a Whisper"):
        load_whisper_encoder(folder / "model")


def _clip(count):
    rng = np.random.default_rng(count)
    envelope = np.repeat(rng.uniform(0.0, 1.0, count // 800 + 1), 800)[:count]
    return (envelope * rng.normal(0, 0.1, count)).astype(np.float32)


@pytest.mark.parametrize("count", [400, 559, 560, 16_000, 16_001, 63_999, 480_000])
def test_features_are_those_of_the_models_own_processors(count):
    from transformers import Phi4MultimodalFeatureExtractor, WhisperFeatureExtractor

    clip = _clip(count)
    made = Phi4MultimodalFeatureExtractor()(clip, sampling_rate=16_000, return_tensors="np")
    # Natural logarithms of up to 25, of powers summed in float32.
    np.testing.assert_allclose(phi4_log_mel(clip), made["audio_input_features"][0].T, atol=2e-5)
    made = WhisperFeatureExtractor(feature_size=128)(
        clip, sampling_rate=16_000, return_attention_mask=True, return_tensors="np"
    )
    found = qwen2_log_mel(clip, 128)
    frames = (int(made["attention_mask"].sum()) - 1) // 2 + 1
    assert found.shape[1] == min(2 * frames + 1, 3000)
    np.testing.assert_allclose(found, made["input_features"][0][:, : found.shape[1]], atol=2e-5)
