"""Phi-4's own speech adapter, merged when its folder is read; a tiny one of the real classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import audio_llm_samples
import pytest
import torch
from safetensors.torch import save_file

from asa_engine.errors import CheckpointError
from asa_engine.nn.audio_language_model import load_audio_language_model, load_backbones
from asa_engine.nn.language_model import load_language_model
from asa_engine.nn.lora import LoraLinear

RANK, ALPHA = 3, 12.0
LAYERS = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")


def _factors(decoder: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(4)
    found = {}
    for index, layer in enumerate(decoder.layers):
        for name in LAYERS:
            rows, columns = layer.get_submodule(name).weight.shape
            found[f"model.layers.{index}.{name}"] = (
                0.2 * torch.randn(RANK, columns, generator=generator),
                0.2 * torch.randn(rows, RANK, generator=generator),
            )
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with its adapter beside it, in peft's layout."""
    audio_llm_samples.write_model("phi4_multimodal", tmp_path)
    beside = tmp_path / "speech-lora"
    beside.mkdir()
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none"}
    (beside / "adapter_config.json").write_text(json.dumps(config))
    tensors = {}
    for name, (a, b) in _factors(audio_llm_samples.model("phi4_multimodal").model).items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = a.contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = b.contiguous()
    save_file(tensors, beside / "adapter_model.safetensors")
    return tmp_path


def test_a_merged_adapter_computes_what_it_does_beside_its_layers(folder: Path) -> None:
    merged = load_audio_language_model("phi4_multimodal", folder).language_model
    beside = audio_llm_samples.model("phi4_multimodal").model
    for name, (a, b) in _factors(beside).items():
        parent, _, last = name.removeprefix("model.").rpartition(".")
        owner = beside.get_submodule(parent)
        layer = LoraLinear(getattr(owner, last), RANK, ALPHA)
        layer.lora_a.data.copy_(a)
        layer.lora_b.data.copy_(b)
        setattr(owner, last, layer)
    rows = torch.randn(1, 7, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = beside(inputs_embeds=rows).last_hidden_state
        found = merged.close(merged.run(rows, 0, merged.config.layers))
        plain = audio_llm_samples.model("phi4_multimodal").model(inputs_embeds=rows)
    # float32 sums in another order, through three layers.
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (plain.last_hidden_state - expected).abs().max() > 0.1


def test_every_way_of_reading_the_folder_merges_it(folder: Path) -> None:
    one = load_audio_language_model("phi4_multimodal", folder).language_model
    _, two = load_backbones(folder, folder)
    three = load_language_model(folder)
    layers = [model.decoder.layers[2].mlp.down_proj.weight for model in (one, two, three)]
    assert torch.equal(layers[0], layers[1])
    assert torch.equal(layers[0], layers[2])
    plain = audio_llm_samples.model("phi4_multimodal").model.layers[2].mlp.down_proj.weight
    assert not torch.equal(layers[0], plain)


def _config(**changes: Any) -> Any:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def _tensors(tensors: dict[str, torch.Tensor]) -> Any:
    return lambda folder: save_file(tensors, folder / "adapter_model.safetensors")


_A, _B = "base_model.model.model.norm.lora_A.weight", "base_model.model.model.norm.lora_B.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_config(r=0), "no r and lora_alpha"),
        (_config(use_dora=True), "use_dora is True"),
        (_config(rank_pattern={"o_proj": 8}), "ranks of their own"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "without speech-lora"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x"), "damaged"),
        (_tensors({_A: torch.ones(2, 64), _B: torch.ones(64, 2)}), "of another model: model.norm"),
        (_tensors({_A: torch.ones(2, 64)}), "do not go together"),
        (_tensors({"model.norm.weight": torch.ones(64)}), "no low-rank factor"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(folder: Path, damage: Any, message: str) -> None:
    damage(folder / "speech-lora")
    with pytest.raises(CheckpointError, match=message):
        load_audio_language_model("phi4_multimodal", folder)
