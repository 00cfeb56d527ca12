"""Tiny audio language models with random weights of the real classes, and graders on them."""

from __future__ import annotations

from pathlib import Path

import speech_llm_samples as samples
import torch
from transformers import (
    Phi4MultimodalConfig,
    Phi4MultimodalFeatureExtractor,
    Phi4MultimodalForCausalLM,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    WhisperFeatureExtractor,
)

from asa_engine.graders.aspects import AspectConfig
from asa_engine.graders.lm.prompt import build_prompt
from asa_engine.graders.speech_llm.config import LoraConfig, SpeechLLMConfig
from asa_engine.graders.speech_llm.model import SpeechLLM
from asa_engine.nn.audio_language_model import load_backbones

FAMILIES = ("qwen2_audio", "phi4_multimodal")
AUDIO_TOKEN, IMAGE_TOKEN = 99, 98  # above those of the tokenizer
TEXT = {
    "vocab_size": 100,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 48,
    "max_position_embeddings": 512,
}


def _qwen2():
    text = {**TEXT, "model_type": "qwen2", "hidden_size": 32}
    audio = {
        "model_type": "qwen2_audio_encoder",
        "num_mel_bins": 128,
        "d_model": 16,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 24,
        "max_source_positions": 1500,
    }
    config = Qwen2AudioConfig(audio_config=audio, text_config=text, audio_token_index=AUDIO_TOKEN)
    return Qwen2AudioForConditionalGeneration(config)


def phi4_towers(width, ffn, *, heads, channels, tokens):
    """Return the configurations of a small Phi-4-multimodal's conformer and unused eyes.

    `tokens` stand for audio and for an image.
    """
    return {
        "audio_config": {
            "hidden_size": width,
            "intermediate_size": ffn,
            "num_blocks": 2,
            "num_attention_heads": heads,
            "ext_pw_out_channel": width,
            "depthwise_separable_out_channel": width,
            "nemo_conv_channels": channels,
            "input_size": 80,
            "audio_token_id": tokens[0],
        },
        "vision_config": {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "crop_size": 28,
            "image_token_id": tokens[1],
        },
    }


def _phi4(original=256):
    # As published: part of each head is rotated, LongRoPE beyond the original length.
    factors = {"short_factor": [1.0, 1.5] * 4, "long_factor": [2.0] * 8}
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5}
    config = Phi4MultimodalConfig(
        **TEXT,
        hidden_size=64,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=1,
        original_max_position_embeddings=original,
        rope_parameters={**rope, **factors},
        **phi4_towers(16, 24, heads=2, channels=8, tokens=(AUDIO_TOKEN, IMAGE_TOKEN)),
    )
    return Phi4MultimodalForCausalLM(config)


def model(family, **changes):
    """Return a random model, away from Hugging Face's tiny start, so that answers differ."""
    torch.manual_seed(21)
    built = _qwen2() if family == "qwen2_audio" else _phi4(**changes)
    generator = torch.Generator().manual_seed(22)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if parameter.ndim > 1 and "audio" not in name:
                parameter.mul_(6.0)
            elif "audio" in name or "multi_modal" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
            if "projector" in name or "proj_for_speech" in name:
                parameter.mul_(4.0)
    return built.eval()


def write_model(family: str, folder: Path, **changes) -> Path:
    """Write a model and its tokenizer as `save_pretrained` does."""
    model(family, **changes).save_pretrained(folder)
    samples.tokenizer().save_pretrained(folder)
    return folder


def config(encoder, language_model, source, *, answer="soft", **changes):
    """Return the configuration of a grader on an encoder and a language model."""
    labels = () if answer == "regression" else samples.LABELS
    prompt = build_prompt(
        samples.tokenizer(),
        "<|im_start|>Grade:\n",
        "<|im_end|>=",
        labels,
        samples.LABEL_SCORES if labels else (),
    )
    return SpeechLLMConfig(
        aspects=(AspectConfig("total"),),
        prompt=prompt,
        answer=answer,
        backbones={"encoder": str(source), "language_model": str(source)},
        encoder=encoder.config,
        language_model=language_model.config,
        lora=LoraConfig.of(language_model.config.family, 2, 4.0, 1),
        stack=encoder.config.stack,
        **{"window_s": 2.0, "chunk_s": 2.0, "min_chunk_s": 0.5, **changes},
    )


def write_checkpoint(source: Path, folder: Path, **options) -> Path:
    """Write a grader with random adapters on the model in a folder."""
    parts = load_backbones(source, source)
    grader = SpeechLLM(config(*parts, source, **options), *parts)
    samples.randomise_adapters(grader)
    grader.round_halves()
    grader.save(folder)
    return folder


def adapted(checkpoint: Path, family: str):
    """Return Hugging Face's own model with a checkpoint's adapters worked into its weights."""
    return with_adapters(SpeechLLM.load(checkpoint), model(family), family)


def with_adapters(grader, theirs, family):
    """Work a grader's adapters into the weights of Hugging Face's own model; return that."""
    layers = {}
    for name, value in grader.language_model.decoder.state_dict().items():
        if ".base." in name:
            adapter = name.partition(".base.")[0]
            module = grader.language_model.decoder.get_submodule(adapter)
            if name.endswith("weight"):
                value = value + module.scale * module.lora_b @ module.lora_a
            layers[name.replace(".base.", ".")] = value
    core = theirs.model.language_model if family == "qwen2_audio" else theirs.model
    unknown = core.load_state_dict(layers, strict=False).unexpected_keys
    assert layers
    assert not unknown
    return theirs


def heard(family, clip):
    """Return what Hugging Face's class takes for a clip, and how many tokens that becomes."""
    if family == "qwen2_audio":
        made = WhisperFeatureExtractor(feature_size=128)(
            clip, sampling_rate=16_000, return_attention_mask=True, return_tensors="pt"
        )
        count = (int(made["attention_mask"].sum()) - 1) // 2 + 1
        inputs = {
            "input_features": made["input_features"],
            "feature_attention_mask": made["attention_mask"],
        }
        return inputs, count // 2
    made = Phi4MultimodalFeatureExtractor()(clip, sampling_rate=16_000, return_tensors="pt")
    inputs = {name: made[name] for name in ("audio_input_features", "audio_embed_sizes")}
    return inputs, int(made["audio_embed_sizes"])


@torch.inference_mode()
def label_shares(theirs, family, prompt, clip):
    """Return Hugging Face's probabilities of the labels after one clip of float32 samples."""
    inputs, count = heard(family, clip)
    ids = torch.tensor([[*prompt.prefix_ids, *[AUDIO_TOKEN] * count, *prompt.suffix_ids]])
    logits = theirs(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs).logits[0, -1]
    return logits[list(prompt.label_ids)].softmax(-1)
