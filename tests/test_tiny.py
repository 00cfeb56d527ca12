"""The whole flow in seconds: the bundles that ship score the recording that ships."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest

import asa_engine as asa
from asa_engine.assessment import schema

DEMO = Path(__file__).parents[1] / "examples" / "audio" / "demo.flac"


@pytest.fixture(scope="module", params=["default", "acoustic"])
def engine(request: pytest.FixtureRequest) -> asa.Engine:
    return asa.load(request.param, threads=1)


def test_a_recording_is_scored(engine: asa.Engine) -> None:
    result = engine.assess(DEMO)
    assert list(result.scores) == ["accuracy", "fluency", "prosodic", "total"]
    assert all(0.0 < score.value < 10.0 for score in result.scores.values())
    assert result.validity.scorable
    if engine.grader == "acoustic":
        assert result.prior is not None
        assert sum(result.prior.probabilities) == pytest.approx(1.0, abs=1e-5)
    jsonschema.validate(result.to_dict(), schema())


def test_the_receipt_names_everything(engine: asa.Engine) -> None:
    receipt = engine.assess(DEMO).receipt
    assert receipt["bundle"]["name"] == engine.grader
    assert len(receipt["bundle"]["sha256"]) == len(receipt["audio_sha256"]) == 64
    assert receipt["artifacts_sha256"]
    assert receipt["chosen"].startswith("auto: ")


def test_streamed_equals_offline(engine: asa.Engine) -> None:
    from asa_engine.audio import open_audio

    offline = engine.assess(DEMO)
    with open_audio(DEMO) as audio, engine.stream(audio.sample_rate_hz) as stream:
        for block in audio.blocks():
            for start in range(0, len(block), 160):
                stream.feed(block[start : start + 160])
        streamed = stream.finish()
    for name, score in offline.scores.items():
        assert streamed.scores[name].value == pytest.approx(score.value, abs=1e-4)
