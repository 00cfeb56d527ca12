"""Fine-tuning on the folder of an audio language model: its own encoder, projector and decoder."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("transformers", reason="needs the extra 'bench'")

import audio_llm_samples as audio  # noqa: E402
import speech_llm_samples as samples  # noqa: E402

from asa_engine.errors import CheckpointError  # noqa: E402
from asa_engine.graders.speech_llm.config import SpeechLLMConfig  # noqa: E402
from asa_engine.graders.speech_llm.model import SpeechLLM  # noqa: E402
from asa_engine.graders.speech_llm.session_config import SessionConfig  # noqa: E402
from asa_engine.graders.speech_llm.windows import (  # noqa: E402
    phi4_log_mel,
    qwen2_log_mel,
)
from asa_engine.nn.audio_language_model import audio_family, load_backbones  # noqa: E402
from asa_engine.nn.weights import load_whisper_encoder  # noqa: E402
from asa_engine.training import train  # noqa: E402
from asa_engine.training.data import load_corpus  # noqa: E402

RECIPE = """
grader = "speech_llm"
seed = 5
ship = "fair"
[data]
manifest = "train.jsonl"
targets = "medians"
[backbones]
encoder = "{encoder}"
language_model = "{model}"
[windows]
window_s = 2.0
chunk_s = 4.0
[prompt]
prefix = "<|im_start|>Grade:"
suffix = "<|im_end|>="
labels = ["A", "B", "C", "D"]
label_scores = [2, 4, 7, 9]
[adapter]
rank = 2
alpha = 4
first_layer = 1
[fit]
epochs = 4
batch_size = 4
lr = 0.005
bf16 = false
[[objective]]
name = "fair"
kind = "fair_average"
[[objective]]
name = "units"
kind = "fair_average"
units = 6
start = "fair"
"""


@pytest.fixture(scope="module", params=audio.FAMILIES)
def folder(request, tmp_path_factory):
    """Corpus of 5 speakers, one of them dev, a model and a recipe that names it."""
    root = tmp_path_factory.mktemp(request.param)
    rng = np.random.default_rng(17)
    lines = []
    for number in range(10):
        length, score = int(rng.uniform(0.6, 3.5) * 16_000), float(rng.integers(2, 10))
        tone = np.sin(2 * np.pi * (150 + 60 * score) * np.arange(length) / 16_000)
        sound = 0.3 * tone + rng.normal(0, 0.02, length)
        soundfile.write(root / f"{number}.flac", sound.astype(np.float32), 16_000)
        about = {"speaker": str(1 + number % 5), "scores": {"total": score}}
        lines.append({"id": str(number), "audio": f"{number}.flac", **about})
    (root / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    audio.write_model(request.param, root / "model")
    text = RECIPE.replace("{encoder}", str(root / "model")).replace("{model}", str(root / "model"))
    (root / "small.toml").write_text(text)
    return root


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
    _, dev, _ = load_corpus(folder / "train.jsonl", ("total",), "medians")
    said = [grader.assess_samples(dev.samples(i)).scores[0] for i in range(len(dev))]
    rmse = float(np.sqrt(np.mean((np.array(said) - dev.scores[:, 0]) ** 2)))
    # Audio tokens are kept as float16 between the stages.
    assert rmse == pytest.approx(report["dev"]["rmse"], abs=5e-3)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[adapter]", "[prior]\nshare = 0.5\n[adapter]", "no prior on the .* encoder"),
        ("window_s = 2.0\nchunk_s = 4.0", "window_s = 2.1\nchunk_s = 4.2", "stack"),
        ("chunk_s = 4.0", "chunk_s = 3.0", "chunk_s"),
        ('/model"\nlanguage', '/no-model"\nlanguage', "no-model"),
    ],
)
def test_what_cannot_be_is_refused(folder, tmp_path, old, new, message):
    samples.check_refused(folder, tmp_path, old, new, message)


def test_a_model_whose_ears_are_an_adapter_is_refused(folder, tmp_path):
    copied = shutil.copytree(folder / "model", tmp_path / "model")
    (copied / "speech-lora").mkdir()
    (copied / "speech-lora" / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="merge the adapter"):
        load_backbones(copied, copied)


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
    parts = load_backbones(folder / "model", folder / "model")
    speech = audio.config(*parts, folder / "model", answer="regression").to_dict()
    fields = {"grader": "speech_llm_session", "format_revision": 1, "speech": speech}
    with pytest.raises(CheckpointError, match=r"speech\.encoder\.family"):
        SessionConfig.from_dict(fields)
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
