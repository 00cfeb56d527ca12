"""A tiny random multi-granular grader on the backbones of `speech_llm_samples`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import speech_llm_samples as samples
import torch
from tokenizers import decoders

from asa_engine.graders.aspects import AspectConfig
from asa_engine.graders.multi_granular.config import ASPECTS, MultiGranularConfig
from asa_engine.graders.multi_granular.model import LEXICON_NAME, MultiGranular
from asa_engine.graders.speech_llm.config import LoraConfig
from asa_engine.language_model.tokens import TextTokens
from asa_engine.nn.language_model import LanguageModel, shape_of

DICTIONARY = "call K AO1 L\nit IH1 T\nbear B EH1 R\nwe W IY1\n"
TEXT = "We call it!"
SENTENCE = (1.0, 4.0, 6.0, 8.0, 9.5)


def config(**changes):
    """Return a configuration on the tiny backbones."""
    tokenizer = samples.tokenizer()

    def ids(text):
        return tuple(tokenizer(text, add_special_tokens=False).input_ids)

    prompt = {"prefix": "<|im_start|>Judge:", "middle": "\nText:", "suffix": "<|im_end|>\n"}
    return MultiGranularConfig(
        aspects=tuple(AspectConfig(name) for name in ASPECTS),
        label_scores={
            **dict.fromkeys((*ASPECTS, "word"), SENTENCE),
            "phone": (0.1, 0.7, 1.2, 1.7, 2.0),
        },
        least_fit=-1000.0,
        **prompt,
        **{f"{name}_ids": ids(text) for name, text in prompt.items()},
        end_ids=(1,),
        control_ids=(0, 1),
        encoder=samples.ENCODER,
        layer_weights=(0.2, 0.3, 0.5),
        language_model=shape_of(samples.language_model().config),
        lora=LoraConfig(rank=2, alpha=4.0, first_layer=1, targets=("q_proj", "down_proj")),
        **{
            "window_s": 1.0,
            "max_audio_s": 5.0,
            "projector_width": 12,
            "phone_width": 10,
            "slot_width": 8,
            "max_words": 6,
            "max_phones": 30,
            "max_rationale": 6,
            **changes,
        },
    )


def tokens():
    """Return the tiny tokenizer as the run time reads it."""
    backend = samples.tokenizer().backend_tokenizer
    backend.decoder = decoders.ByteLevel()
    return TextTokens(backend.to_str())


def grader(settings=None, seed=1):
    """Return a random grader, in evaluation mode."""
    torch.manual_seed(seed)
    made = MultiGranular(
        settings or config(),
        samples.encoder(),
        LanguageModel(samples.language_model()),
        tokens(),
    ).eval()
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in made.adapters().values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        made.slots.deviation.fill_(2.0)
    made.round_halves()
    return made


def write_checkpoint(folder: Path, **changes) -> Path:
    """Write a grader with its backbones and dictionary; return the checkpoint's folder."""
    whisper, model = samples.write_backbones(folder / "backbones")
    settings = dataclasses.replace(
        config(**changes), backbones={"encoder": str(whisper), "language_model": str(model)}
    )
    grader(settings).save(folder / "checkpoint", extra={LEXICON_NAME: DICTIONARY})
    return folder / "checkpoint"
