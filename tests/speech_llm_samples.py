"""Tiny backbones with random weights of the real classes, and a tokenizer, for speech LLM tests."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from asa_engine.graders.aspects import AspectConfig
from asa_engine.graders.lm.prompt import build_prompt
from asa_engine.graders.speech_llm.config import LoraConfig, PriorConfig, SpeechLLMConfig
from asa_engine.graders.speech_llm.model import SpeechLLM
from asa_engine.nn.config import WhisperEncoderConfig
from asa_engine.nn.language_model import LanguageModel, shape_of
from asa_engine.nn.whisper import WhisperEncoder

FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "phi3": (Phi3Config, Phi3ForCausalLM),
}
ENCODER = WhisperEncoderConfig(n_mels=80, d_model=16, layers=2, heads=2, ffn=32, positions=1500)
CONTROL = ("<|im_start|>", "<|im_end|>")
PRIOR = PriorConfig(centres=5, width=3, share=0.4, sd=1.5)
PRIOR_SIZE = 0.1  # places lie near each other, so that the kernel tells recordings apart
LABELS = ("A", "B", "C", "D")
LABEL_SCORES = (2.0, 4.0, 7.0, 9.0)

# Sections of recipes; the folders of the backbones are to be filled in.
BACKBONES_SECTION = """[backbones]
encoder = "{whisper}"
language_model = "{model}"
"""
PROMPT_SECTION = """[prompt]
prefix = "<|im_start|>Grade:"
suffix = "<|im_end|>="
labels = ["A", "B", "C", "D"]
label_scores = [2, 4, 7, 9]
"""
PROJECTOR_SECTION = """[projector]
width = 12
epochs = 2
batch_size = 4
"""
ADAPTER_SECTION = """[adapter]
rank = 2
alpha = 4
first_layer = 1
"""


def tokenizer():
    """Return a byte-pair tokenizer without merges: a token a character, and two control tokens."""
    alphabet = sorted({chr(i) for i in range(33, 127)} | {"\u0120", "\u010a"})
    vocabulary = {piece: i for i, piece in enumerate([*CONTROL, "<unk>", *alphabet])}
    bare = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=bare,
        unk_token="<unk>",
        eos_token=CONTROL[1],
        additional_special_tokens=list(CONTROL),
    )


def language_model(family="llama", layers=3, seed=3):
    """Return a random `...ForCausalLM` of 100 tokens and width 32."""
    torch.manual_seed(seed)
    config_class, model_class = FAMILIES[family]
    config = config_class(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,  # of width 16, which GroupQueryAttention needs a multiple of
        num_key_value_heads=1,
        intermediate_size=48,
        max_position_embeddings=512,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=1,
        attn_implementation="sdpa",
    )
    model = model_class(config).eval()
    with torch.no_grad():  # away from Hugging Face's tiny start, so that answers differ
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8.0)
    return model


def encoder(seed=4):
    """Return a random Whisper encoder."""
    torch.manual_seed(seed)
    return WhisperEncoder(ENCODER).eval()


def config(model, *, answer="soft", aspects=("total",), first_layer=1, **changes):
    """Return the configuration of a grader on these backbones."""
    labels = () if answer == "regression" else LABELS
    prompt = build_prompt(
        tokenizer(),
        "<|im_start|>Grade:\n",
        "<|im_end|>=",
        labels,
        LABEL_SCORES if labels else (),
    )
    targets = {"phi3": ("qkv_proj", "o_proj")}.get(model.config.model_type, ("q_proj", "down_proj"))
    return SpeechLLMConfig(
        aspects=tuple(AspectConfig(name) for name in aspects),
        prompt=prompt,
        answer=answer,
        encoder=ENCODER,
        language_model=shape_of(model.config),
        lora=LoraConfig(rank=2, alpha=4.0, first_layer=first_layer, targets=targets),
        projector_width=12,
        **{"window_s": 1.0, "chunk_s": 3.0, "min_chunk_s": 0.5, **changes},
    )


def streamed_as_whole(engine, recording, tolerance):
    """Check that a stream in pieces gives the whole recording's score; return the assessment."""
    with engine.stream() as stream:
        for part in np.array_split(recording, 7):
            stream.feed(part)
        streamed = stream.finish()
    offline = engine.assess((recording, 16_000))
    expected = pytest.approx(offline.scores["total"].value, abs=tolerance)
    assert streamed.scores["total"].value == expected
    return offline


def randomise_adapters(grader, seed=9):
    """Give adapters and prior, which start as zero, an effect."""
    generator = torch.Generator().manual_seed(seed)
    of_prior = torch.Generator().manual_seed(seed + 1)  # adapters are the same with and without
    with torch.no_grad():
        for name, parameter in grader.tuned().items():
            if "lora" in name or name.startswith("head."):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
            if name == "codebook":
                parameter.copy_(torch.randn(parameter.shape, generator=of_prior))
            if name.startswith("prior."):
                parameter.copy_(torch.randn(parameter.shape, generator=of_prior) * PRIOR_SIZE)
                if name == "prior.mean":
                    parameter.add_(6.0)


def write_backbones(folder: Path):
    """Write both backbones and the tokenizer as Hugging Face folders; return (encoder, model)."""
    whisper, model = folder / "whisper", folder / "model"
    whisper.mkdir(parents=True)
    state = {f"model.encoder.{k}": v.contiguous() for k, v in encoder().state_dict().items()}
    save_file(state, whisper / "model.safetensors")
    (whisper / "config.json").write_text(json.dumps({"encoder_attention_heads": ENCODER.heads}))
    language_model().save_pretrained(model)
    tokenizer().save_pretrained(model)
    return whisper, model


def make_checkpoint(folder: Path, **options) -> Path:
    """Write a tiny random grader and its backbones."""
    whisper, decoder = write_backbones(folder / "backbones")
    model = language_model()
    settings = dataclasses.replace(
        config(model, **options),
        backbones={"encoder": str(whisper), "language_model": str(decoder)},
    )
    torch.manual_seed(1)
    grader = SpeechLLM(settings, encoder(), LanguageModel(model)).eval()
    randomise_adapters(grader)
    grader.round_halves()
    grader.save(folder / "checkpoint")
    return folder / "checkpoint"
