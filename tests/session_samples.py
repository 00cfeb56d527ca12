"""Tiny session graders with random weights, and sounds to score, for tests."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import audio_llm_samples as audio
import numpy as np
import soundfile
import speech_llm_samples as samples
import torch
from audio_samples import sound

from asa_engine.graders.lm.prompt import encode_template
from asa_engine.graders.speech_llm_session.config import PartConfig, PriorConfig, SessionConfig
from asa_engine.graders.speech_llm_session.model import SessionLLM
from asa_engine.nn.audio_language_model import load_backbones
from asa_engine.nn.language_model import LanguageModel
from asa_engine.nn.weights import load_whisper_encoder

PARTS = ("P1", "P3", "P4", "P5")
MAX_RESPONSES = 8


def config(position="first", share=0.3, **changes):
    """Return the configuration of a grader on the tiny backbones."""
    tokenizer = samples.tokenizer()
    speech = samples.config(
        samples.language_model(), answer="regression", aspects=(*PARTS, "overall")
    )
    return SessionConfig(
        speech=speech,
        parts=tuple(
            PartConfig(name, f"{name}:", encode_template(tokenizer, f"{name}:")) for name in PARTS
        ),
        prior=PriorConfig(levels=(2.0, 3.0, 4.5), width=8, position=position, share=share),
        between=";",
        between_ids=encode_template(tokenizer, ";"),
        missing="-none-",
        missing_ids=encode_template(tokenizer, "-none-"),
        **{"max_responses": MAX_RESPONSES, "max_audio_s": 40.0, **changes},
    )


def plain_grader(position="first", share=0.0, **changes):
    """Return a random grader whose adapters have an effect."""
    torch.manual_seed(1)
    made = SessionLLM(
        config(position, share, **changes),
        samples.encoder(),
        LanguageModel(samples.language_model()),
    ).eval()
    samples.randomise_adapters(made)
    return made


def grader(position="first", share=0.3, **changes):
    """Return a random grader whose adapters and prior have an effect."""
    made = plain_grader(position, share, **changes)
    with torch.no_grad():  # far enough apart that the levels matter, and move while one speaks
        made.prior.fc2.weight.mul_(40.0)
        made.prior.projector.weight.mul_(10.0)
    return made


def make_checkpoint(folder, position="first", **changes):
    """Write a grader and its backbones; return the checkpoint's folder."""
    whisper, model = samples.write_backbones(folder / "backbones")
    made = grader(position, **changes)
    backbones = {"encoder": str(whisper), "language_model": str(model)}
    made.config = dataclasses.replace(
        made.config, speech=dataclasses.replace(made.config.speech, backbones=backbones)
    )
    made.round_halves()
    made.save(folder / "checkpoint")
    return folder / "checkpoint"


def session():
    """Return a session with a response or more for each part."""
    return {
        "P1": [sound(1.2, 1), sound(0.5, 2)],
        "P3": [sound(3.3, 3)],
        "P4": [sound(2.0, 4)],
        "P5": [sound(0.8, 5), sound(0.9, 6), sound(1.0, 7)],
    }


def write_wave(path: Path, samples_: np.ndarray) -> None:
    """Write float32 samples at 16 kHz as 16-bit WAV."""
    soundfile.write(path, samples_, 16_000, subtype="PCM_16")


def audio_checkpoint(folder, family, position="first", **changes):
    """Write a grader on an audio language model's own ears, a Whisper beside them for the prior."""
    source = audio.write_model(family, folder / "model", **changes)
    whisper, _ = samples.write_backbones(folder / "backbones")
    encoder, language_model = load_backbones(source, source)
    beside = load_whisper_encoder(whisper)
    base = config(position, max_audio_s=15.0)
    speech = audio.config(encoder, language_model, source, answer="regression")
    made = dataclasses.replace(
        base,
        speech=dataclasses.replace(speech, aspects=base.speech.aspects),
        prior=dataclasses.replace(base.prior, encoder=beside.config, backbone=str(whisper)),
    )
    torch.manual_seed(3)
    written = SessionLLM(made, encoder, language_model, beside)
    samples.randomise_adapters(written)
    written.round_halves()
    written.save(folder / "checkpoint")
    return folder / "checkpoint"
