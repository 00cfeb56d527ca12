"""The speech LLM with its language model for a GPU; the CPU stands in for the device."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import speech_llm_samples as samples
from onnx import TensorProto

import asa_engine as asa
from asa_engine.bundle import Bundle
from asa_engine.errors import BackendError
from asa_engine.graders.speech_llm.config import SpeechLLMConfig
from asa_engine.graders.speech_llm.runtime import STAGE_NAMES, SpeechLLMRun
from asa_engine.graders.speech_llm.stages import SpeechLLMStages
from asa_engine.language_model.decoder import Decoder
from asa_engine.profiling import StageClock
from asa_engine.runtimes.onnxruntime import session
from asa_export.exporter import Job, export, plan
from asa_export.language_model_half import form_for_cpu
from asa_export.speech import Speech, synthetic_recordings

FILES = Path("language_model")
# Points from 0 to 10: a random network of width 32 has no room for rounding, a trained one is held
# to its budget by the exporter.
TOLERANCE = {"fp16": 0.02, "bf16": 0.2}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples.make_checkpoint(tmp_path_factory.mktemp("speech-llm"))


@pytest.fixture(scope="module")
def built(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of both halves, and those of float32 on the CPU; not to be written to."""
    from asa_engine.bundle import write_manifest
    from asa_export.speech_llm import EXPORTER

    folder = tmp_path_factory.mktemp("built")
    opened = Bundle.open(checkpoint)
    speech = Speech("short", synthetic_recordings(seed=1)[:2], synthetic_recordings()[:2])
    variants = plan(["onnx", "onnx-cuda"], ["fp32", "fp16", "bf16"], "speech_llm")
    assert variants[1:] == (("onnxruntime-cuda", "fp16"), ("onnxruntime-cuda", "bf16"))
    stages = EXPORTER.build(Job(opened, EXPORTER.validate(opened), folder, variants, speech))
    write_manifest(
        folder, name="x", version="1", grader="speech_llm", stages=stages, auto=(), parity={}
    )
    return folder


def score(config: SpeechLLMConfig, stages: Any, pieces: int = 1) -> float:
    run = SpeechLLMRun(config, stages, StageClock())
    x = synthetic_recordings()[1].samples()
    for piece in np.array_split(x, pieces):
        run.push(piece)
    grade = run.finish()
    assert grade is not None
    return grade.scores["total"].value


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_judged_form_scores_near_float32(built: Path, precision: str) -> None:
    from asa_export.speech_llm import EXPORTER

    bundle = Bundle.open(built)
    config = SpeechLLMConfig.from_dict(bundle.config)
    judged = EXPORTER.judge(bundle, "onnxruntime-cuda", precision)
    files = {name: bundle.file(name, "onnxruntime", "fp32") for name in STAGE_NAMES}
    exact = SpeechLLMStages.open(config, files, precision="fp32", threads=1)
    change = abs(score(config, judged) - score(config, exact))
    assert 0 < change < TOLERANCE[precision]
    assert EXPORTER.judge(bundle, "onnxruntime", "fp32") is None
    assert not list(built.glob("language_model/cpu.*"))


@pytest.mark.parametrize("pieces", [1, 7, 60])
def test_on_a_device_every_chunking_scores_the_same(
    built: Path, monkeypatch: pytest.MonkeyPatch, pieces: int
) -> None:
    """Memory and copies of the device, on the CPU: the same score as from the host's memory."""
    bundle = Bundle.open(built)
    config = SpeechLLMConfig.from_dict(bundle.config)
    files = {name: bundle.file(name, "onnxruntime-cuda", "bf16") for name in STAGE_NAMES}

    def on_device(path: Path, *, threads: int, device: str = "") -> Decoder:
        assert device == "cuda"
        return Decoder(session(path, threads), device="cpu")

    with form_for_cpu(files["language_model"]) as here:
        files["language_model"] = here
        host = SpeechLLMStages.open(config, files, precision="bf16", threads=1)
        monkeypatch.setattr(Decoder, "open", on_device)
        bound = SpeechLLMStages.open(config, files, precision="bf16", threads=1, device="cuda")
    # The same bits of the same arithmetic; windows close at the same samples.
    assert score(config, bound, pieces) == score(config, host)


def test_keys_and_values_are_half_and_weights_are_shared(built: Path) -> None:
    for precision, kind in (("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)):
        path = built / FILES / f"{precision}.onnx"
        model = onnx.load(path, load_external_data=False)
        kinds = {item.name: item.type.tensor_type.elem_type for item in model.graph.output}
        assert kinds["new_key_0"] == kind
        assert kinds["hidden"] == TensorProto.FLOAT
        places = {
            entry.value
            for tensor in model.graph.initializer
            for entry in tensor.external_data
            if entry.key == "location"
        }
        assert places == {"merged.safetensors"}


def test_without_the_package_it_cannot_be_chosen(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = metadata.version

    def without(package: str) -> str:
        if package == "onnxruntime-gpu":
            raise metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(metadata, "version", without)
    with pytest.raises(BackendError, match="onnxruntime-cuda backend cannot run here") as caught:
        asa.load(built, backend="onnxruntime-cuda")
    assert "onnxruntime-gpu is not installed" in caught.value.hint


def test_the_export_gates_what_the_gpu_will_run(checkpoint: Path, tmp_path: Path) -> None:
    speech = Speech("short", synthetic_recordings(seed=1)[:2], synthetic_recordings()[:2])
    variants = plan(["onnx-cuda"], ["fp16"], "speech_llm")
    report = export(checkpoint, tmp_path / "b", variants, speech)
    assert report.parity[0].variant == "onnxruntime-cuda/fp16"
    assert report.auto == ()
    assert (tmp_path / "b" / FILES / "merged.safetensors").exists()
