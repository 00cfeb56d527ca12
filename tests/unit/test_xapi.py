"""Statements of xAPI, checked by rules of the specification and by a record store's own checker."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from assessments import assessment, refused, write_results
from hypothesis import given, settings
from hypothesis import strategies as st

from asa_engine.assessment import Score
from asa_engine.batch.recordings import Recording
from asa_engine.batch.rows import Row
from asa_engine.cli.main import main
from asa_engine.errors import AudioError, UsageError
from asa_engine.formats import to_xapi

PLATFORM = "https://school.example"
ABOUT = {
    "learner": "ana.1",
    "text": "We call it bear.",
    "session": "Unit 1/2",
    "date": "2026-03-31T09:30:00+02:00",
}
_CLIENT = Path(__file__).parents[1] / "node"
_IRI = re.compile(r"[a-z][a-z0-9+.-]*:[^\s<>\"{}|\\^`]+")


def statement(**changes: str) -> dict[str, Any]:
    return to_xapi(assessment(), {**ABOUT, **changes}, platform=PLATFORM, name="a.wav")


def check(found: dict[str, Any]) -> None:
    """Check what the specification demands (xAPI 1.0.3, part 2, sections 2.2 and 2.4)."""
    assert set(found) <= {"id", "actor", "verb", "object", "result", "context", "timestamp"}
    uuid.UUID(found["id"])
    account = found["actor"]["account"]
    assert set(found["actor"]) == {"objectType", "account"}  # one identifier alone
    assert set(account) == {"homePage", "name"}
    activities = [found["object"], *found["context"].get("contextActivities", {}).get("parent", [])]
    kinds = [activity["definition"]["type"] for activity in activities]
    addresses = [*(each["id"] for each in activities), *kinds, found["verb"]["id"]]
    for holder in (found["result"], found["context"]):
        addresses += holder.get("extensions", {})
    assert all(_IRI.fullmatch(address) for address in addresses), addresses
    assert re.fullmatch(r"PT[0-9]+\.[0-9]{2}S", found["result"]["duration"])
    if "score" in found["result"]:
        score = found["result"]["score"]
        assert -1 <= score["scaled"] <= 1
        assert score["min"] <= score["raw"] <= score["max"]
    _without_nulls({k: v for k, v in found.items()})


def _without_nulls(value: Any) -> None:
    assert value is not None
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            _without_nulls(each)


def test_a_score_is_told_with_its_scale_and_its_uncertainty() -> None:
    found = statement()
    check(found)
    assert found["actor"]["account"] == {"homePage": PLATFORM, "name": "ana.1"}
    assert found["verb"]["id"] == "http://adlnet.gov/expapi/verbs/scored"
    assert found["result"]["score"] == {"scaled": 0.725, "raw": 7.25, "min": 0.0, "max": 10.0}
    assert found["result"]["duration"] == "PT2.50S"
    assert found["timestamp"] == ABOUT["date"]
    told = found["result"]["extensions"]
    assert told[f"{PLATFORM}/xapi/extensions/score-name"] == "total"
    assert told[f"{PLATFORM}/xapi/extensions/scores"]["total"]["sd"] == 0.9
    words = told[f"{PLATFORM}/xapi/extensions/words"]
    assert words[4] == {
        "text": "bear",
        "error": "mispronunciation",
        "confidence": 0.8,
        "score": 3.5,
    }
    (lesson,) = found["context"]["contextActivities"]["parent"]
    assert lesson["id"] == f"{PLATFORM}/xapi/sessions/Unit%201%2F2"
    assert lesson["definition"]["name"] == {"en": "Unit 1/2"}


def test_a_refused_recording_is_an_attempt_without_a_score() -> None:
    found = to_xapi(refused(), {"learner": "b"}, platform=PLATFORM, name="b.wav")
    check(found)
    assert found["verb"]["id"] == "http://adlnet.gov/expapi/verbs/attempted"
    assert "score" not in found["result"]
    assert found["result"]["extensions"] == {f"{PLATFORM}/xapi/extensions/reasons": ["no_speech"]}
    assert "timestamp" not in found


def test_ids_say_what_is_the_same() -> None:
    first = statement()
    assert statement() == first
    others = [statement(learner="b"), statement(session="Unit 2"), statement(text="Hi")]
    others.append(to_xapi(assessment(), ABOUT, platform=PLATFORM, name="b.wav"))
    assert len({each["id"] for each in (first, *others)}) == 5
    assert statement(learner="b")["object"]["id"] == first["object"]["id"]  # one task
    assert statement(text="Hi")["object"]["id"] != first["object"]["id"]


@pytest.mark.parametrize("date", ["2026-03-31", "2026-03-31T09:30:00", "", "someday"])
def test_a_time_without_its_zone_is_no_timestamp(date: str) -> None:
    found = statement(date=date)
    assert "timestamp" not in found
    assert found["context"]["extensions"].get(f"{PLATFORM}/xapi/extensions/date", "") == date


def test_a_score_beyond_its_scale_stays_on_it() -> None:
    result = replace(assessment(), scores={"total": Score(10.4, 0.0, 10.0)})
    found = to_xapi(result, ABOUT, platform=PLATFORM)
    assert found["result"]["score"]["raw"] == 10.0
    check(found)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30), st.text(min_size=1, max_size=30))
def test_any_names_make_whole_statements(session: str, learner: str) -> None:
    check(statement(session=session, learner=learner))


@pytest.mark.parametrize("platform", ["school", "ftp://x", "https://", "https://a b", "http://["])
def test_a_platform_is_an_address(platform: str) -> None:
    with pytest.raises(UsageError, match="is no address"):
        to_xapi(assessment(), ABOUT, platform=platform)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    rows = [
        Row(Recording("a.wav", Path("a.wav"), learner="ana"), assessment().to_dict()),
        Row(Recording("b.wav", Path("b.wav"), learner="bea"), refused().to_dict()),
        Row(Recording("c.wav", Path("c.wav")), AudioError("bad").to_dict()),
    ]
    return write_results(tmp_path / "results.jsonl", rows)


def test_results_become_one_array(
    capsys: pytest.CaptureFixture[str], results: Path, tmp_path: Path
) -> None:
    target = tmp_path / "xapi.json"
    args = ["convert", str(results), "-o", str(target), "--format", "xapi"]
    assert main(args) == 2
    assert "--platform" in capsys.readouterr().err
    assert main([*args, "--platform", PLATFORM]) == 0
    found = json.loads(target.read_text(encoding="utf-8"))
    assert [each["actor"]["account"]["name"] for each in found] == ["ana", "bea"]
    assert main([*args, "--platform", PLATFORM]) == 2
    assert "exists already" in capsys.readouterr().err


def test_nobody_is_no_learner(
    capsys: pytest.CaptureFixture[str], results: Path, tmp_path: Path
) -> None:
    results.write_text(Row(Recording("x.wav", Path()), assessment().to_dict()).to_line())
    args = ["convert", str(results), "--format", "xapi", "--platform", PLATFORM, "-o"]
    assert main([*args, str(tmp_path / "xapi.json")]) == 2
    assert "x.wav has no learner" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"]


@pytest.mark.skipif(
    shutil.which("node") is None or not (_CLIENT / "node_modules" / "@learninglocker").is_dir(),
    reason="Learning Locker's checker is not here: npm ci --prefix tests/node",
)
def test_a_record_stores_own_checker_has_nothing_against_it() -> None:
    broken = {**statement(), "verb": {"id": "scored"}}
    plain = to_xapi(refused(), {"learner": "Ünal"}, platform=PLATFORM)
    done = subprocess.run(
        ["node", _CLIENT / "xapi_check.js"],
        input=json.dumps([statement(), plain, broken]),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
        timeout=60,
    )
    good, also_good, bad = json.loads(done.stdout)
    assert (good, also_good) == ([], [])
    assert bad
