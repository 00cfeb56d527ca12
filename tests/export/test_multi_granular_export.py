"""The multi-granular grader's bundle judges as its PyTorch reference, offline and streamed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import multi_granular_samples as samples
import numpy as np
import pytest
from audio_samples import sound
from numpy.typing import NDArray

import asa_engine as asa
from asa_engine.assessment import Grade
from asa_engine.bundle import Bundle
from asa_engine.errors import AudioError, BackendError, CheckpointError, UsageError
from asa_engine.graders import grader_entry
from asa_engine.profiling import StageClock
from asa_engine.request import Request
from asa_export.exporter import export, plan
from asa_export.parity import Scorer
from asa_export.speech import Recording, Speech, synthetic_recordings

# Points of a scale from 0 to 10: float32 sums in another order, through all stages.
FLOAT_TOLERANCE = 1e-3


def speech(count: int = 2) -> Speech:
    texts = {"text": samples.TEXT}
    first, second = (
        [
            Recording(r.id, r.source, r.scores, texts)
            for r in synthetic_recordings(seed=seed)[:count]
        ]
        for seed in (1, 2)
    )
    return Speech("short", first, second)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples.write_checkpoint(tmp_path_factory.mktemp("multi-granular"))


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "tiny"
    variants = plan(["onnx"], ["fp32"], "multi_granular")
    report = export(checkpoint, folder, variants, speech())
    assert report.parity[0].variant == "onnxruntime/fp32"
    return folder


def stages_of(folder: Path, backend: str) -> tuple[Any, Any]:
    opened, entry = Bundle.open(folder), grader_entry("multi_granular")
    return entry.config(opened.config), entry.open(opened, backend, "fp32", 1)


@pytest.fixture(scope="module")
def onnx(bundle: Path) -> tuple[Any, Any]:
    return stages_of(bundle, "onnxruntime")


def judge(
    opened: tuple[Any, Any], audio: NDArray[np.float32], chunk: int = 0, text: str = samples.TEXT
) -> Grade | None:
    config, stages = opened
    run: Any = grader_entry("multi_granular").run(config, stages, StageClock(), Request(text=text))
    for start in range(0, len(audio), chunk or len(audio)):
        run.push(audio[start : start + (chunk or len(audio))])
    found: Grade | None = run.finish()
    return found


def numbers(grade: Grade) -> NDArray[np.float64]:
    words = [word.scores["accuracy"].value for word in grade.words]
    phones = [p.score.value for word in grade.words for p in word.phones if p.score]
    return np.array([*(score.value for score in grade.scores.values()), *words, *phones])


def labels(grade: Grade) -> list[str | None]:
    return [x.label for word in grade.words for x in (word, *word.phones)]


@pytest.mark.parametrize("seconds", [0.7, 1.0, 2.3, 4.9])
def test_the_bundle_judges_as_the_reference(
    checkpoint: Path, onnx: tuple[Any, Any], seconds: float
) -> None:
    audio = sound(seconds)
    found, wanted = judge(onnx, audio), judge(stages_of(checkpoint, "torch"), audio)
    assert found is not None
    assert wanted is not None
    np.testing.assert_allclose(numbers(found), numbers(wanted), atol=FLOAT_TOLERANCE)
    assert labels(found) == labels(wanted)
    assert found.rationale == wanted.rationale
    assert [word.text for word in found.words] == ["we", "call", "it"]
    assert [[p.phone for p in word.phones] for word in found.words] == [
        ["W", "IY"],
        ["K", "AO", "L"],
        ["IH", "T"],
    ]


def test_what_is_written_is_what_is_likeliest(bundle: Path, onnx: tuple[Any, Any]) -> None:
    """The sentence's labels as written are the ones that the result calls likeliest."""
    config, stages = onnx
    asked: list[tuple[int, ...]] = []

    class Listening:
        def __getattr__(self, name: str) -> Any:
            return getattr(stages, name)

        def embed(self, ids: tuple[int, ...]) -> Any:
            asked.append(ids)
            return stages.embed(ids)

    grade = judge((config, Listening()), sound(2.3))
    assert grade is not None
    ids = [token for pass_ids in asked for token in pass_ids]
    likeliest = [
        max(score.probabilities, key=score.probabilities.__getitem__)
        for score in grade.scores.values()
        if score.probabilities is not None
    ]
    lines = zip(("Accuracy", "Fluency", "Prosody"), likeliest, strict=True)
    text = "\n".join(f"{name}: {label}" for name, label in lines)
    # Ways that were tried come first, what is written last.
    assert f"{text.removeprefix('Accuracy:')}\nWords: " in samples.tokens().decode(ids)


def test_at_fp32_the_encoder_is_a_graph_that_gives_the_reference_frames(
    checkpoint: Path, bundle: Path, onnx: tuple[Any, Any]
) -> None:
    assert Bundle.open(bundle).file("encoder", "onnxruntime", "fp32").name == "encoder.onnx"
    config, stages = onnx
    reference = stages_of(checkpoint, "torch")[1]
    rng = np.random.default_rng(3)
    for length in (100, 31, 20):
        mel = rng.normal(0, 0.5, (config.encoder.n_mels, length)).astype(np.float32)
        found, wanted = stages.frames(mel), reference.frames(mel)
        # float32 sums in another order, values around one.
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("chunk", [160, 4001, 16_000])
def test_a_stream_is_judged_as_the_file(onnx: tuple[Any, Any], chunk: int) -> None:
    audio = sound(3.2)
    whole, streamed = judge(onnx, audio), judge(onnx, audio, chunk)
    assert whole is not None
    assert whole == streamed


def test_exports_are_compared_by_the_same_scores(bundle: Path) -> None:
    audio, texts = sound(2.3), {"text": samples.TEXT}
    whole = judge(stages_of(bundle, "onnxruntime"), audio)
    found = Scorer(Bundle.open(bundle), "onnxruntime", "fp32").score(audio, texts)
    assert whole is not None
    assert found is not None
    assert found.tolist() == [score.value for score in whole.scores.values()]


def test_a_bundle_is_exported_again_as_it_was(bundle: Path, tmp_path: Path) -> None:
    variants = plan(["onnx"], ["fp32"], "multi_granular")
    export(bundle, tmp_path / "again", variants, speech(1))
    for name in ("lexicon.txt", "head.safetensors", "language_model/fp32.onnx"):
        assert (tmp_path / "again" / name).read_bytes() == (bundle / name).read_bytes()


def test_int8_is_calibrated_and_near(checkpoint: Path, tmp_path: Path) -> None:
    # A tiny random model says nothing of drift: what is tested is that all its stages run.
    spoken = speech(1)
    variants = plan(["onnx"], ["int8"], "multi_granular")
    try:
        export(checkpoint, tmp_path / "int8", variants, spoken)
    except asa.DriftError as error:
        pytest.skip(f"a random model is over the budget: {error}")
    found = judge(stages_of_int8(tmp_path / "int8"), sound(2.0))
    assert found is not None
    assert len(found.words) == 3
    assert not (tmp_path / "int8" / "language_model" / "merged.safetensors").exists()


def stages_of_int8(folder: Path) -> tuple[Any, Any]:
    opened, entry = Bundle.open(folder), grader_entry("multi_granular")
    return entry.config(opened.config), entry.open(opened, "onnxruntime", "int8", 1)


def test_the_rationale_is_handed_out_as_it_is_written(onnx: tuple[Any, Any]) -> None:
    config, stages = onnx
    request = Request(text=samples.TEXT)
    run: Any = grader_entry("multi_granular").run(config, stages, StageClock(), request)
    pieces: list[str] = []
    run.on_text = pieces.append
    run.push(sound(2.0))
    grade = run.finish()
    assert len(pieces) > 1
    assert "".join(pieces).strip() == (grade.rationale or "")


def test_a_stream_hands_the_rationale_out(bundle: Path) -> None:
    engine = asa.load(bundle, backend="onnxruntime", precision="fp32")
    pieces: list[str] = []
    with engine.stream(text=samples.TEXT) as stream:
        stream.feed(synthetic_recordings()[4].samples())
        stream.finish(on_text=pieces.append)
    assert "".join(pieces)


def test_audio_that_is_not_the_text_is_not_judged(checkpoint: Path, onnx: tuple[Any, Any]) -> None:
    config, stages = onnx
    strict = dataclasses.replace(config, least_fit=0.0)
    grade = judge((strict, stages), sound(2.0))
    assert grade is not None
    assert not grade.scorable
    assert grade.reasons == ("text_mismatch",)
    assert not grade.scores
    short = judge(onnx, sound(0.15), text="call call call call call call")
    assert short is not None
    assert short.reasons == ("text_mismatch",)


def test_nothing_heard_is_no_grade(onnx: tuple[Any, Any]) -> None:
    assert judge(onnx, np.zeros(100, np.float32)) is None


def test_silence_is_said_and_not_scored(bundle: Path) -> None:
    engine = asa.load(bundle, backend="onnxruntime", precision="fp32")
    result = engine.assess((np.zeros(48_000, np.float32), 16_000), text=samples.TEXT)
    assert not result.validity.scorable
    assert "silence" in result.validity.reasons
    assert not result.scores


def test_a_guessed_pronunciation_is_said(onnx: tuple[Any, Any]) -> None:
    grade = judge(onnx, sound(2.0), text="call Zorblax")
    assert grade is not None
    assert grade.reasons == ("guessed_pronunciation",)
    assert grade.scorable


def test_without_a_text_nothing_can_be_judged(bundle: Path) -> None:
    engine = asa.load(bundle, backend="onnxruntime", precision="fp32")
    with pytest.raises(UsageError, match="--text"):
        engine.assess((sound(2.0), 16_000))


def test_a_long_recording_is_refused(onnx: tuple[Any, Any]) -> None:
    with pytest.raises(AudioError, match="sentence by sentence"):
        judge(onnx, sound(5.2))


@pytest.mark.parametrize("text", ["a\\b", "!!", "we " * 20, "we \N{SNOWMAN} it", "a" * 10_000])
def test_a_text_that_cannot_be_judged_is_refused(onnx: tuple[Any, Any], text: str) -> None:
    with pytest.raises(UsageError):
        judge(onnx, sound(1.0), text=text)


def test_a_damaged_checkpoint_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("config.json", "weights.safetensors", "lexicon.txt"):
        (tmp_path / name).write_bytes((checkpoint / name).read_bytes())
    weights = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError):
        stages_of(tmp_path, "torch")
    (tmp_path / "weights.safetensors").write_bytes(weights)
    config = json.loads((tmp_path / "config.json").read_text())
    config["suffix_ids"] = config["suffix_ids"][:-1]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="suffix"):
        stages_of(tmp_path, "torch")


def test_other_backends_say_that_they_cannot(bundle: Path) -> None:
    opened, entry = Bundle.open(bundle), grader_entry("multi_granular")
    with pytest.raises(BackendError):
        entry.open(opened, "native", "fp32", 1)
    with pytest.raises(BackendError, match="fp32"):
        entry.open(opened, "torch", "int8", 1)


def test_the_result_holds_words_phones_and_rationale(bundle: Path) -> None:
    engine = asa.load(bundle, backend="onnxruntime", precision="fp32")
    recording = synthetic_recordings()[4]
    result = engine.assess((recording.samples(), 16_000), text=samples.TEXT)
    assert [word.text for word in result.words] == ["we", "call", "it"]
    found = result.to_dict()
    assert found["words"][0]["phones"][0]["phone"] == "W"
    assert found["words"][0]["label"] in {"Worst", "Bad", "Average", "Good", "Excellent"}
