"""What a grader's exports are compared with, in score and in speed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from asa_engine.bench.run import SAME_WORDS, _references
from asa_engine.bundle import Bundle


def test_the_acoustic_graders_reference_is_one_module_used_in_two_ways(fake_bundle: Path) -> None:
    found = _references(Bundle.open(fake_bundle), threads=2)
    assert [candidate.kind for candidate in found] == ["batched-reference"] * 2
    assert {candidate.options["batch"] for candidate in found} == {1, 16}


def test_scores_of_words_are_compared_on_the_same_words(fake_bundle: Path) -> None:
    truth, pipeline = _references(replace(Bundle.open(fake_bundle), grader="text"), threads=1)
    assert (truth.name, truth.kind) == (SAME_WORDS, "stages-reference")
    assert (pipeline.kind, pipeline.options["backend"]) == ("engine", "torch")
    assert truth.is_reference
    assert pipeline.is_reference
