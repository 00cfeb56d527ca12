"""One truth for readings of a text: libasa and the native backend, word by word, sound by sound.

Encoder, decoder, packed products and alignment are the same C++; measures, judges and feedback are
NumPy here and C++ there, and sum in other orders: scores are held to 1e-4 points.
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
from asa_engine.assessment import Word, schema
from asa_engine.audio import read_blocks
from asa_engine.bundle import Bundle
from asa_engine.engine import Engine
from asa_export.device_reading import pronunciation_file

DEMO = ROOT / "examples" / "audio" / "demo.flac"
DEMO_TEXT = (
    "Last summer I went to the mountains with my family. We walked for three hours, and then we "
    "found a small lake. The water was cold."
)
OTHER_TEXT = "The committee has rejected nearly every budget proposal from regional offices."
MOST_POINTS = 1e-4
RECORDINGS = 6

pytestmark = pytest.mark.usefixtures("library")


@pytest.fixture(scope="module")
def engine() -> Engine:
    return asa_engine.load("pronunciation", backend="native", precision="int8", threads=1)


@pytest.fixture(scope="module")
def grader(reading_file: Path) -> Iterator[Grader]:
    opened = Grader(reading_file)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def demo() -> np.ndarray:
    return np.concatenate([block.ravel() for block in read_blocks(DEMO)])


def alike(found: Any, expected: Any, where: str) -> None:
    """Compare numbers to `MOST_POINTS`, everything else exactly."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for name in expected:
            alike(found[name], expected[name], f"{where}.{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for index, pair in enumerate(zip(found, expected, strict=True)):
            alike(*pair, f"{where}[{index}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=MOST_POINTS), where
    else:
        assert found == expected, where


def compare(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare all but times and who made it."""
    assert found.keys() == expected.keys()
    for name in found.keys() - {"timing", "receipt"}:
        alike(found[name], expected[name], name)
    for name in ("audio_sha256", "precision", "kernel_isa", "bundle"):
        assert found["receipt"][name] == expected["receipt"][name]


def test_the_demo_is_judged_as_on_the_command_line(
    engine: Engine, grader: Grader, demo: np.ndarray
) -> None:
    whole, _ = grader.assess(demo, [len(demo)], DEMO_TEXT)
    compare(whole, engine.assess(DEMO, text=DEMO_TEXT).to_dict())
    jsonschema.validate(whole, schema())
    assert len(whole["words"]) >= len(DEMO_TEXT.split())
    cut, _ = grader.assess(demo, [50_000, 1, 999], DEMO_TEXT)
    for part in ("scores", "words", "features", "validity"):
        assert cut[part] == whole[part]


def test_words_so_far_are_those_of_python(engine: Engine, grader: Grader, demo: np.ndarray) -> None:
    _, provisional = grader.assess(demo, [40_000], DEMO_TEXT)
    assert provisional[0]["scores"] == {}
    with engine.stream(text=DEMO_TEXT) as stream:
        for at, said in zip(range(0, len(demo), 40_000), provisional, strict=True):
            stream.feed(demo[at : at + 40_000])
            scores = {name: score.to_dict() for name, score in (stream.provisional or {}).items()}
            alike(said["scores"], scores, "scores")
            words = [spans_left_out(word) for word in stream.provisional_words]
            alike([spans_left_out(word) for word in said.get("words", [])], words, "words")
    assert 0 < len(provisional[2]["words"]) < len(DEMO_TEXT.split())


def spans_left_out(word: dict[str, Any] | Word) -> dict[str, Any]:
    return word.to_dict() if isinstance(word, Word) else word


def test_learners_are_judged_as_in_python(engine: Engine, grader: Grader, corpus: Path) -> None:
    lines = (corpus / "train.jsonl").read_text().splitlines()
    errors = set()
    for line in lines[3 :: len(lines) // RECORDINGS][:RECORDINGS]:
        entry = json.loads(line)
        path = corpus / entry["audio"]
        samples = np.concatenate([block.ravel() for block in read_blocks(path)])
        # The text as it is, with a word that nobody says, and with a word less.
        said = entry["text"].capitalize()
        for text in (said, f"{said} Yesterday afternoon.", said.partition(" ")[2] or said):
            found, _ = grader.assess(samples, [8000], text)
            compare(found, engine.assess(path, text=text).to_dict())
            errors |= {word["error"] for word in found.get("words", [])}
    assert {"none", "mispronunciation", "omission", "insertion"} <= errors


@pytest.mark.parametrize(
    "samples",
    [
        audio_samples.silence(2.0),
        audio_samples.noise(3.0, -30.0),
        audio_samples.speech(0.25, seed=8),
        audio_samples.speech(0.6, seed=9),
    ],
    ids=["silence", "noise", "too short", "short"],
)
def test_what_holds_no_reading_is_refused_as_in_python(
    engine: Engine, grader: Grader, samples: np.ndarray
) -> None:
    samples = samples.astype(np.float32)
    found, _ = grader.assess(samples, [1000], DEMO_TEXT)
    expected = engine.assess((samples, 16_000), text=DEMO_TEXT).to_dict()
    assert (found["scores"], expected["scores"]) == ({}, {})
    alike(found["validity"], expected["validity"], "validity")


@pytest.mark.parametrize("times", [2, 3])
def test_a_text_that_was_read_again_is_judged_once(
    engine: Engine, grader: Grader, demo: np.ndarray, times: int
) -> None:
    text = DEMO_TEXT.partition(".")[0]
    part = demo[: 16_000 * 7 // 2]
    samples = np.concatenate([part, 0.8 * part, part][:times]).astype(np.float32)
    found, _ = grader.assess(samples, [16_000], text)
    compare(found, engine.assess((samples, 16_000), text=text).to_dict())
    assert "text_read_again" in found["validity"]["reasons"]


def test_another_text_is_no_reading(engine: Engine, grader: Grader, demo: np.ndarray) -> None:
    found, _ = grader.assess(demo, [16_000], OTHER_TEXT)
    compare(found, engine.assess(DEMO, text=OTHER_TEXT).to_dict())
    assert "text_mismatch" in found["validity"]["reasons"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("It is 5 o'clock", "holds '5', which this library does not read; write the words"),
        ("It costs \u20ac20.", "holds '\u20ac20.'"),
        ("See www.example.com now", "holds 'www.example.com'"),
        ("Mail a@b.com", "holds 'a@b.com'"),
        ("the U.S. and us", "holds 'U.S.'"),
        ("Louis XIV was king", "holds 'XIV'"),
        ("\u4f60\u597d", "holds '\u4f60', which cannot be read aloud in English"),
        ("a\x07b", "a control character"),
        ("\ud800", "not UTF-8"),
        ("...", "holds no word"),
        ("", "holds no word"),
        ("a" * 50, "longer than any word"),
        ("word " * 1501, "more than 1500 words"),
    ],
)
def test_a_text_it_cannot_read_is_refused_by_name(
    grader: Grader, demo: np.ndarray, text: str, says: str
) -> None:
    with pytest.raises(LibasaError, match=says.replace("(", r"\(")):
        grader.assess(demo[:100], [100], text)


def test_a_text_is_given_to_whom_it_is_for(
    grader: Grader, grader_file: Path, demo: np.ndarray
) -> None:
    with pytest.raises(LibasaError, match="open the stream with the text"):
        grader.assess(demo[:100], [100])
    acoustic = Grader(grader_file)
    with pytest.raises(LibasaError, match="without its text"):
        acoustic.assess(demo[:100], [100], DEMO_TEXT)
    acoustic.close()
    assert grader.describe()["reads_texts"] is True


def test_bf16_is_refused(reading_file: Path) -> None:
    with pytest.raises(LibasaError, match="runs at fp32 or int8"):
        Grader(reading_file, precision="bf16")


def test_a_reading_that_is_too_long_is_refused(tmp_path: Path) -> None:
    bundle = Bundle.open("pronunciation")
    brief = dataclasses.replace(bundle, config={**bundle.config, "max_text_s": 2.0})
    (tmp_path / "brief.asa").write_bytes(pronunciation_file(brief, "int8", "brief"))
    grader = Grader(tmp_path / "brief.asa")
    samples = audio_samples.speech(6.0, seed=1).astype(np.float32)
    with pytest.raises(LibasaError, match="longer than 2 s; judge it paragraph"):
        grader.assess(samples, [len(samples), 1], "One word")
    grader.close()
