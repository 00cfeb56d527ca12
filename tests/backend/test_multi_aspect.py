"""The multi-aspect grader that ships, as a bundle, on real recordings: streamed, hostile, whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

import asa_engine as asa
from asa_engine.backbones import backbone_folder
from asa_engine.bundle import Bundle, write_manifest
from asa_engine.errors import BundleError, CheckpointError
from asa_engine.evaluation.drift import BUDGETS
from asa_engine.evaluation.manifest import read_manifest
from asa_engine.features import linguistic
from asa_export.exporter import Job
from asa_export.multi_aspect import EXPORTER
from asa_export.parity import Scorer
from asa_export.speech import Speech

for package in ("ctranslate2", "transformers", linguistic.SPACY_MODEL):
    pytest.importorskip(package, reason=f"needs {package}: `make test` installs it")

CHECKPOINT = Path(__file__).parents[2] / "models" / "s2-multi-aspect"
RATE = 16_000
VARIANTS = (("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("native", "int8"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        for name in ("whisper-tiny.en", "minilm-l6"):
            backbone_folder(name)
    except CheckpointError as missing:
        pytest.skip(str(missing))
    folder = tmp_path_factory.mktemp("bundle")
    source = Bundle.open(CHECKPOINT)
    config = EXPORTER.validate(source)
    stages = EXPORTER.build(Job(source, config, folder, VARIANTS, Speech("none", (), ())))
    write_manifest(
        folder,
        name="s2",
        version="1",
        grader="multi_aspect",
        stages=stages,
        auto=tuple(reversed(VARIANTS)),
        parity={},
    )
    return folder


@pytest.fixture(scope="module")
def engine(bundle: Path) -> asa.Engine:
    return asa.load(bundle, threads=1)


@pytest.fixture(scope="module")
def spoken(corpus: Path) -> tuple[NDArray[np.float32], str]:
    utterance = read_manifest(corpus / "train.jsonl")[77]
    samples: NDArray[np.float32] = soundfile.read(utterance.audio, dtype="float32")[0]
    return samples, utterance.text


def test_streamed_equals_offline_with_words_and_features(
    engine: asa.Engine, spoken: tuple[NDArray[np.float32], str]
) -> None:
    samples, text = spoken
    offline = engine.assess((samples, RATE), text=text)
    assert offline.validity.scorable
    assert set(offline.scores) == {"accuracy", "fluency", "prosodic", "total"}
    assert offline.words
    assert offline.features["words"] == len(offline.words)
    for chunk in (1600, 12_345):
        with engine.stream(RATE, text=text) as stream:
            for start in range(0, samples.size, chunk):
                stream.feed(samples[start : start + chunk])
                assert stream.provisional is None
            result = stream.finish()
        assert result.scores == offline.scores
        assert result.words == offline.words
        assert result.features == offline.features


def test_every_variant_agrees_with_pytorch_in_score_points(
    bundle: Path, spoken: tuple[NDArray[np.float32], str]
) -> None:
    samples, text = spoken
    texts = {"text": text}
    reference = Scorer(Bundle.open(CHECKPOINT), "torch", "fp32").score(samples, texts)
    assert reference is not None
    for backend, precision in VARIANTS:
        found = Scorer(Bundle.open(bundle), backend, precision).score(samples, texts)
        assert found is not None
        # The largest change that an export may make, on a scale of 10 instead of 6.
        most = BUDGETS[precision].max * 10 / 6
        assert np.abs(found - reference).max() <= most, (backend, precision)


def test_silence_and_noise_are_not_scored(engine: asa.Engine) -> None:
    noise = np.random.default_rng(3).normal(0, 0.1, 4 * RATE).astype(np.float32)
    for samples in (np.zeros(3 * RATE, np.float32), noise):
        result = engine.assess((samples, RATE), prompt="Describe your school.")
        assert not result.validity.scorable
        assert not result.scores
        assert result.validity.reasons


def test_a_prompt_of_ten_thousand_characters_is_cut_and_said(
    engine: asa.Engine, spoken: tuple[NDArray[np.float32], str]
) -> None:
    result = engine.assess((spoken[0], RATE), prompt="why not " * 1250)
    assert result.validity.scorable
    assert "prompt_cut" in result.validity.reasons


def test_no_prompt_is_said(engine: asa.Engine, spoken: tuple[NDArray[np.float32], str]) -> None:
    assert "no_prompt" in engine.assess((spoken[0], RATE)).validity.reasons


def test_a_changed_recogniser_is_refused(bundle: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(bundle), str(copied)], check=True)
    with (copied / "recogniser" / "model.bin").open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"\xff" * 8)
    with pytest.raises(BundleError, match="hash"):
        asa.load(copied)


def test_a_bundle_runs_without_torch(
    bundle: Path, tmp_path: Path, spoken: tuple[NDArray[np.float32], str]
) -> None:
    path = tmp_path / "said.wav"
    soundfile.write(path, spoken[0], RATE)
    program = (
        "import sys, asa_engine as asa\n"
        f"result = asa.load({str(bundle)!r}, threads=1).assess({str(path)!r}, text='hello')\n"
        "assert result.scores, result\n"
        "heavy = {'torch', 'transformers', 'onnx', 'safetensors'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, env=environment)
