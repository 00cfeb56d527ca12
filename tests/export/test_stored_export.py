"""Language models larger than memory: matrices left in their folder, exported one at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import audio_llm_samples as audio
import numpy as np
import pytest
import speech_llm_samples as samples
import torch
from audio_samples import sound
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from asa_engine.bundle import Bundle
from asa_engine.errors import CheckpointError, UsageError
from asa_engine.graders.lm import checkpoint as checkpoints
from asa_engine.graders.lm.windows import cut
from asa_engine.graders.speech_llm.model import SpeechLLM
from asa_engine.graders.speech_llm.stages import SpeechLLMStages
from asa_engine.nn.language_model import load_language_model
from asa_engine.nn.stored_layers import is_stored
from asa_export import language_model_files
from asa_export.exporter import Job, export, plan
from asa_export.speech import Speech, synthetic_recordings
from asa_export.speech_llm import EXPORTER

STAGES = ("encoder", "projector", "language_model", "head")


def speech() -> Speech:
    return Speech("short", synthetic_recordings(seed=1)[:2], synthetic_recordings()[:2])


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have so little memory that any model is too large."""
    monkeypatch.setattr(checkpoints, "memory_bytes", lambda: 1000)
    monkeypatch.setattr(language_model_files, "LARGEST_INSIDE", 0)


@pytest.fixture(scope="module", params=audio.FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a grader on a model in shards, Phi-4's with its own adapter beside it."""
    folder = tmp_path_factory.mktemp("stored")
    model = audio.model(request.param)
    model.save_pretrained(folder / "model", max_shard_size="40KB")
    samples.tokenizer().save_pretrained(folder / "model")
    assert len(list((folder / "model").glob("*.safetensors"))) > 1
    if request.param == "phi4_multimodal":
        _write_adapter(folder / "model", model)
    return audio.write_checkpoint(folder / "model", folder / "checkpoint")


def _write_adapter(folder: Path, model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(9)
    tensors = {}
    for name, value in model.state_dict().items():
        if name.startswith("model.layers.") and name.endswith("_proj.weight"):
            layer = f"base_model.model.{name.removesuffix('.weight')}.lora_"
            tensors[f"{layer}A.weight"] = torch.randn(2, value.shape[1], generator=generator)
            tensors[f"{layer}B.weight"] = 0.1 * torch.randn(value.shape[0], 2, generator=generator)
    (folder / "speech-lora").mkdir()
    save_file(tensors, folder / "speech-lora" / "adapter_model.safetensors")
    described = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
    (folder / "speech-lora" / "adapter_config.json").write_text(json.dumps(described))


def test_the_reference_is_the_same_to_the_bit(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = SpeechLLM.load(checkpoint)
    monkeypatch.setattr(checkpoints, "memory_bytes", lambda: 1000)
    stored = SpeechLLM.load(checkpoint)
    assert is_stored(stored.language_model)
    assert is_stored(stored.encoder)
    assert not is_stored(whole)
    for seconds in (0.7, 4.3):
        expected, found = (g.assess_samples(sound(seconds)) for g in (whole, stored))
        np.testing.assert_array_equal(found.probabilities, expected.probabilities)


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.usefixtures("small_machine")
def test_what_is_written_is_what_a_whole_model_rounds_to(
    checkpoint: Path, tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, answers = Bundle.open(checkpoint), []
    for name in ("stored", "whole"):
        if name == "whole":
            monkeypatch.undo()
            monkeypatch.setattr(language_model_files, "calibrate_decoder", lambda *_: {})
        work = tmp_path / name
        work.mkdir()
        config = EXPORTER.validate(opened)
        stages = EXPORTER.build(Job(opened, config, work, [("onnxruntime", precision)], speech()))
        files = {stage: work / stages[stage]["onnxruntime"][precision] for stage in STAGES}
        data = work / "language_model" / f"{precision}.data"
        assert data.is_file() == (name == "stored")
        opened_stages = SpeechLLMStages.open(config, files, precision=precision, threads=1)
        run = opened_stages.start()
        for mel in cut(config).push(sound(2.0)):
            run.extend(opened_stages.window(mel))
        answers.append(run.answer())
    # The prompt's beginning is PyTorch's in the one and the float32 graph's in the other.
    np.testing.assert_allclose(*answers, atol=2e-3)


@pytest.mark.parametrize("variant", [("onnx", "fp32"), ("native", "int8")])
@pytest.mark.usefixtures("small_machine")
def test_what_would_hold_it_whole_is_refused(
    checkpoint: Path, tmp_path: Path, variant: tuple[str, str]
) -> None:
    target, precision = variant
    with pytest.raises(UsageError, match="larger than this machine's memory") as refused:
        export(checkpoint, tmp_path / "b", plan([target], [precision], "speech_llm"), speech())
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("small_machine")
def test_folders_that_are_no_model_say_so_in_a_line(checkpoint: Path, tmp_path: Path) -> None:
    source = Path(SpeechLLM.load(checkpoint).config.backbones["language_model"])
    copy = tmp_path / "model"
    copy.mkdir()
    for file in source.iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    shard = sorted(copy.glob("*.safetensors"))[-1]
    tensors = load_file(shard)
    shard.unlink()
    with pytest.raises(CheckpointError, match=rf"the shard {shard.name} .* is missing"):
        SpeechLLM.load(checkpoint, encoder=copy, language_model=copy)
    save_file({f"other.{name}": value for name, value in tensors.items()}, shard)
    with pytest.raises(CheckpointError, match="it is of another model"):
        SpeechLLM.load(checkpoint, encoder=copy, language_model=copy)
    save_file({name: value[..., :1].clone() for name, value in tensors.items()}, shard)
    with pytest.raises(CheckpointError, match=r"is \[.*\], not \["):
        SpeechLLM.load(checkpoint, encoder=copy, language_model=copy)


@pytest.mark.usefixtures("small_machine")
def test_a_checkpoint_of_another_backbone_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    _, other = samples.write_backbones(tmp_path)
    with pytest.raises(CheckpointError, match="the checkpoint wants a backbone of"):
        SpeechLLM.load(checkpoint, language_model=other)


def test_forty_gigabytes_on_a_machine_of_eight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headers alone are read to tell: the file is a hole."""
    size = 40 * 10**9
    table = {"w": {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}}
    header = json.dumps(table).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    with file.open("r+b") as sparse:
        sparse.truncate(8 + len(header) + size)
    monkeypatch.setattr(checkpoints, "memory_bytes", lambda: 8 * 2**30)
    assert checkpoints.exceeds_memory(tmp_path)
    monkeypatch.setattr(checkpoints, "memory_bytes", lambda: 256 * 2**30)
    assert not checkpoints.exceeds_memory(tmp_path)


CHILD = """
import sys
from pathlib import Path
import torch
from asa_engine.nn.language_model import load_language_model
from asa_engine.graders.lm.checkpoint import add_adapters
from asa_engine.graders.lm.shapes import LoraConfig
from asa_engine.measuring.worker import memory_mb
from asa_export import language_model_files
from asa_export.language_model_files import DecoderFiles, state_of
from asa_export.language_model_quantize import Int4Decoder

torch.set_num_threads(1)
language_model_files.LARGEST_INSIDE = 0
before = memory_mb("VmHWM")  # ru_maxrss would begin with the parent's
model = load_language_model(sys.argv[1], stored=sys.argv[3] == "stored")
add_adapters(model, LoraConfig.of("qwen2", 16, 32.0, 0))
files = DecoderFiles(model, Path(sys.argv[2]), positions=512)
state_of(files.exact(), model.embed(torch.arange(8)))
files.write("int4", Int4Decoder())
print(memory_mb("VmHWM") - before)
"""


def test_the_peak_is_near_one_layer(tmp_path: Path) -> None:
    """Heads of the real width, ten layers of 17 M parameters: 670 MB as float32."""
    config = Qwen2Config(
        vocab_size=64, hidden_size=1024, intermediate_size=4096, num_hidden_layers=10,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=1024,
        tie_word_embeddings=True,
    )  # fmt: skip
    Qwen2ForCausalLM(config).bfloat16().save_pretrained(tmp_path / "model")
    grown = {}
    for how in ("stored", "whole"):
        (tmp_path / how).mkdir()
        command = [sys.executable, "-c", CHILD, str(tmp_path / "model"), str(tmp_path / how), how]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        grown[how] = float(done.stdout.split()[-1]) * 1e6
    layer = 4 * (4 * 1024 * 1024 + 3 * 1024 * 4096)
    # A layer as float32 is 67 MB; what is left is what libraries take when they are first used.
    assert grown["stored"] < 5 * layer
    assert grown["whole"] > 10 * layer


def test_rows_of_a_stored_table_are_those_of_the_whole(tmp_path: Path) -> None:
    whole, folder = samples.write_backbones(tmp_path)
    assert whole
    models = [load_language_model(folder, stored=stored) for stored in (False, True)]
    ids = torch.tensor([[3, 0], [99, 3]])
    for some in (lambda m: m.embed(ids), lambda m: m.output_rows(ids[0])):
        expected, found = (some(model) for model in models)
        assert torch.equal(expected, found)
    assert models[0].embedding_rms() == pytest.approx(models[1].embedding_rms())
    with pytest.raises(IndexError):
        models[1].embed(torch.tensor([100]))
