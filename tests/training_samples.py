"""Small corpora and recipes that training is tested with, a folder for each grader."""

from __future__ import annotations

import json
from pathlib import Path

import audio_llm_samples as audio
import numpy as np
import soundfile
import speech_llm_samples as samples
from text_samples import make_bert

SPEECH_LLM = """
grader = "speech_llm"
seed = 5
ship = "fair"
[data]
manifest = "train.jsonl"
score = "total"
targets = "medians"
[prior]
share = 0.3
width = 4
folds = 2
[fit]
epochs = {epochs}
batch_size = 4
lr = 0.005
head_lr = 0.01
bf16 = {bf16}
[[objective]]
name = "fair"
kind = "fair_average"
[[objective]]
name = "soft"
kind = "soft_cross_entropy"
[[objective]]
name = "hard"
kind = "cross_entropy"
[[objective]]
name = "line"
kind = "regression"
[[objective]]
name = "units"
kind = "fair_average"
units = 6
start = "fair"
epochs = 2
"""
SPEECH_LLM += samples.BACKBONES_SECTION + samples.PROMPT_SECTION
SPEECH_LLM += samples.PROJECTOR_SECTION + samples.ADAPTER_SECTION


def _with_backbones(recipe: str, root: Path) -> str:
    """Write tiny backbones; return the recipe that names them."""
    whisper, model = samples.write_backbones(root / "backbones")
    return recipe.replace("{whisper}", str(whisper)).replace("{model}", str(model))


def _write_lines(path: Path, lines: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def speech_llm(root: Path) -> Path:
    """Write a corpus of 5 speakers, one of them dev: the higher the tone, the higher the score."""
    rng = np.random.default_rng(17)
    lines = []
    for number in range(20):
        speaker, length = 1 + number % 5, int(rng.uniform(0.6, 2.5) * 16_000)
        score = float(rng.integers(2, 10))
        tone = np.sin(2 * np.pi * (150 + 60 * score) * np.arange(length) / 16_000)
        sound = 0.3 * tone + rng.normal(0, 0.02, length)
        soundfile.write(root / f"{number}.flac", sound.astype(np.float32), 16_000)
        lines.append(
            {
                "id": str(number),
                "audio": f"{number}.flac",
                "speaker": str(speaker),
                "scores": {"total": score},
            }
        )
    _write_lines(root / "train.jsonl", lines)
    text = _with_backbones(SPEECH_LLM, root)
    for name, bf16 in (("small", "false"), ("half", "true")):
        made = text.replace("{epochs}", "6").replace("{bf16}", bf16)
        (root / f"{name}.toml").write_text(made)
        (root / f"{name}-units.toml").write_text(made.replace('ship = "fair"', 'ship = "units"'))
    return root


AUDIO_LLM = """
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
AUDIO_LLM += samples.PROMPT_SECTION + samples.ADAPTER_SECTION


def audio_llm(root: Path, family: str) -> Path:
    """Write a corpus of 5 speakers, one of them dev, a model and a recipe that names it."""
    rng = np.random.default_rng(17)
    lines = []
    for number in range(10):
        length, score = int(rng.uniform(0.6, 3.5) * 16_000), float(rng.integers(2, 10))
        tone = np.sin(2 * np.pi * (150 + 60 * score) * np.arange(length) / 16_000)
        sound = 0.3 * tone + rng.normal(0, 0.02, length)
        soundfile.write(root / f"{number}.flac", sound.astype(np.float32), 16_000)
        about = {"speaker": str(1 + number % 5), "scores": {"total": score}}
        lines.append({"id": str(number), "audio": f"{number}.flac", **about})
    _write_lines(root / "train.jsonl", lines)
    audio.write_model(family, root / "model")
    model = str(root / "model")
    text = AUDIO_LLM.replace("{encoder}", model).replace("{model}", model)
    (root / "small.toml").write_text(text)
    return root


MULTI_GRANULAR_SECTIONS = """[backbones]
encoder = "{whisper}"
language_model = "{model}"
layer_weights = [0.2, 0.3, 0.5]
[prompt]
prefix = "<|im_start|>Judge:"
middle = " Text:"
suffix = "<|im_end|>="
end = "<|im_end|>"
rationale = 12
"""
MULTI_GRANULAR_SECTIONS += samples.ADAPTER_SECTION
MULTI_GRANULAR = """
grader = "multi_granular"
seed = 5
ship = "preference"
manifest = "train.jsonl"
[phones]
width = 12
rounds = 3
[warm]
slot_width = 8
projector_width = 12
epochs = 2
batch_size = 4
[sft]
epochs = 3
batch_size = 4
lr = 0.01
bf16 = false
readings = 10
judged = 3
[preference]
steps = 3
batch_size = 2
"""
MULTI_GRANULAR += MULTI_GRANULAR_SECTIONS
READ_WORDS = (("go", ("G", "OW1")), ("up", ("AH1", "P")))


def multi_granular(root: Path) -> Path:
    """Write a corpus of 5 speakers, one of them dev: the louder the noise, the poorer the words."""
    rng = np.random.default_rng(17)
    lines = []
    for number in range(15):
        length, score = int(rng.uniform(0.8, 2.0) * 16_000), float(rng.integers(2, 10))
        tone = np.sin(2 * np.pi * 300 * np.arange(length) / 16_000)
        sound = 0.3 * tone + rng.normal(0, 0.02 * (10 - score), length)
        soundfile.write(root / f"{number}.flac", sound.astype(np.float32), 16_000)
        words = [
            {
                "text": text.upper(),
                "accuracy": score,
                "phones": [{"phone": p, "accuracy": round(score / 5, 1)} for p in phones],
            }
            for text, phones in READ_WORDS
        ]
        scores = {"accuracy": score, "fluency": score, "prosodic": 10.0 - score}
        lines.append(
            {
                "id": str(number),
                "audio": f"{number}.flac",
                "speaker": str(1 + number % 5),
                "text": "GO UP",
                "scores": scores,
                "words": words,
            }
        )
    _write_lines(root / "train.jsonl", lines)
    (root / "small.toml").write_text(_with_backbones(MULTI_GRANULAR, root))
    return root


SESSION_PROMPT = """[prompt]
prefix = "<|im_start|>Grade:"
heading = "{part}:"
between = ";"
missing = "-"
suffix = "<|im_end|>="
"""
SESSION = """
grader = "speech_llm_session"
seed = 5
ship = "last"
[data]
manifest = "train.jsonl"
sessions = "sessions.jsonl"
targets = "medians"
[prior]
levels = [2, 5, 9]
names = ["A", "B", "C"]
width = 4
steps = 20
folds = 2
[fit]
steps = 8
batch_size = 2
lr = 0.005
head_lr = 0.02
bf16 = false
[sessions]
max_responses = 8
max_audio_s = 30
[[run]]
name = "last"
prior = "last"
[[run]]
name = "first"
prior = "first"
[[run]]
name = "without"
prior = "none"
"""
SESSION += (
    SESSION_PROMPT + samples.BACKBONES_SECTION + samples.PROJECTOR_SECTION + samples.ADAPTER_SECTION
)
SESSION_PARTS = {"P1": [1, 1], "P3": [2]}


def session(root: Path) -> Path:
    """Write sessions of 6 speakers, two of them dev: the higher the tone, the higher the score."""
    (root / "audio").mkdir()
    rng = np.random.default_rng(17)
    lines, sessions = [], []
    for speaker in (1, 2, 3, 4, 5, 10):
        parts, scores = [], {}
        for part, sizes in SESSION_PARTS.items():
            names = []
            for size in sizes:
                names.append([f"{speaker}-{part}-{len(names)}-{n}" for n in range(size)])
            parts.append({"part": part, "responses": names})
            for name in (name for response in names for name in response):
                length, score = int(rng.uniform(0.6, 2.5) * 16_000), 1.0 + speaker % 7
                tone = np.sin(2 * np.pi * (150 + 60 * score) * np.arange(length) / 16_000)
                sound = 0.3 * tone + rng.normal(0, 0.02, length)
                path = f"audio/{name}.flac"
                soundfile.write(root / path, sound.astype(np.float32), 16_000)
                lines.append(
                    {
                        "id": name,
                        "audio": path,
                        "speaker": str(speaker),
                        "scores": {"total": score},
                    }
                )
            scores[part] = score
        scores["overall"] = float(np.mean(list(scores.values())))
        sessions.append({"session": str(speaker), "parts": parts, "scores": scores})
    _write_lines(root / "train.jsonl", lines)
    _write_lines(root / "sessions.jsonl", sessions)
    (root / "small.toml").write_text(_with_backbones(SESSION, root))
    return root


def audio_session(root: Path, family: str, **changes) -> Path:
    """Write sessions and a recipe on an audio language model's ears, a Whisper for the prior."""
    session(root)
    model = audio.write_model(family, root / "model", **changes)
    whisper = root / "backbones" / "whisper"
    encoder, prior = f'encoder = "{whisper}"', f'prior_encoder = "{whisper}"'
    text = (root / "small.toml").read_text()
    assert encoder in text
    lines = [line for line in text.splitlines() if not line.startswith("language_model = ")]
    own = f'encoder = "{model}"\nlanguage_model = "{model}"\n{prior}'
    text = "\n".join(lines).replace(encoder, own)
    text = text.replace("[sessions]\n", "[sessions]\nwindow_s = 2.0\n")
    text = text.replace("max_audio_s = 30", "max_audio_s = 12")
    (root / "small.toml").write_text(text)
    return root


TEXT = """
grader = "text"
seeds = [1, 2]
ship = "focal"
[data]
manifest = "train.jsonl"
transcripts = "heard.jsonl"
[encoder]
source = "{bert}"
tuned_layers = 2
max_pieces = 16
[classes]
names = ["low", "middle", "high"]
cuts = [4.5, 7.5]
[fit]
epochs = 2
batch_size = 8
lr = 1e-3
[[objective]]
name = "focal"
kind = "focal"
[[objective]]
name = "blv"
kind = "blv"
sigma = 2.0
"""
SAID = {3.0: "cat cat dog dog", 6.0: "the cat sat on the mat", 9.0: "we ran home early again"}


def text(root: Path) -> Path:
    """Write a recipe, a manifest, transcripts and a tiny BERT; the text gives the score away."""
    make_bert(root / "bert")
    (root / "a.flac").write_bytes(b"-")
    rows, heard = [], []
    for index in range(45):
        score = (3.0, 6.0, 9.0)[index % 3]
        rows.append(
            {
                "id": f"u{index}",
                "audio": "a.flac",
                "speaker": str(index % 10 + 1),
                "duration": 1.0 + index / 10,
                "scores": {"total": score},
            }
        )
        heard.append({"id": f"u{index}", "text": "" if index == 7 else SAID[score]})
    for name, lines in (("train.jsonl", rows), ("heard.jsonl", heard)):
        _write_lines(root / name, lines)
    (root / "tiny.toml").write_text(TEXT.format(bert=root / "bert"))
    return root
