"""A small pronunciation grader of random weights: real shapes, scores that mean nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from asa_engine.graders.aspects import AspectConfig
from asa_engine.graders.pronunciation.config import PronunciationConfig
from asa_engine.graders.pronunciation.describe import GAPS
from asa_engine.graders.pronunciation.measures import PHONE_SCALARS, WORD_SCALARS
from asa_engine.graders.pronunciation.stages import eight_bits
from asa_engine.nn.config import WhisperDecoderConfig, WhisperEncoderConfig
from asa_engine.nn.whisper import WhisperEncoder
from asa_engine.recogniser.vocabulary import _byte_alphabet
from asa_engine.training.pronunciation.network import JudgeNetwork, Shape

CLASSES = 40
DIRECTIONS, POOLED, NET_POOLED, CENTRES = 6, 12, 4, 9
READING = {"text": 6 * 22 + 6 * len(WORD_SCALARS) + 11 + 2 + 3, "free": 6 * 22 + 11}
WIDTH = 128
CONFIG = PronunciationConfig(
    aspects=tuple(
        AspectConfig(name, sd=((1.0, 0.9), (6.0, 0.6)))
        for name in ("accuracy", "fluency", "prosodic", "total")
    ),
    free_sd={"total": ((1.0, 1.5),)},
    sd_by_score={"total": ((4.0, 1.5), (9.0, 0.8))},
    encoder=WhisperEncoderConfig(d_model=WIDTH, layers=2, heads=2, ffn=128, positions=200),
    decoder=WhisperDecoderConfig(
        d_model=WIDTH, layers=2, heads=2, ffn=128, tokens=259 + 1608, positions=96
    ),
    alignment_heads=((0, 1), (1, 0)),
    word_sd=((2.0, 2.0), (9.0, 0.5)),
)


def write_grader(folder: Path, seed: int = 0) -> Path:
    """Write a checkpoint."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    encoder = {k: v.numpy() for k, v in WhisperEncoder(CONFIG.encoder).state_dict().items()}
    tensors = {
        k: torch.from_numpy(np.asarray(v)) for k, v in eight_bits(encoder, "encoder.").items()
    }
    random = np.random.default_rng(seed)

    def draw(*shape: int, scale: float = 0.1) -> torch.Tensor:
        return torch.from_numpy((scale * random.standard_normal(shape)).astype(np.float32))

    decoder = {name: value.numpy() for name, value in _decoder(draw).items()}
    tensors |= {
        k: torch.from_numpy(np.asarray(v)) for k, v in eight_bits(decoder, "decoder.").items()
    }
    inputs = 2 * WIDTH
    tensors |= {
        "usual": torch.tensor([[1.5, 0.5]] * CLASSES),
        "phones.norm.weight": torch.ones(inputs),
        "phones.norm.bias": torch.zeros(inputs),
        "phones.fc1.weight": draw(16, inputs),
        "phones.fc1.bias": draw(16),
        "phones.fc2.weight": draw(CLASSES, 16, scale=1.0),
        "phones.fc2.bias": draw(CLASSES),
    }
    for judge in ("text", "free"):
        words = len(WORD_SCALARS) if judge == "text" else 0
        rows = len(PHONE_SCALARS) + CLASSES + 2 * DIRECTIONS + words
        whole = READING[judge] + NET_POOLED
        network = JudgeNetwork(Shape(rows, whole, words, width=16, heads=4, seeds=2))
        own = network.state()
        profile = 2 * (CONFIG.encoder.layers + 1) * WIDTH
        own |= {
            "frames.mean": draw(inputs),
            "frames.directions": draw(inputs, 2 * DIRECTIONS),
            "input.mean": draw(rows),
            "input.scale": torch.ones(rows),
            "reading.mean": draw(READING[judge]),
            "reading.scale": torch.ones(READING[judge]),
            "pooled.mean": draw(profile),
            "pooled.scale": torch.ones(profile),
            "pooled.directions": draw(profile, POOLED),
            "net_pooled": torch.ones(NET_POOLED),
            "kernel.reading": torch.full((READING[judge],), 0.05),
            "kernel.pooled": torch.full((POOLED,), 0.05),
            "kernel.centres": draw(CENTRES, READING[judge] + POOLED),
            "kernel.weights": draw(CENTRES, 4, scale=1.0),
            "kernel.mean": torch.full((4,), 7.0),
            "scores.mean": torch.full((4,), 7.0),
            "scores.scale": torch.ones(4),
            "blend": torch.full((4,), 0.5),
        }
        if words:
            own |= {
                "words.mean": draw(words),
                "words.scale": torch.ones(words),
                "word_scores.mean": torch.tensor([8.0]),
                "word_scores.scale": torch.tensor([1.0]),
                "phone_scores.mean": torch.tensor([1.7]),
                "phone_scores.scale": torch.tensor([0.3]),
            }
        tensors |= {f"{judge}.{name}": value for name, value in own.items()}
    for name, count in (
        ("omission", 2 * len(WORD_SCALARS) + 15),
        ("insertion", len(GAPS)),
        ("mismatch", READING["text"]),
    ):
        tensors |= {
            f"{name}.mean": draw(count),
            f"{name}.scale": torch.ones(count),
            f"{name}.fc1.weight": draw(4, count),
            f"{name}.fc1.bias": draw(4),
            f"{name}.fc2.weight": draw(1, 4),
            f"{name}.fc2.bias": torch.tensor([-30.0]),  # nothing is claimed
        }
    (folder / "weights.safetensors").write_bytes(
        save({name: value.contiguous() for name, value in tensors.items()})
    )
    (folder / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    (folder / "vocabulary.txt").write_text("\n".join(vocabulary()), encoding="utf-8")
    return folder


def vocabulary() -> list[str]:
    """Return the tokens: single bytes, two pairs, then what ends Whisper's English alphabet."""
    letters = [*_byte_alphabet(), "th", "the", "\u0120the"]
    marks = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|nospeech|>"]
    rest = [f"<|{n}|>" for n in range(1608 - len(marks) - 1)]
    return [*letters, *marks, "<|notimestamps|>", *rest]


def _decoder(draw) -> dict[str, torch.Tensor]:  # type: ignore[no-untyped-def]
    shape = CONFIG.decoder
    width, inner = shape.d_model, shape.ffn
    found = {
        "embeddings/weight": draw(shape.tokens, width),
        "position_encodings/encodings": draw(shape.positions, width),
        "layer_norm/gamma": torch.ones(width),
        "layer_norm/beta": torch.zeros(width),
    }
    linears = {
        "self_attention": [(3 * width, width), (width, width)],
        "attention": [(width, width), (2 * width, width), (width, width)],
        "ffn": [(inner, width), (width, inner)],
    }
    for layer in range(shape.layers):
        for part, sizes in linears.items():
            found[f"layer_{layer}/{part}/layer_norm/gamma"] = torch.ones(width)
            found[f"layer_{layer}/{part}/layer_norm/beta"] = torch.zeros(width)
            for index, size in enumerate(sizes):
                found[f"layer_{layer}/{part}/linear_{index}/weight"] = draw(*size)
                bias = draw(size[0])
                if part == "self_attention" and index == 0:
                    bias[width : 2 * width] = 0  # Whisper's keys have no bias
                if part == "attention" and index == 1:
                    bias[:width] = 0
                found[f"layer_{layer}/{part}/linear_{index}/bias"] = bias
    return found
