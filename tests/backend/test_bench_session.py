"""A whole benchmark run on a small untrained grader: gate, turns, result, page, exit code."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import jsonschema
import pytest
import torch

from asa_engine.bench.result import schema
from asa_engine.bench.roofline import measure_roofline, roofline_chart
from asa_engine.bundle import Bundle
from asa_engine.cli.bench import register
from asa_engine.errors import DriftError

pytest.importorskip("transformers", reason="needs the extra 'bench'")

DEMO = Path(__file__).parents[2] / "examples" / "audio" / "demo.flac"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A grader of tiny shape; its weights are random, so its scores stand for nothing."""
    from asa_engine.graders.acoustic.config import AcousticConfig
    from asa_engine.graders.acoustic.model import AcousticGrader
    from asa_engine.graders.aspects import AspectConfig
    from asa_engine.nn.config import WhisperEncoderConfig

    torch.manual_seed(3)
    encoder = WhisperEncoderConfig(d_model=32, layers=1, heads=2, ffn=64)
    aspects = (AspectConfig("fluency"), AspectConfig("total"))
    grader = AcousticGrader(AcousticConfig(aspects=aspects, encoder=encoder))
    with torch.no_grad():
        # Initial weights give nearly the same score to any audio; these tell recordings apart.
        grader.head_fc2.weight.mul_(20)
    grader.save(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_times_what_agrees_with_pytorch_and_refuses_what_does_not(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    candidates = ["--candidate", "torch/fp32", "--candidate", "fake/fp32"]
    where = ["--bundle", str(checkpoint), "--data", str(DEMO), "--output", str(tmp_path)]
    args = parser.parse_args(["bench", "--smoke", *candidates, *where])

    with pytest.raises(DriftError, match="fake/fp32"):
        args.run(args)

    (path,) = tmp_path.glob("*.json")
    text = path.read_text()
    result = json.loads(text)
    jsonschema.validate(result, schema())
    timed = {row["candidate"] for row in result["rows"]}
    assert "torch/fp32" in timed
    assert "fake/fp32" not in timed
    assert [entry["candidate"] for entry in result["refused"]] == ["fake/fp32"]
    assert result["refused"][0]["drift"]["max"] > result["refused"][0]["drift"]["budget_max"]
    scenarios = {row["scenario"] for row in result["rows"]}
    assert scenarios == {"SingleStream", "TimeToScore", "Offline", "LogMel"}
    assert all(row["drift"] for row in result["rows"] if row["candidate"] == "torch/fp32")
    # The checkpoint can only be run by PyTorch, and the cold run notices.
    assert result["cold_run"]["forbidden_imported"] == ["torch"]
    assert str(tmp_path) not in text
    assert path.with_suffix(".html").is_file()
    assert "refused: fake/fp32" in capsys.readouterr().out


def test_the_roofline_is_of_the_native_kernels() -> None:
    found = measure_roofline(Bundle.open("acoustic"), ["fp32", "int8"], DEMO, repeat=1)

    assert found is not None
    assert {row["variant"] for row in found["kernels"]} == {"native/fp32", "native/int8"}
    for variant in "native/fp32", "native/int8":
        rows = [row for row in found["kernels"] if row["variant"] == variant]
        assert sum(row["share"] for row in rows) == pytest.approx(1.0)
        assert {"attention", "feed-forward in", "conv2"} <= {row["kernel"] for row in rows}
    chart = roofline_chart("Roofline", found["roofs"], found["kernels"])
    assert chart.count("<circle") == sum(row["operations"] > 0 for row in found["kernels"])
