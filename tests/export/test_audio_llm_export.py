"""Graders on tiny random Qwen2-Audio and Phi-4-multimodal folders: reference, bundle, engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import audio_llm_samples as audio
import numpy as np
import onnxruntime
import pytest
import speech_llm_samples as samples
import torch
from audio_samples import sound
from safetensors.torch import save_file

import asa_engine as asa
from asa_engine.bundle import Bundle
from asa_engine.graders.lm.windows import cut
from asa_engine.graders.speech_llm.config import SpeechLLMConfig
from asa_engine.graders.speech_llm.model import SpeechLLM
from asa_engine.graders.speech_llm.runtime import SpeechLLMRun
from asa_engine.graders.speech_llm.stages import SpeechLLMStages
from asa_engine.nn.audio_language_model import load_backbones
from asa_engine.profiling import StageClock
from asa_export.audio_encoder import audio_encoder_model
from asa_export.exporter import Job, export, plan
from asa_export.speech import Speech, synthetic_recordings
from asa_export.weights import Weights

# Points of a scale from 0 to 10: float32 sums in another order, through all stages.
FLOAT_TOLERANCE = 1e-3


def speech() -> Speech:
    return Speech("short", synthetic_recordings(seed=1)[:2], synthetic_recordings()[:2])


@pytest.fixture(scope="module", params=audio.FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def source(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return audio.write_model(family, tmp_path_factory.mktemp("model") / family)


@pytest.fixture(scope="module")
def checkpoint(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    return audio.write_checkpoint(source, folder)


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "tiny"
    report = export(checkpoint, folder, plan(["onnx"], ["fp32"], "speech_llm"), speech())
    assert report.parity[0].variant == "onnxruntime/fp32"
    return folder


# 30 ms; part of a window; one window, one chunk; a last chunk too short to count, and one not.
@pytest.mark.parametrize("seconds", [0.03, 0.7, 2.0, 4.3, 4.9])
def test_the_bundle_and_the_reference_say_what_hugging_face_says(
    checkpoint: Path, bundle: Path, family: str, seconds: float
) -> None:
    x = sound(seconds)
    config = SpeechLLMConfig.load(checkpoint)
    theirs = audio.adapted(checkpoint, family)
    clips = [x[start : start + 32_000] for start in range(0, len(x), 32_000)]
    if seconds == 4.3:
        clips.pop()
    expected = [audio.label_shares(theirs, family, config.prompt, clip).numpy() for clip in clips]
    found = SpeechLLM.load(checkpoint).assess_samples(x)
    np.testing.assert_allclose(found.probabilities, expected, atol=2e-5)
    points = np.mean(expected, axis=0) @ np.array(config.prompt.label_scores)
    assert found.scores[0] == pytest.approx(points, abs=1e-4)
    opened = Bundle.open(bundle)
    files = {
        name: opened.file(name, "onnxruntime", "fp32")
        for name in ("encoder", "projector", "language_model", "head")
    }
    run = SpeechLLMRun(
        config,
        SpeechLLMStages.open(config, files, precision="fp32", threads=1),
        StageClock(),
    )
    run.push(x)
    grade = run.finish()
    assert grade is not None
    assert grade.scores["total"].value == pytest.approx(points, abs=FLOAT_TOLERANCE)


def test_answers_depend_on_what_is_heard(checkpoint: Path) -> None:
    """The parities above would hold of a grader that is deaf."""
    grader = SpeechLLM.load(checkpoint)
    time_s = np.arange(24_000) / 16_000
    tones = [np.sin(2 * np.pi * hertz * time_s).astype(np.float32) for hertz in (150, 700, 3000)]
    said = [float(grader.assess_samples(0.5 * tone).scores[0]) for tone in tones]
    assert np.ptp(said) > 0.05


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_the_engine_runs_the_bundle_streamed_and_whole(bundle: Path, backend: str) -> None:
    engine = asa.load(bundle, backend=backend, precision="fp32", threads=1)
    recording = synthetic_recordings(seed=5)[0].samples()
    offline = samples.streamed_as_whole(engine, recording, FLOAT_TOLERANCE)
    expected = SpeechLLM.load(bundle).assess_samples(recording).scores[0]
    assert offline.scores["total"].value == pytest.approx(float(expected), abs=FLOAT_TOLERANCE)


def test_several_windows_a_chunk_and_units(source: Path, tmp_path: Path) -> None:
    checkpoint = audio.write_checkpoint(source, tmp_path / "units", chunk_s=4.0, units=9)
    target = tmp_path / "bundle"
    export(checkpoint, target, plan(["onnx"], ["fp32"], "speech_llm"), speech())
    engine = asa.load(target, backend="onnxruntime", precision="fp32", threads=1)
    recording = synthetic_recordings(seed=3)[0].samples()
    expected = SpeechLLM.load(checkpoint).assess_samples(recording).scores[0]
    found = engine.assess((recording, 16_000)).scores["total"].value
    assert found == pytest.approx(float(expected), abs=FLOAT_TOLERANCE)


@pytest.mark.parametrize("samples_", [400, 799, 1760, 16_001, 32_000, 480_000])
@torch.inference_mode()
def test_encoders_as_graphs(source: Path, checkpoint: Path, tmp_path: Path, samples_: int) -> None:
    """Frames of clips of every kind of length, up to the longest there is."""
    config = replace(SpeechLLMConfig.load(checkpoint), window_s=30.0, chunk_s=30.0)
    encoder, _ = load_backbones(source, source)
    state = {name: value.clone() for name, value in encoder.tower.state_dict().items()}
    save_file(state, tmp_path / "encoder.safetensors")
    graph = audio_encoder_model(encoder, Weights(tmp_path / "encoder.safetensors"))
    (tmp_path / "encoder.onnx").write_bytes(graph.SerializeToString())
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx")
    cutter = cut(config)
    mels = cutter.push(sound(samples_ / 16_000))
    mel = mels[0] if mels else cutter.finish()
    assert mel is not None
    (found,) = session.run(["frames"], {"mel": mel})
    expected = encoder(torch.from_numpy(mel)[None])[0][0]
    # float32 through a few layers of width 16; sums run in another order.
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_language_models_are_rounded_like_others(
    checkpoint: Path, bundle: Path, tmp_path: Path, precision: str
) -> None:
    from asa_export.speech_llm import EXPORTER

    opened = Bundle.open(checkpoint)
    config = EXPORTER.validate(opened)
    stages = EXPORTER.build(Job(opened, config, tmp_path, [("onnxruntime", precision)], speech()))
    files = {
        name: tmp_path / stages[name]["onnxruntime"][precision]
        for name in ("encoder", "projector", "language_model", "head")
    }
    rounded = SpeechLLMStages.open(config, files, precision=precision, threads=1)
    made = Bundle.open(bundle)
    files = {name: made.file(name, "onnxruntime", "fp32") for name in files}
    exact = SpeechLLMStages.open(config, files, precision="fp32", threads=1)
    answers = []
    for kind in (exact, rounded):
        run = kind.start()
        for mel in cut(config).push(sound(2.0)):
            run.extend(kind.window(mel))
        answers.append(run.answer())
    share = np.linalg.norm(answers[1] - answers[0]) / np.linalg.norm(answers[0])
    # Random weights of width 32 have none of a trained model's room for rounding.
    assert 1e-6 < share < {"int8": 0.1, "int4": 0.6}[precision]


def test_a_whisper_hears_for_an_audio_language_model(source: Path, tmp_path: Path) -> None:
    """The parts are named one by one: another encoder, with a projector of our own."""
    whisper, _ = samples.write_backbones(tmp_path)
    encoder, language_model = load_backbones(whisper, source)
    config = audio.config(load_backbones(source, source)[0], language_model, source)
    changed = {**config.to_dict(), "stack": 10, "encoder": samples.config(
        samples.language_model()).to_dict()["encoder"]}  # fmt: skip
    changed["backbones"] = {"encoder": str(whisper), "language_model": str(source)}
    torch.manual_seed(3)
    grader = SpeechLLM(SpeechLLMConfig.from_dict(changed), encoder, language_model)
    grader.save(tmp_path / "mixed")
    found = SpeechLLM.load(tmp_path / "mixed").assess_samples(sound(3.0))
    assert np.isfinite(found.scores).all()
    assert any(name.startswith("projector.") for name in grader.tuned())
