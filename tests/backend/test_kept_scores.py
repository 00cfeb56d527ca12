"""Shipped models, and bundles that older code wrote, score as they did when it was kept.

`tests/kept_scores.py keep NAME` keeps scores anew where they are meant to move.
"""

from __future__ import annotations

import json
from typing import Any

import kept_scores
import pytest

from asa_engine.bundle import Bundle
from asa_engine.evaluation.drift import BUDGETS
from asa_engine.kernels import available_isas

OLD = ("acoustic", "speech-llm")
MADE = ("s1-text", "s2-multi-aspect", "s3-speech-llm", "s3-units", "s4-session")
MADE = (*MADE, "s5-multi-granular")
FEW = 2
"""Of ten recordings, how many another machine may recognise other words in."""


@pytest.mark.parametrize("name", [*kept_scores.SHIPPED, *OLD, *MADE])
def test_scores_are_those_that_were_kept(name: str, request: pytest.FixtureRequest) -> None:
    if kept_scores.ISA not in available_isas():
        pytest.skip(f"scores are kept at {kept_scores.ISA}, which this CPU has not")
    if name not in OLD:
        request.getfixturevalue("corpus")
    if not kept_scores.folder_of(name).is_dir():
        pytest.skip(f"build/bundles/{name} is not made: make bundles ONLY={name}")
    kept = json.loads(kept_scores.file_of(name).read_text())
    found = kept_scores.score(name)
    variants = kept["variants"].keys() & found["variants"].keys()
    assert variants, f"of {', '.join(found['variants'])}, none was kept"
    for variant in sorted(variants):
        before, after = kept["variants"][variant], found["variants"][variant]
        assert before["scores"].keys() == after["scores"].keys()
        same = found["machine"] == kept["machine"] and before["files"] == after["files"]
        if same:
            assert after["scores"] == before["scores"], variant
        else:
            _check_near(name, variant, before["scores"], after["scores"])


def _check_near(name: str, variant: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Check scores of another kind of machine, or of weights that one has rounded.

    A score may move as far as its precision may move one from the reference; where the words that
    were recognised differ, it is another score.
    """
    precision = variant.split("/")[1]
    config = Bundle.open(kept_scores.folder_of(name)).config
    aspects = config.get("aspects") or config.get("speech", {}).get("aspects")
    widths = {a["name"]: a["scale_max"] - a["scale_min"] for a in aspects}
    others = [one for one in before if before[one].get("words") != after[one].get("words")]
    assert len(others) <= FEW, others
    for recording in before.keys() - others:
        for aspect, width in widths.items():
            if aspect in before[recording] or aspect in after[recording]:
                moved = abs(after[recording][aspect] - before[recording][aspect])
                most = BUDGETS[precision].scaled(width).max
                assert moved <= most, f"{variant} {recording} {aspect} moved by {moved}"


@pytest.mark.parametrize("name", OLD)
def test_a_bundle_of_older_code_loads_unchanged(name: str) -> None:
    folder = kept_scores.folder_of(name)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 300_000
    bundle = Bundle.open(folder)
    assert {path.relative_to(folder).as_posix() for path in files} == {
        "asa.json",
        *bundle.artifacts,
    }
