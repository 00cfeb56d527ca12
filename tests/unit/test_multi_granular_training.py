"""Training of the multi-granular grader on a small synthetic corpus with tiny random backbones."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("transformers", reason="needs the extra 'bench'")

import speech_llm_samples as samples  # noqa: E402

from asa_engine.errors import ManifestError  # noqa: E402
from asa_engine.graders.multi_granular.model import MultiGranular  # noqa: E402
from asa_engine.graders.multi_granular.recipe import MultiGranularRecipe  # noqa: E402
from asa_engine.training import adapters, train  # noqa: E402

RECIPE = """
grader = "multi_granular"
seed = 5
ship = "preference"
manifest = "train.jsonl"
[backbones]
encoder = "{whisper}"
language_model = "{model}"
layer_weights = [0.2, 0.3, 0.5]
[prompt]
prefix = "<|im_start|>Judge:"
middle = " Text:"
suffix = "<|im_end|>="
end = "<|im_end|>"
rationale = 12
[phones]
width = 12
rounds = 3
[warm]
slot_width = 8
projector_width = 12
epochs = 2
batch_size = 4
[adapter]
rank = 2
alpha = 4
first_layer = 1
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
WORDS = (("go", ("G", "OW1")), ("up", ("AH1", "P")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Corpus of 5 speakers, one of them dev: the louder the noise, the poorer the words."""
    root = tmp_path_factory.mktemp("multi_granular")
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
            for text, phones in WORDS
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
    (root / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    whisper, model = samples.write_backbones(root / "backbones")
    text = RECIPE.replace("{whisper}", str(whisper)).replace("{model}", str(model))
    (root / "small.toml").write_text(text)
    return root


def test_a_training_ends_with_a_checkpoint_and_a_report(folder, tmp_path):
    output = train(folder / "small.toml", tmp_path / "out")
    report = json.loads((output / "training.json").read_text())
    assert set(report["runs"]) == {"sft", "preference"}
    assert report["train"]["n"] == 12
    assert not (tmp_path / "out.training").exists()
    first, *_, last = report["runs"]["sft"]["history"]
    assert last["loss"] < first["loss"]
    assert report["runs"]["preference"]["history"][0]["preference"] > 0
    assert 0 <= report["dev"]["word"]["agreement"] <= 1
    assert (output / "lexicon.txt").read_text() == "go G OW\nup AH P\n"
    grader = MultiGranular.load(output)
    assert grader.config.least_fit < 0
    assert list(grader.config.label_scores["word"]) == sorted(grader.config.label_scores["word"])


def test_a_killed_training_goes_on_and_ends_alike(folder, tmp_path, monkeypatch):
    whole = train(folder / "small.toml", tmp_path / "whole")
    monkeypatch.setattr(adapters, "SAVE_EVERY_S", 0.0)
    real, steps = torch.nn.utils.clip_grad_norm_, []

    def dies(parameters, norm):
        steps.append(1)
        if len(steps) in (4, 10, 17):  # in the warm start, in both runs
            raise KeyboardInterrupt
        return real(parameters, norm)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", dies)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            train(folder / "small.toml", tmp_path / "parts")
    parts = train(folder / "small.toml", tmp_path / "parts")
    for name in ("weights.safetensors", "config.json", "lexicon.txt"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()


def test_a_corpus_without_words_is_refused(folder, tmp_path):
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    del lines[3]["words"]
    (folder / "bare.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = folder / "bare.toml"
    path.write_text((folder / "small.toml").read_text().replace("train.jsonl", "bare.jsonl"))
    with pytest.raises(ManifestError, match="words"):
        train(path, tmp_path / "out")


def test_the_shipped_recipe_is_valid():
    from asa_engine.training.recipe import find_recipe

    recipe = MultiGranularRecipe.load(find_recipe("multi-granular-tiny-en-smollm2"))
    assert recipe.ship in ("sft", "preference")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('ship = "preference"', 'ship = "best"', "best"),
        ("steps = 3", "steps = 0", "no steps"),
        ("batch_size = 2", "batch_size = 0", "at least 1"),
        ("rounds = 3", "rounds = 3\nshare = 0.0", "above 0"),
        ("bf16 = false", "dropout = 1.0", "below 1"),
        ("rank = 2", "rank = 0", "lora.rank"),
        ('end = "<|im_end|>"', 'end = "end"', "3 tokens"),
        ("layer_weights = [0.2, 0.3, 0.5]", "layer_weights = [1.0]", "layer_weights"),
        ("[warm]", "[warmth]", "warmth"),
        ("seed = 5", "seed = 5.5", "seed"),
    ],
)
def test_a_wrong_recipe_is_refused(folder, tmp_path, old, new, message):
    samples.check_refused(folder, tmp_path, old, new, message)
