"""Adapters against Hugging Face's own forward pass, on tiny random models of the real classes."""

from __future__ import annotations

import pytest
import torch
import transformers
from audio_llm_samples import phi4_towers

from asa_engine.errors import CheckpointError
from asa_engine.nn.audio_language_model import (
    Phi4Multimodal,
    Qwen2Audio,
    load_audio_language_model,
)
from asa_engine.nn.language_model import LanguageModel, shape_of

AUDIO_TOKEN, IMAGE_TOKEN = 90, 91
PREFIX, SUFFIX = [5, 17, 3], [8, 2]
# float32 through a few layers of width 32; sums run in another order.
TOLERANCE = 5e-5


def _spread(model):
    """Move weights away from Hugging Face's tiny start, so that answers differ."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5.0)
    return model.eval()


TEXT = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 512,
}


def _qwen(positions=60):
    torch.manual_seed(11)
    audio = {
        "model_type": "qwen2_audio_encoder",
        "num_mel_bins": 16,
        "d_model": 24,
        "encoder_layers": 2,
        "encoder_attention_heads": 3,
        "encoder_ffn_dim": 40,
        "max_source_positions": positions,
    }
    config = transformers.Qwen2AudioConfig(
        audio_config=audio,
        text_config={**TEXT, "model_type": "qwen2"},
        audio_token_index=AUDIO_TOKEN,
    )
    return _spread(transformers.Qwen2AudioForConditionalGeneration(config))


def _phi(**changes):
    torch.manual_seed(12)
    config = transformers.Phi4MultimodalConfig(
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **{**TEXT, "original_max_position_embeddings": 512, **changes},
        **phi4_towers(24, 40, heads=3, channels=16, tokens=(AUDIO_TOKEN, IMAGE_TOKEN)),
    )
    return _spread(transformers.Phi4MultimodalForCausalLM(config))


def _logits(language_model, tokens):
    """Our way: the prefix first, its keys kept, then audio and suffix."""
    layers = language_model.config.layers
    before = language_model.embed(torch.tensor(PREFIX))
    after = language_model.embed(torch.tensor(SUFFIX))
    _, cache = language_model.run_prefix(before, 0, layers)
    sequence = torch.cat((tokens, after))[None]
    hidden = language_model.run(sequence, 0, layers, cache, len(PREFIX))
    return language_model.output(language_model.close(hidden))[0]


def _ids(count):
    return torch.tensor([[*PREFIX, *[AUDIO_TOKEN] * count, *SUFFIX]])


@pytest.mark.parametrize("mel_frames", [120, 119, 118, 77, 40, 9, 5])
@torch.no_grad()
def test_qwen2_audio_is_its_own_class(mel_frames):
    model = _qwen()
    adapter = Qwen2Audio(model)
    generator = torch.Generator().manual_seed(mel_frames)
    features = torch.randn(16, 120, generator=generator)
    valid = (torch.arange(120) < mel_frames).long()[None]
    tokens = adapter.audio_tokens(features, mel_frames)
    assert len(tokens) == adapter.tokens_of(mel_frames)
    theirs = model(
        input_ids=_ids(len(tokens)),
        attention_mask=torch.ones(1, len(tokens) + 5, dtype=torch.long),
        input_features=features[None],
        feature_attention_mask=valid,
    ).logits[0]
    ours = _logits(adapter.language_model, tokens)
    torch.testing.assert_close(ours, theirs[len(PREFIX) :], rtol=TOLERANCE, atol=TOLERANCE)


def test_qwen2_audio_refuses_more_than_its_positions():
    with pytest.raises(CheckpointError, match="too long"):
        Qwen2Audio(_qwen(positions=10)).audio_tokens(torch.zeros(16, 60), 60)


@pytest.mark.parametrize("mel_frames", [160, 157, 33, 8])
@torch.no_grad()
def test_phi_4_is_its_own_class(mel_frames):
    model = _phi()
    adapter = Phi4Multimodal(model)
    generator = torch.Generator().manual_seed(mel_frames)
    features = torch.randn(mel_frames + 5, 80, generator=generator)
    tokens = adapter.audio_tokens(features, mel_frames)
    assert len(tokens) == adapter.tokens_of(mel_frames)
    theirs = model(
        input_ids=_ids(len(tokens)),
        audio_input_features=features[None, :mel_frames],
        audio_embed_sizes=torch.tensor([len(tokens)]),
    ).logits[0]
    ours = _logits(adapter.language_model, tokens)
    torch.testing.assert_close(ours, theirs[len(PREFIX) :], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(("name", "value"), [("chunk_size", 18), ("nemo_activation", "gelu")])
def test_a_conformer_that_hears_otherwise_is_refused(name, value):
    model = _phi()
    setattr(model.model.embed_tokens_extend.audio_embed.encoder.config, name, value)
    with pytest.raises(CheckpointError, match=f"audio_config.{name} of this Phi-4 is {value}"):
        Phi4Multimodal(model)


def test_long_rope_bounds_the_sequence_at_its_first_regime():
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    model = _phi(
        max_position_embeddings=512,
        original_max_position_embeddings=64,
        rope_parameters={"rope_type": "longrope", "rope_theta": 10_000.0, **factors},
    )
    assert LanguageModel(model).config.positions == 64


def test_a_sliding_window_bounds_the_sequence():
    config = transformers.Qwen2Config(use_sliding_window=True, sliding_window=100)
    assert shape_of(config).positions == 100
    assert shape_of(transformers.Qwen2Config(use_sliding_window=False)).positions == 32_768


@pytest.mark.parametrize(("kind", "build"), [("qwen2_audio", _qwen), ("phi4_multimodal", _phi)])
@torch.no_grad()
def test_models_are_read_from_a_folder(kind, build, tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    adapter = load_audio_language_model(kind, tmp_path)
    features = torch.randn(16, 120) if kind == "qwen2_audio" else torch.randn(40, 80)
    wanted = {"qwen2_audio": Qwen2Audio, "phi4_multimodal": Phi4Multimodal}[kind](model)
    assert torch.equal(adapter.audio_tokens(features, 40), wanted.audio_tokens(features, 40))
    assert not any(p.requires_grad for p in adapter.parameters())


def test_an_unknown_kind_or_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no audio language model of kind 'bert'"):
        load_audio_language_model("bert", tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_audio_language_model("qwen2_audio", tmp_path)
