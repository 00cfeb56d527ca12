"""Every score of the acoustic bundle stays inside its drift budget on every path this CPU has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from other_isa import run_with_isa

import asa_engine as asa
from asa_engine import kernels
from asa_engine.evaluation.drift import Scores, score_drift
from asa_engine.evaluation.manifest import read_manifest
from asa_engine.evaluation.splits import dev_split
from asa_engine.kernels.encoder import PRECISIONS

pytest.importorskip("torch", reason="needs the extra 'train'")

DEMO = Path(__file__).parents[2] / "examples" / "audio" / "demo.flac"
RECORDINGS = 6
SCALE_WIDTH = 10.0
# Kernels are chosen once a process.
SCORE = """
import json, sys
import asa_engine as asa
told = {}
for precision in sys.argv[1].split(","):
    engine = asa.load("acoustic", backend="native", precision=precision, threads=1)
    results = [engine.assess(path) for path in sys.argv[2:]]
    assert all(result.receipt["kernel_isa"] == asa.kernels.isa() for result in results)
    told[precision] = [{n: s.value for n, s in r.scores.items()} for r in results]
print(json.dumps({"isa": asa.kernels.isa(), "scores": told}))
"""


def _reference(recordings: Sequence[Path]) -> list[Scores]:
    engine = asa.load("acoustic", backend="torch", precision="fp32", threads=1)
    results = [engine.assess(path) for path in recordings]
    return [{name: score.value for name, score in r.scores.items()} for r in results]


def _check(isa: str, recordings: Sequence[Path], expected: Sequence[Scores]) -> None:
    done = run_with_isa(isa, "-c", SCORE, ",".join(PRECISIONS), *map(str, recordings))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["isa"] == isa
    for precision in PRECISIONS:
        drift = score_drift(
            expected, told["scores"][precision], precision=precision, scale_width=SCALE_WIDTH
        )
        assert drift.recordings == len(recordings)
        assert drift.within_budget, (precision, drift)


@pytest.fixture(scope="module")
def demo_scores() -> list[Scores]:
    return _reference([DEMO])


@pytest.fixture(scope="module")
def dev(corpus: Path) -> list[Path]:
    speech = dev_split(read_manifest(corpus / "train.jsonl", check_audio=False))[1]
    return [speech[index * len(speech) // RECORDINGS].audio for index in range(RECORDINGS)]


@pytest.fixture(scope="module")
def dev_scores(dev: list[Path]) -> list[Scores]:
    return _reference(dev)


@pytest.mark.parametrize("isa", kernels.available_isas())
def test_on_the_demo_recording(isa: str, demo_scores: list[Scores]) -> None:
    _check(isa, [DEMO], demo_scores)


@pytest.mark.parametrize("isa", kernels.available_isas())
def test_on_dev_speakers(isa: str, dev: list[Path], dev_scores: list[Scores]) -> None:
    _check(isa, dev, dev_scores)
