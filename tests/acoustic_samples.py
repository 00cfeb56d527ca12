"""A corpus of noise, and an acoustic recipe beside it: small, and with everything on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile

# Of text graders.
CLASSES_SECTION = """[classes]
names = ["low", "high"]
cuts = [5.5]
"""
# Its table [grader] is open: a recipe goes on with what is graded.
GRADER_SECTIONS = """
[encoder]
source = "random"
[grader]
window_s = 0.5
attention_heads = 2
head_width = 16
prior_width = 8
prior_embedding = 4
encoder = { n_mels = 80, d_model = 16, layers = 2, heads = 2, ffn = 32, positions = 25 }
"""
RECIPE = """
seed = 5
threads = 1
[data]
manifest = "corpus/train.jsonl"
[augment]
speed = 0.05
gain_db = 6.0
noise = 0.5
low_pass = 0.5
shift = 0.5
tilt = 0.1
mel_mask = 8
[[phase]]
name = "heads"
epochs = 2
batch_size = 4
dropout = 0.2
feature_noise = 0.1
ctc = 0.3
auxiliary = 0.3
[[phase]]
name = "all"
epochs = 2
batch_size = 4
encoder_lr = 1e-3
dropout = 0.2
encoder_dropout = 0.1
ccc = 0.5
ctc = 0.3
auxiliary = 0.3
bf16 = true
[kernel]
blend = 0.4
width = 6
folds = 3
gammas = [0.5, 1.0]
"""
RECIPE += GRADER_SECTIONS + 'aspects = [{ name = "accuracy" }, { name = "total" }]\n'


def _line(number: int, speaker: int) -> dict[str, object]:
    words = [
        {"accuracy": 10.0, "phones": [{"phone": "AH0", "accuracy": 2.0}]},
        {"accuracy": 4.0, "phones": [{"phone": "T", "accuracy": 0.4}]},
    ]
    score = float(3 + number % 7)
    return {
        "id": f"u{number}",
        "audio": f"u{number}.wav",
        "speaker": f"{speaker:04d}",
        "age": 8 + speaker,
        "gender": "fm"[number % 2],
        "scores": {"accuracy": score, "total": score},
        "raters": {"accuracy": [score, score + 1], "total": [score, score]},
        "words": words,
    }


def write_recipe(tmp_path: Path) -> Path:
    """Write a recipe beside a corpus of ten train and four dev utterances; return its path."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    rng = np.random.default_rng(1)
    lines = [_line(i, speaker=1 + i if i < 10 else 15) for i in range(14)]
    lines = [{**x, "speaker": "0021"} if x["speaker"] in ("0005", "0010") else x for x in lines]
    for line in lines:
        tone = rng.normal(0, 0.05, int(rng.integers(12_000, 30_000)))
        soundfile.write(folder / str(line["audio"]), tone, 16_000)
    (folder / "train.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path
