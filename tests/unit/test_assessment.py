"""Results as JSON: what is known, under the names that the schema declares."""

from __future__ import annotations

import jsonschema
import pytest

from asa_engine.assessment import WORD_ERRORS, Assessment, Phone, Score, Timing, Word, schema
from asa_engine.audio.validity import Validity

RECEIPT = (
    "engine_version bundle artifacts_sha256 backend precision chosen threads kernel_isa versions "
    "audio_sha256"
).split()


def result(*words: Word, **scores: Score) -> Assessment:
    return Assessment(
        grader="toy",
        scores=scores,
        validity=Validity(True),
        timing=Timing(1.0, 0.0, 0.0, 0.0, None, None, 0.0, 0.0, 0.0),
        receipt=dict.fromkeys(RECEIPT, "x"),
        words=words,
    )


def test_the_likeliest_class_and_the_level_of_the_expected_score_stand_side_by_side() -> None:
    shares = {"A": 0.4, "B": 0.25, "C": 0.35}
    score = Score(2.0, 1.0, 3.0, level="B", probabilities=shares)
    assert (score.level, score.likeliest_class) == ("B", "A")
    found = result(total=score).to_dict()
    jsonschema.validate(found, schema())
    assert found["scores"]["total"]["level"] == "B"
    assert found["scores"]["total"]["likeliest_class"] == "A"


@pytest.mark.parametrize(
    ("shares", "wanted"), [(None, None), ({}, None), ({"low": 0.5, "high": 0.5}, "low")]
)
def test_without_classes_none_is_likeliest_and_of_equals_the_lowest(shares, wanted) -> None:
    assert Score(1.0, 0.0, 2.0, probabilities=shares).likeliest_class == wanted


def test_a_score_of_a_grader_that_does_not_classify_names_no_class() -> None:
    assert Score(1.0, 0.0, 2.0).to_dict() == {"value": 1.0, "scale_min": 0.0, "scale_max": 2.0}


def test_words_and_phones_carry_scores_errors_and_times() -> None:
    phone = Phone("AE", score=Score(0.5, 0.0, 2.0), ipa="æ", start_s=0.1, end_s=0.2, heard="EH")
    word = Word(
        "CAT", 0.0, 0.4, score=Score(3.0, 0.0, 10.0), error=WORD_ERRORS[1], confidence=0.8,
        phones=(phone,),
    )  # fmt: skip
    found = result(word, Word("it", error="none")).to_dict()
    jsonschema.validate(found, schema())
    assert found["words"][0] == {
        "text": "CAT",
        "start_s": 0.0,
        "end_s": 0.4,
        "error": "mispronunciation",
        "confidence": 0.8,
        "score": {"value": 3.0, "scale_min": 0.0, "scale_max": 10.0},
        "phones": [
            {
                "phone": "AE",
                "ipa": "æ",
                "start_s": 0.1,
                "end_s": 0.2,
                "heard": "EH",
                "score": {"value": 0.5, "scale_min": 0.0, "scale_max": 2.0},
            }
        ],
    }
    assert found["words"][1] == {"text": "it", "error": "none"}


def test_the_schema_knows_every_error_of_a_word_and_no_other() -> None:
    for error in WORD_ERRORS:
        jsonschema.validate(result(Word("it", error=error)).to_dict(), schema())
    with pytest.raises(jsonschema.ValidationError, match="misread"):
        jsonschema.validate(result(Word("it", error="misread")).to_dict(), schema())
