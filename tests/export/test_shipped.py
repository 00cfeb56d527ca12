"""The bundles that ship: small enough; the acoustic one, on real speech, inside its budgets."""

from __future__ import annotations

from pathlib import Path

import pytest

from asa_engine.bundle import MODELS, SHIPPED, Bundle
from asa_engine.evaluation.manifest import read_manifest
from asa_engine.evaluation.splits import dev_split
from asa_export.parity import REFERENCE, Scorer, compare
from asa_export.speech import Recording

MOST_BYTES = 82 * 2**20
RECORDINGS = 12


def test_they_are_small_enough() -> None:
    assert {path.name for path in MODELS.iterdir()} == set(SHIPPED)
    assert sum(path.stat().st_size for path in MODELS.rglob("*")) <= MOST_BYTES


def test_its_report_is_of_real_speech_and_within_budget() -> None:
    bundle = Bundle.open("acoustic")
    assert bundle.auto
    for variant in bundle.auto:
        report = bundle.parity["/".join(variant)]
        assert report["exceeded"] == []
        assert "synthetic" not in report["speech"]
        assert report["recordings"] >= 100


def test_its_scores_hold_on_real_speech(corpus: Path) -> None:
    bundle = Bundle.open("acoustic")
    dev = dev_split(read_manifest(corpus / "train.jsonl", check_audio=False))[1]
    chosen = [dev[index * len(dev) // RECORDINGS] for index in range(RECORDINGS)]
    found = compare(
        Scorer(bundle, *REFERENCE),
        [Scorer(bundle, *variant) for variant in bundle.auto],
        [Recording(u.id, u.audio, u.scores) for u in chosen],
        "dev speakers",
    )
    for parity in found:
        assert parity.recordings == RECORDINGS
        assert parity.exceeded == ()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_it_runs_on_onnxruntime(precision: str) -> None:
    assert ("onnxruntime", precision) in Bundle.open("acoustic").variants()
