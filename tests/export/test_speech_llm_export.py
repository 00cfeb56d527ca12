"""The speech LLM's bundle answers as its PyTorch reference does, offline and streamed."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import speech_llm_samples as samples
import torch
from audio_samples import sound

import asa_engine as asa
from asa_engine.artifacts.safetensors import Tensors
from asa_engine.bundle import Bundle
from asa_engine.errors import BundleError, CheckpointError, UsageError
from asa_engine.features.log_mel import WindowedLogMel
from asa_engine.graders.speech_llm.config import SpeechLLMConfig
from asa_engine.graders.speech_llm.model import SpeechLLM
from asa_engine.graders.speech_llm.runtime import STAGE_NAMES, SpeechLLMRun, judge
from asa_engine.graders.speech_llm.stages import SpeechLLMStages, open_audio_stage
from asa_engine.graders.speech_llm.unit_stages import UnitStages
from asa_engine.language_model.decoder import Decoder
from asa_engine.nn.lora import merge_lora
from asa_engine.profiling import StageClock
from asa_export.bundles import jobs
from asa_export.exporter import Job, export, plan
from asa_export.speech import Speech, synthetic_recordings
from asa_export.speech_llm import EXPORTER
from asa_export.speech_units import write_units

# Points of a scale from 0 to 10: float32 sums in another order, through all stages.
FLOAT_TOLERANCE = 1e-3


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "prior"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = {"prior": samples.PRIOR} if request.param else {}
    return samples.make_checkpoint(tmp_path_factory.mktemp("speech-llm"), **options)


def speech() -> Speech:
    return Speech("short", synthetic_recordings(seed=1)[:2], synthetic_recordings()[:2])


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "tiny"
    variants = plan(["onnx", "native"], ["fp32"], "speech_llm")
    report = export(checkpoint, folder, variants, speech())
    assert [parity.variant for parity in report.parity] == ["onnxruntime/fp32", "native/fp32"]
    return folder


def open_stages(
    bundle: Path, precision: str = "fp32", backend: str = "onnxruntime"
) -> tuple[SpeechLLMConfig, Any]:
    opened = Bundle.open(bundle)
    config = SpeechLLMConfig.from_dict(opened.config)
    files = {
        name: opened.file(name, backend, precision)
        for name in ("encoder", "projector", "language_model", "head")
    }
    kind = UnitStages if backend == "ctranslate2" else SpeechLLMStages
    return config, kind.open(config, files, precision=precision, threads=1)


# One window of 1 s; a last window too short to count; a chunk of 3 s exactly; one more window; a
# last chunk too short to count (0.5 s); four chunks.
@pytest.mark.parametrize("backend", ["onnxruntime", "native"])
@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.05, 3.0, 3.7, 6.4, 10.2])
def test_scores_are_the_references(
    checkpoint: Path, bundle: Path, backend: str, seconds: float
) -> None:
    config, stages = open_stages(bundle, backend=backend)
    x = sound(seconds)
    run = SpeechLLMRun(config, stages, StageClock())
    run.push(x)
    grade = run.finish()
    assert grade is not None
    expected = SpeechLLM.load(checkpoint).assess_samples(x)
    score = grade.scores["total"]
    assert score.value == pytest.approx(float(expected.scores[0]), abs=FLOAT_TOLERANCE)
    assert score.probabilities is not None
    np.testing.assert_allclose(
        list(score.probabilities.values()), expected.probabilities.mean(0), atol=1e-3
    )


def test_ten_minutes_are_many_chunks(checkpoint: Path, bundle: Path) -> None:
    config, stages = open_stages(bundle)
    x = np.tile(sound(60.0), 10)
    run = SpeechLLMRun(config, stages, StageClock())
    for part in np.array_split(x, 20):
        run.push(part)
    grade = run.finish()
    assert grade is not None
    expected = SpeechLLM.load(checkpoint).assess_samples(x)
    assert len(expected.chunks) == 200
    assert grade.scores["total"].value == pytest.approx(
        float(expected.scores[0]), abs=FLOAT_TOLERANCE
    )


@pytest.mark.parametrize("backend", ["onnxruntime", "native"])
@pytest.mark.parametrize("pieces", [1, 3, 40])
def test_streamed_is_offline(bundle: Path, backend: str, pieces: int) -> None:
    config, stages = open_stages(bundle, backend=backend)
    # On the kernels not a bit depends on how a sequence is cut.
    tolerance = 0.0 if backend == "native" else FLOAT_TOLERANCE
    x = sound(7.6)
    run = SpeechLLMRun(config, stages, StageClock())
    seen = []
    for part in np.array_split(x, pieces):
        run.push(part)
        if (grade := run.provisional()) is not None:
            seen.append(grade.scores["total"].value)
    final = run.finish()
    whole = SpeechLLMRun(config, stages, StageClock())
    whole.push(x)
    expected = whole.finish()
    assert final is not None
    assert expected is not None
    assert final.scores["total"].value == pytest.approx(
        expected.scores["total"].value, rel=0, abs=tolerance
    )
    # A provisional score is that of the closed windows.
    seven = SpeechLLMRun(config, stages, StageClock())
    seven.push(x[: 7 * 16_000])
    closed = seven.finish()
    assert closed is not None
    assert seen[-1] == pytest.approx(closed.scores["total"].value, rel=0, abs=tolerance)


def test_nothing_to_frame_is_no_grade(bundle: Path) -> None:
    config, stages = open_stages(bundle)
    run = SpeechLLMRun(config, stages, StageClock())
    assert run.provisional() is None
    run.push(sound(0.0))
    assert run.finish() is None


def test_threads_do_not_mix_recordings(bundle: Path) -> None:
    config, stages = open_stages(bundle)

    def score(seed: int) -> float:
        run = SpeechLLMRun(config, stages, StageClock())
        for part in np.array_split(sound(4.5, seed), 9):
            run.push(part)
        grade = run.finish()
        assert grade is not None
        return grade.scores["total"].value

    expected = [score(seed) for seed in range(4)]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(score, range(4))) == pytest.approx(expected, abs=1e-6)


def test_the_engine_runs_the_bundle(bundle: Path) -> None:
    engine = asa.load(bundle, backend="onnxruntime", precision="fp32", threads=1)
    recording = synthetic_recordings(seed=5)[0].samples()
    samples.streamed_as_whole(engine, recording, FLOAT_TOLERANCE)


@pytest.mark.parametrize("variant", ["onnxruntime/int8", "onnxruntime/int4", "native/int8"])
def test_rounded_bundles_stand_alone(
    checkpoint: Path, bundle: Path, tmp_path: Path, variant: str
) -> None:
    # Random weights of width 32 have none of a trained model's room for rounding: the export's own
    # gate is for trained graders, here the variant is added to a loose comparison of answers.
    backend, precision = variant.split("/")
    opened = Bundle.open(checkpoint)
    config = EXPORTER.validate(opened)
    stages = EXPORTER.build(Job(opened, config, tmp_path, [(backend, precision)], speech()))
    assert not (tmp_path / "language_model" / "merged.safetensors").exists()
    files = {
        name: tmp_path / str(stages[name][backend][precision])
        for name in ("encoder", "projector", "language_model", "head")
    }
    rounded = SpeechLLMStages.open(config, files, precision=precision, threads=1)
    exact = open_stages(bundle)[1]
    chunks = [stages.start() for stages in (exact, rounded)]
    windows = WindowedLogMel(
        80, config.window_samples, pad_to_window=False, min_samples=config.min_window_samples
    )
    for mel in windows.push(synthetic_recordings()[1].samples())[:3]:
        for chunk in chunks:
            chunk.extend(exact.window(mel))
    expected, found = (chunk.answer() for chunk in chunks)
    assert _mean_shift(config, exact, rounded) < 1e-3
    share = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert 1e-6 < share < {"int8": 0.05, "int4": 0.5}[precision]


def _mean_shift(config: SpeechLLMConfig, exact: SpeechLLMStages, rounded: SpeechLLMStages) -> float:
    """Largest change of an answer's mean over the chunks that the export was calibrated on."""
    changes = []
    for recording in speech().calibration:
        windows = WindowedLogMel(
            80, config.window_samples, pad_to_window=False, min_samples=config.min_window_samples
        )
        mels = windows.push(recording.samples())
        if (rest := windows.finish()) is not None:
            mels.append(rest)
        for start in range(0, len(mels), config.chunk_windows):
            windows_ = [exact.window(mel) for mel in mels[start : start + config.chunk_windows]]
            if start and sum(len(w.tokens) for w in windows_) < config.min_chunk_tokens:
                continue
            chunks = [stages.start() for stages in (exact, rounded)]
            for chunk in chunks:
                for window in windows_:
                    chunk.extend(window)
            changes.append(chunks[1].answer() - chunks[0].answer())
    return float(np.abs(np.mean(changes, axis=0)).max())


@pytest.fixture(scope="module")
def unit_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples.make_checkpoint(tmp_path_factory.mktemp("units"), units=12, prior=samples.PRIOR)


@pytest.fixture(scope="module")
def unit_bundle(unit_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("ctranslate2", reason="CTranslate2 is not installed")
    folder = tmp_path_factory.mktemp("made-units") / "tiny"
    variants = plan(["onnx", "ctranslate2"], ["fp32"], "speech_llm")
    export(unit_checkpoint, folder, variants, speech())
    return folder


@pytest.mark.parametrize("backend", ["onnxruntime", "ctranslate2"])
@pytest.mark.parametrize("seconds", [0.3, 2.05, 3.7, 10.2])
def test_units_are_the_references(
    unit_checkpoint: Path, unit_bundle: Path, backend: str, seconds: float
) -> None:
    x = sound(seconds)
    expected = SpeechLLM.load(unit_checkpoint).assess_samples(x)
    config = SpeechLLMConfig.from_dict(Bundle.open(unit_bundle).config)
    stages = open_stages(unit_bundle, backend=backend)[1]
    for pieces in (1, 7):
        run = SpeechLLMRun(config, stages, StageClock())
        for part in np.array_split(x, pieces):
            run.push(part)
        grade = run.finish()
        assert grade is not None
        assert grade.scores["total"].value == pytest.approx(
            float(expected.scores[0]), abs=FLOAT_TOLERANCE
        )


def test_rounding_makes_no_other_units(unit_checkpoint: Path, tmp_path: Path) -> None:
    variants = plan(["onnx"], ["fp32", "int8"], "speech_llm")
    work = tmp_path / "made"
    work.mkdir()
    opened = Bundle.open(unit_checkpoint)
    config = SpeechLLMConfig.from_dict(opened.config)
    made = EXPORTER.build(Job(opened, config, work, variants, speech()))
    mel = np.random.default_rng(3).normal(0, 1, (80, 400)).astype(np.float32)
    heard = []
    for precision in ("fp32", "int8"):
        files = {name: work / str(made[name]["onnxruntime"][precision]) for name in STAGE_NAMES}
        head = Tensors(files["head"])
        audio_stage = open_audio_stage(config, files, head, precision=precision, threads=1)
        heard.append(audio_stage.window(mel))
    assert heard[0].units is not None
    assert np.array_equal(heard[0].units, heard[1].units)
    assert heard[0].sums is not None  # of the frames themselves: any rounding shows
    assert np.array_equal(heard[0].sums, heard[1].sums)


def test_quantising_for_ctranslate2_leaves_the_answers_rows(
    unit_checkpoint: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ctranslate2", reason="CTranslate2 is not installed")
    grader = SpeechLLM.load(unit_checkpoint)
    merge_lora(grader.language_model)
    rows = grader.language_model.output.weight[list(grader.config.prompt.label_ids)].detach()
    before = rows.clone()
    write_units(grader, rows, tmp_path, "int8", None)
    assert torch.equal(rows, before)


def test_only_units_go_to_ctranslate2(checkpoint: Path, tmp_path: Path) -> None:
    variants = plan(["ctranslate2"], ["fp32"], "speech_llm")
    with pytest.raises(BundleError, match="takes tokens"):
        export(checkpoint, tmp_path / "bundle", variants, speech())
    assert not (tmp_path / "bundle").exists()


def test_bundles_have_ctranslate2_where_there_are_units(
    checkpoint: Path, unit_checkpoint: Path, tmp_path: Path
) -> None:
    for source, expected in ((checkpoint, False), (unit_checkpoint, True)):
        (job,) = jobs(source.parent, tmp_path, None, only=[source.name], precisions=["all"])
        backends = {backend for backend, _ in job.variants}
        assert ("ctranslate2" in backends) is expected
        assert "onnxruntime" in backends


def test_an_answer_leaves_the_chunk_as_it_was(bundle: Path) -> None:
    config, stages = open_stages(bundle)
    windows = WindowedLogMel(80, config.window_samples, pad_to_window=False, min_samples=1)
    asked, silent = stages.start(), stages.start()
    for mel in windows.push(sound(2.0)):
        window = stages.window(mel)
        asked.extend(window)
        first = asked.answer()
        np.testing.assert_array_equal(asked.answer(), first)
        silent.extend(window)
    np.testing.assert_allclose(asked.answer(), silent.answer(), rtol=1e-4, atol=1e-4)


def test_regression_of_several_aspects(tmp_path: Path) -> None:
    folder = samples.make_checkpoint(tmp_path, answer="regression", aspects=("fluency", "total"))
    target = tmp_path / "bundle"
    export(folder, target, plan(["onnx"], ["fp32"], "speech_llm"), speech())
    config, stages = open_stages(target)
    run = SpeechLLMRun(config, stages, StageClock())
    run.push(sound(5.0))
    grade = run.finish()
    assert grade is not None
    expected = SpeechLLM.load(folder).assess_samples(sound(5.0)).scores
    found = [grade.scores[name].value for name in ("fluency", "total")]
    np.testing.assert_allclose(found, expected, atol=FLOAT_TOLERANCE)
    assert grade.scores["total"].probabilities is None


@pytest.mark.parametrize("answer", ["soft", "hard"])
def test_answers_are_averaged_over_chunks(answer: str) -> None:
    config = samples.config(samples.language_model(), answer=answer)
    logits = [np.log([0.1, 0.2, 0.3, 0.4]), np.log([0.7, 0.1, 0.1, 0.1])]
    grade = judge(config, logits, 2.0)
    by_hand = {
        "soft": (0.2 + 0.8 + 2.1 + 3.6 + 1.4 + 0.4 + 0.7 + 0.9) / 2,
        "hard": (9.0 + 2.0) / 2,
    }
    assert grade.scores["total"].value == pytest.approx(by_hand[answer])
    assert grade.scores["total"].probabilities == pytest.approx(
        {"A": 0.4, "B": 0.15, "C": 0.2, "D": 0.25}
    )


def test_what_does_not_fit_is_refused_at_once(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    config, _ = open_stages(bundle)
    files = {
        name: opened.file(name, "onnxruntime", "fp32")
        for name in ("encoder", "projector", "language_model", "head")
    }

    head = Tensors(files["head"])
    audio_stage = open_audio_stage(config, files, head, precision="fp32", threads=1)

    def build(config: SpeechLLMConfig, decoder: Decoder) -> SpeechLLMStages:
        return SpeechLLMStages(config, audio_stage, decoder, head)

    decoder = Decoder.open(files["language_model"], threads=1)
    small = Decoder(decoder.graph, memory_limit_bytes=10 * decoder.bytes_per_position)
    with pytest.raises(UsageError, match="keys and values"):
        build(config, small)
    with pytest.raises(UsageError, match="positions"):
        build(dataclasses.replace(config, chunk_s=30.0), decoder)
    prompt = dataclasses.replace(config.prompt, prefix_ids=config.prompt.prefix_ids[1:])
    with pytest.raises(CheckpointError, match="prefix"):
        build(dataclasses.replace(config, prompt=prompt), decoder)
