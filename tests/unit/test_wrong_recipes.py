"""Recipes with one thing wrong, which training must refuse before it writes anything."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import acoustic_samples
import pytest
import training_samples

from asa_engine.errors import CheckpointError, UsageError
from asa_engine.training import train

# Grader -> what its recipe says, what is put in its place, what the message says.
WRONG = {
    "acoustic": (
        ("seed = 5", "seed = five", "not valid TOML"),
        ("seed = 5", "seed = 1.5", "seed is 1.5"),
        ("seed = 5", "sead = 5", "unknown sead"),
        ("[encoder]", "[decoder]", "unknown decoder"),
        ("epochs = 2", "epochs = 0", "epochs is too small"),
        ("epochs = 2", "epoch = 2", "unknown epoch"),
        ("dropout = 0.2", "dropout = 1.0", "dropout must be"),
        ("dropout = 0.2", 'dropout = "much"', "not of type float"),
        ("dropout = 0.2", "dropout = nan", "out of range"),
        ('name = "heads"', "", "name is missing"),
        ("window_s = 0.5", "window_s = 9.0", "window_s"),
        ("corpus/train.jsonl", "elsewhere.jsonl", "elsewhere.jsonl is not in"),
        ("blend = 0.4", "blend = 1.4", "blend must be"),
        ("gammas = [0.5, 1.0]", "gammas = []", "candidates is empty"),
        ("gammas = [0.5, 1.0]", "gammas = 0.5", "not a list"),
        ("window_s = 0.5", "window_s = 0.5\nkernel_centres = 3", r"set by \[kernel\]"),
        ('source = "random"', 'source = "package:no_such_thing"', "not installed"),
    ),
    "speech_llm": (
        ('ship = "fair"', 'ship = "best"', "ship is 'best'"),
        ('kind = "regression"', 'kind = "ranking"', "ranking"),
        ("label_scores = [2, 4, 7, 9]", "label_scores = [2, 7, 4, 9]", "ascend"),
        ("label_scores = [2, 4, 7, 9]", "label_scores = [2, 4, 7]", "label"),
        ('targets = "medians"', 'targets = "best"', "targets"),
        ("batch_size = 4\nlr", "batch_size = 0\nlr", "at least 1"),
        ("rank = 2", "rank = 0", "lora.rank"),
        ('labels = ["A", "B", "C", "D"]', 'labels = ["A", "B", "C", "DD"]', "'DD' is 2 tokens"),
        ("[adapter]", "[adaptor]", "adaptor"),
        ("seed = 5", "seed = 5.5", "seed"),
    ),
    "qwen2_audio": (
        ("[adapter]", "[prior]\nshare = 0.5\n[adapter]", "no prior on the .* encoder"),
        ("window_s = 2.0\nchunk_s = 4.0", "window_s = 2.1\nchunk_s = 4.2", "stack"),
        ("chunk_s = 4.0", "chunk_s = 3.0", "chunk_s"),
        ('/model"\nlanguage', '/no-model"\nlanguage', "no-model"),
    ),
    "multi_granular": (
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
    ),
    "session": (
        ('ship = "last"', 'ship = "none"', "ship is 'none'"),
        ('ship = "last"', 'ship = "without"', "not to be shipped"),
        ('prior = "first"', 'prior = "middle"', "prior is 'middle'"),
        ('heading = "{part}:"', 'heading = ":"', "heading"),
        ("steps = 8", "steps = 0", "at least 1"),
        ("folds = 2", "folds = 1", "folds"),
        ('names = ["A", "B", "C"]', 'names = ["A"]', "each level needs a name"),
        ("max_responses = 8", "missing = 1.0", "missing"),
        ("max_audio_s = 30", "max_audio_s = 3000", "do not fit"),
        ("seed = 5", "sead = 5", "unknown sead"),
    ),
    "text": (
        ('ship = "focal"', 'ship = "none"', "ship"),
        ('kind = "focal"', 'kind = "vocal"', "kind"),
        ("cuts = [4.5, 7.5]", "cuts = [7.5, 4.5]", "cuts"),
        ("cuts = [4.5, 7.5]", "cuts = [4.5]", "one cut fewer"),
        ("seeds = [1, 2]", "seeds = [1, 1]", "seeds"),
        ("epochs = 2", "epochs = 0", "epochs"),
        ("epochs = 2", "epocs = 2", "epocs"),
        ("sigma = 2.0", 'sigma = "two"', "sigma"),
        ('name = "blv"', 'name = "focal"', "differ"),
        ("tuned_layers = 2", "tuned_layers = 7", "tuned_layers"),
        ("tuned_layers = 2", 'tuned_layers = 2\nbackbone = "minilm-l6"', "backbone"),
    ),
}
WRONG["phi4_multimodal"] = WRONG["qwen2_audio"]
CASES = [(grader, *case) for grader, cases in WRONG.items() for case in cases]
RECIPES: dict[str, Callable[[Path], Path]] = {
    "acoustic": acoustic_samples.write_recipe,
    "speech_llm": lambda root: training_samples.speech_llm(root) / "small.toml",
    "qwen2_audio": lambda root: training_samples.audio_llm(root, "qwen2_audio") / "small.toml",
    "phi4_multimodal": lambda root: (
        training_samples.audio_llm(root, "phi4_multimodal") / "small.toml"
    ),
    "multi_granular": lambda root: training_samples.multi_granular(root) / "small.toml",
    "session": lambda root: training_samples.session(root) / "small.toml",
    "text": lambda root: training_samples.text(root) / "tiny.toml",
}


@pytest.fixture(scope="module")
def recipe_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes a small recipe that is right, once for each grader."""
    return cache(lambda grader: RECIPES[grader](tmp_path_factory.mktemp(grader)))


@pytest.mark.parametrize(("grader", "old", "new", "message"), CASES)
def test_a_wrong_recipe_is_refused(
    recipe_of: Callable[[str], Path], tmp_path: Path, grader: str, old: str, new: str, message: str
) -> None:
    recipe = recipe_of(grader)
    text = recipe.read_text()
    assert old in text
    wrong = recipe.with_name("wrong.toml")
    wrong.write_text(text.replace(old, new, 1))
    with pytest.raises((UsageError, CheckpointError), match=message):
        train(wrong, tmp_path / "out")
    assert not (tmp_path / "out").exists()
