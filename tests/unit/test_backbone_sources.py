"""Backbones by folder or by hub name: in shards, in the type they are stored in, never as code."""

from __future__ import annotations

import builtins
import json
from pathlib import Path

import pytest
import speech_llm_samples as samples
import torch
from safetensors.torch import load_file, save_file
from text_samples import make_bert

from asa_engine.backbones import model_folder
from asa_engine.backbones.stored import INDEX_NAME, SINGLE_NAME
from asa_engine.errors import CheckpointError, UsageError
from asa_engine.graders.lm.checkpoint import add_adapters
from asa_engine.graders.lm.shapes import LoraConfig
from asa_engine.graders.text.config import TextConfig
from asa_engine.nn.language_model import (
    LanguageModel,
    load_language_model,
    load_tokenizer,
    sharing,
)
from asa_engine.nn.lora import LoraLinear, lora_counts
from asa_engine.nn.weights import load_whisper_encoder


def _into_shards(folder: Path, count: int = 3) -> None:
    """Deal a folder's tensors out to shards, with an index."""
    state = load_file(folder / SINGLE_NAME)
    (folder / SINGLE_NAME).unlink()
    table = {}
    for number in range(count):
        file = f"model-{number + 1:05}-of-{count:05}.safetensors"
        part = dict(list(state.items())[number::count])
        save_file(part, folder / file, {"format": "pt"})
        table |= dict.fromkeys(part, file)
    (folder / INDEX_NAME).write_text(json.dumps({"metadata": {}, "weight_map": table}))


def _same(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    first, second = one.state_dict(), two.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_a_whisper_in_shards_is_the_one_in_one_file(tmp_path: Path) -> None:
    whisper, _ = samples.write_backbones(tmp_path)
    whole = load_whisper_encoder(whisper)
    _into_shards(whisper)
    assert _same(load_whisper_encoder(whisper), whole)
    next(whisper.glob("model-00002*")).unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors .* is missing"):
        load_whisper_encoder(whisper)


def test_a_language_model_without_one_of_its_shards_is_refused(tmp_path: Path) -> None:
    _, model = samples.write_backbones(tmp_path)
    _into_shards(model)
    assert load_language_model(model).config.layers == 3
    shard = next(model.glob("model-00003*"))
    save_file({"of.another": torch.zeros(1)}, shard)
    with pytest.raises(CheckpointError, match="of another model"):
        load_language_model(model)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, and nothing of the hub beyond it."""
    folder = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return folder


def _cached(cache: Path, name: str, made: Path) -> None:
    """Put a folder where huggingface_hub keeps a model."""
    place = cache / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    (place / "snapshots").mkdir()
    made.rename(place / "snapshots" / ("0" * 40))


def test_models_are_found_by_their_names_on_the_hub(cache: Path, tmp_path: Path) -> None:
    whisper, _ = samples.write_backbones(tmp_path)
    wanted = load_whisper_encoder(whisper)
    _cached(cache, "some/whisper", whisper)
    assert _same(load_whisper_encoder("some/whisper"), wanted)
    _cached(cache, "some/bert", make_bert(tmp_path / "bert"))
    assert (model_folder("some/bert") / "tokenizer.json").is_file()
    with pytest.raises(CheckpointError, match="some/other is not in the hub's cache"):
        model_folder("some/other")
    with pytest.raises(UsageError, match="neither a backbone, nor a folder, nor a name"):
        model_folder("whisper tiny")


def test_shards_of_the_hub_are_all_needed(cache: Path, tmp_path: Path) -> None:
    whisper, _ = samples.write_backbones(tmp_path)
    _into_shards(whisper)
    _cached(cache, "some/whisper", whisper)
    assert load_whisper_encoder("some/whisper").config == samples.ENCODER
    next(cache.rglob("model-00001*")).unlink()
    with pytest.raises(CheckpointError, match="some/whisper is not in the hub's cache"):
        load_whisper_encoder("some/whisper")


@pytest.mark.parametrize("load", [load_language_model, load_tokenizer])
def test_code_in_a_folder_is_neither_run_nor_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load
) -> None:
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w')\nclass C: pass\n"
    (tmp_path / "code.py").write_text(code)
    classes = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")
    settings = {"model_type": "made_up", "auto_map": dict.fromkeys(classes, "code.C")}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    tokens = {"auto_map": {"AutoTokenizer": ["code.C", None]}, "tokenizer_class": "C"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokens))
    asked: list[object] = []
    monkeypatch.setattr(builtins, "input", lambda *said: asked.append(said) or "y")
    with pytest.raises(CheckpointError):
        load(tmp_path)
    assert not asked
    assert not ran.exists()


def test_weights_are_loaded_in_the_type_they_are_stored_in(tmp_path: Path) -> None:
    samples.language_model().to(torch.bfloat16).save_pretrained(tmp_path)
    stored, wide = load_language_model(tmp_path, None), load_language_model(tmp_path)
    assert (stored.dtype, wide.dtype) == (torch.bfloat16, torch.float32)
    assert {p.dtype for p in stored.parameters()} == {torch.bfloat16}
    assert _same(stored.float(), wide)


@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3"])
def test_adapters_reach_every_linear_layer_of_a_family(family: str) -> None:
    model = LanguageModel(samples.language_model(family, layers=3))
    add_adapters(model, LoraConfig.of(family, 2, 4.0, 1))
    linears = {
        name
        for name, module in model.decoder.layers[1].named_modules()
        if isinstance(module, torch.nn.Linear) and not name.endswith(".base")
    }
    assert linears == set()  # all that are left are inside an adapter
    fused = {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
    counts = lora_counts(model)
    assert set(counts.values()) == {2}
    assert set(counts) == (fused if family == "phi3" else set(LoraConfig().targets))


def test_adapters_that_reach_no_layer_are_refused_and_leave_none_behind() -> None:
    model = LanguageModel(samples.language_model("phi3"))
    with pytest.raises(CheckpointError, match="no layer has q_proj, k_proj, v_proj"):
        add_adapters(model, LoraConfig())
    assert lora_counts(model) == {}


def test_models_that_share_weights_take_adapters_of_their_own() -> None:
    model = LanguageModel(samples.language_model())
    one, two = sharing(model), sharing(model)
    add_adapters(one, LoraConfig(2, 4.0, 0, ("q_proj",)))
    assert lora_counts(one)
    assert not lora_counts(two)
    layer = one.decoder.layers[0].self_attn.q_proj
    assert isinstance(layer, LoraLinear)
    kept = model.decoder.layers[0].self_attn.q_proj.weight
    assert layer.base.weight is kept
    assert two.decoder.layers[0].self_attn.q_proj.weight is kept


def test_backbones_may_have_long_names() -> None:
    name = "/" + "models/" * 60 + "whisper"
    aspect = {"name": "total", "level_cuts": [5.0], "level_names": ["low", "high"]}
    fields = {"aspects": [aspect], "class_scores": [2.0, 8.0], "backbones": {"recogniser": name}}
    head = {"grader": "text", "format_revision": 1}
    assert TextConfig.from_dict({**head, **fields}).backbones["recogniser"] == name
    with pytest.raises(CheckpointError, match=r"backbones\.recogniser"):
        TextConfig.from_dict({**head, **fields, "backbones": {"recogniser": 3 * name}})
