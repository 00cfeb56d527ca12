"""One truth: libasa and the native backend, on the same audio, cut in any way.

From the log-mel on both run the same C++, so their scores are the same bits. Before it, high-pass,
gate and validity are NumPy here and C++ there, in float64: scores may differ by rounding, and are
held to 1e-4 points.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import audio_samples
import jsonschema
import numpy as np
import pytest
from libasa import ROOT, Grader, LibasaError

import asa_engine
from asa_engine.assessment import schema
from asa_engine.audio import read_blocks
from asa_engine.bundle import Bundle
from asa_engine.engine import Engine
from asa_export.device import acoustic_file

DEMO = ROOT / "examples" / "audio" / "demo.flac"
MOST_POINTS = 1e-4
MOST_DB = 1e-5
RECORDINGS = 8

pytestmark = pytest.mark.usefixtures("library")


@pytest.fixture(scope="module")
def engine() -> Engine:
    return asa_engine.load("acoustic", backend="native", precision="int8", threads=1)


@pytest.fixture(scope="module")
def exact() -> Engine:
    return asa_engine.load("acoustic", backend="native", precision="fp32", threads=1)


@pytest.fixture(scope="module")
def exact_grader(grader_file: Path) -> Iterator[Grader]:
    opened = Grader(grader_file, precision="fp32")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def grader(grader_file: Path) -> Iterator[Grader]:
    opened = Grader(grader_file)
    yield opened
    opened.close()


def samples_of(path: Path) -> np.ndarray:
    return np.concatenate([block.ravel() for block in read_blocks(path)])


def compare(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare what must agree; times and who made it differ."""
    assert found["scores"].keys() == expected["scores"].keys()
    for name, score in expected["scores"].items():
        assert found["scores"][name]["value"] == pytest.approx(score["value"], abs=MOST_POINTS)
        rest = {key: value for key, value in score.items() if key != "value"}
        assert {key: found["scores"][name][key] for key in rest} == pytest.approx(rest), name
    assert ("prior" in found) == ("prior" in expected)
    if "prior" in expected:
        assert found["prior"]["levels"] == expected["prior"]["levels"]
        shares = expected["prior"]["probabilities"]
        assert found["prior"]["probabilities"] == pytest.approx(shares, abs=1e-6)
    judged, known = found["validity"], expected["validity"]
    assert judged.keys() == known.keys()
    assert (judged["scorable"], judged["reasons"]) == (known["scorable"], known["reasons"])
    for name in known.keys() - {"scorable", "reasons"}:
        assert judged[name] == pytest.approx(known[name], abs=MOST_DB), name
    assert found["channels"] == expected["channels"]
    for name in ("audio_sha256", "precision", "kernel_isa", "bundle", "engine_version"):
        assert found["receipt"][name] == expected["receipt"][name]


def test_the_demo_scores_as_on_the_command_line(engine: Engine, grader: Grader) -> None:
    samples = samples_of(DEMO)
    found, provisional = grader.assess(samples, [1600])
    compare(found, engine.assess(DEMO).to_dict())
    jsonschema.validate(found, schema())
    with engine.stream() as stream:
        for at, said in zip(range(0, len(samples), 1600), provisional, strict=True):
            stream.feed(samples[at : at + 1600])
            scores = stream.provisional or {}
            assert said["scores"].keys() == scores.keys()
            for name, score in scores.items():
                value = pytest.approx(score.value, abs=MOST_POINTS)
                assert said["scores"][name]["value"] == value
                assert said["scores"][name]["sd"] == pytest.approx(score.sd)


def test_learners_score_as_in_python(engine: Engine, grader: Grader, corpus: Path) -> None:
    lines = (corpus / "train.jsonl").read_text().splitlines()
    random = np.random.default_rng(17)
    for line in lines[:: len(lines) // RECORDINGS][:RECORDINGS]:
        path = corpus / json.loads(line)["audio"]
        samples = samples_of(path)
        expected = engine.assess(path).to_dict()
        whole, _ = grader.assess(samples, [len(samples)])
        compare(whole, expected)
        # However it is cut, no bit changes.
        sizes = random.integers(1, 20_000, 7).tolist()
        cut, _ = grader.assess(samples, sizes)
        for part in ("scores", "prior", "validity"):
            assert cut.get(part) == whole.get(part), sizes


@pytest.mark.parametrize(
    "samples",
    [
        audio_samples.silence(2.0),
        audio_samples.noise(3.0, -30.0),
        audio_samples.noise(3.0, -70.0, "pink"),
        audio_samples.tone(2.0),
        audio_samples.hum(2.5),
        audio_samples.chirp(2.0),
        audio_samples.clicks(2.0),
        audio_samples.speech(5.0, seed=3),
        audio_samples.speech(1.0, seed=4) + np.float32(0.2),
        audio_samples.speech(6.0, seed=5) + audio_samples.noise(6.0, -32.0),
        np.clip(20 * audio_samples.speech(3.0, seed=6), -1, 1),
        0.5 * np.clip(10 * audio_samples.speech(3.0, seed=7), -1, 1),
        audio_samples.speech(0.25, seed=8),
        np.full(1, 0.1, np.float32),
    ],
    ids=lambda samples: f"{len(samples)} samples",
)
def test_sounds_are_judged_as_in_python(
    exact: Engine, exact_grader: Grader, samples: np.ndarray
) -> None:
    """At fp32: where a large offset makes a sample's last bit differ, int8 may round otherwise."""
    samples = samples.astype(np.float32)
    found, _ = exact_grader.assess(samples, [999, 1, 5000])
    compare(found, exact.assess((samples, 16_000)).to_dict())


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("padding", ["valid", "full"])
def test_the_same_kernels_give_the_same_bits(tmp_path: Path, precision: str, padding: str) -> None:
    """Without a front everything but sums of float64 is the same code."""
    bundle = Bundle.open("acoustic")
    config = {**bundle.config, "front": 0, "window_padding": padding}
    whole = dataclasses.replace(bundle, config=config)
    (tmp_path / "whole.asa").write_bytes(acoustic_file(whole, precision, whole.name))
    grader = Grader(tmp_path / "whole.asa", threads=2)
    engine = Engine(whole, backend="native", precision=precision, threads=1)
    samples = (32767 * samples_of(DEMO)[:100_000]).astype(np.int16)
    found, provisional = grader.assess(samples, [3000])
    grader.close()
    expected = engine.assess((samples, 16_000)).to_dict()
    assert found["scores"] == expected["scores"]
    assert found["prior"]["probabilities"] == expected["prior"]["probabilities"]
    compare(found, expected)
    assert provisional[-1]["scores"]


def test_a_level_by_level_front_hears_the_same(tmp_path: Path) -> None:
    bundle = Bundle.open("acoustic")
    levelled = dataclasses.replace(bundle, config={**bundle.config, "front": 1})
    (tmp_path / "levelled.asa").write_bytes(acoustic_file(levelled, "fp32", bundle.name))
    grader = Grader(tmp_path / "levelled.asa")
    engine = Engine(levelled, backend="native", precision="fp32", threads=1)
    samples = samples_of(DEMO)
    found, _ = grader.assess(samples, [1234])
    grader.close()
    compare(found, engine.assess((samples, 16_000)).to_dict())


def test_it_says_what_it_is(grader: Grader) -> None:
    about = grader.describe()
    bundle = Bundle.open("acoustic")
    assert about["bundle"]["sha256"] == bundle.sha256
    assert about["precision"] == "int8"
    assert [aspect["name"] for aspect in about["aspects"]] == [
        aspect["name"] for aspect in bundle.config["aspects"]
    ]


def test_a_damaged_file_is_refused(grader_file: Path, tmp_path: Path) -> None:
    data = bytearray(grader_file.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "bad.asa").write_bytes(data)
    with pytest.raises(LibasaError, match="is damaged: its bytes have not the hash"):
        Grader(tmp_path / "bad.asa")
    (tmp_path / "cut.asa").write_bytes(data[:-1000])
    with pytest.raises(LibasaError, match="is damaged: it has lost its end"):
        Grader(tmp_path / "cut.asa")
    with pytest.raises(LibasaError, match="no grader file"):
        Grader(Path(asa_engine.__file__))
    with pytest.raises(LibasaError, match="No such file"):
        Grader(tmp_path / "missing.asa")
