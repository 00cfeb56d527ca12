"""Scores beside the experts': intervals, groups, speakers, classes; NaN that JSON cannot hold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from asa_engine.assessment import Assessment, Score, Timing, Word
from asa_engine.audio.validity import Validity
from asa_engine.errors import AudioError, ManifestError
from asa_engine.evaluation.agreement import RESAMPLES, SEED, group_rows, intervals
from asa_engine.evaluation.evaluate import Evaluation, evaluate
from asa_engine.evaluation.manifest import Utterance, read_manifest
from asa_engine.evaluation.metrics import metrics, pcc, rmse
from asa_engine.evaluation.sessions import read_sessions
from asa_engine.evaluation.splits import dev_split
from asa_engine.graders.aspects import AspectConfig

TOLERANCE = 1e-12
TOTAL = AspectConfig("total")
BANDS = AspectConfig(
    "total", scale_max=4.0, level_cuts=(1.5, 2.5), level_names=("low", "middle", "high")
)


def assessed(score: Score, words: Sequence[Word] = (), *, scorable: bool = True) -> Assessment:
    return Assessment(
        grader="toy",
        scores={"total": score} if scorable else {},
        validity=Validity(scorable),
        timing=Timing(1.0, 0.0, 0.0, 0.0, None, None, 0.0, 0.0, 0.0),
        receipt={},
        words=tuple(words),
    )


def toy(answers: Mapping[str, Assessment | None], aspect: AspectConfig = TOTAL) -> Any:
    """An engine that knows its answers; `None` is audio that cannot be read."""

    def assess(audio: Path, **_: object) -> Assessment:
        if (answer := answers[audio.stem]) is None:
            raise AudioError("damaged")
        return answer

    config = SimpleNamespace(aspects=(aspect,))
    return SimpleNamespace(grader="toy", config=config, uses=(), assess=assess)


def utterance(name: str, total: float, **fields: Any) -> Utterance:
    return Utterance(name, Path(f"{name}.flac"), {"total": total}, **fields)


def evaluated(said: Sequence[float], utterances: Sequence[Utterance]) -> dict[str, Any]:
    answers = {
        u.id: assessed(Score(value, 0.0, 10.0)) for u, value in zip(utterances, said, strict=True)
    }
    values = evaluate(toy(answers), utterances).to_dict()
    json.dumps(values, allow_nan=False)
    return values


@pytest.fixture
def spoken() -> tuple[list[float], list[Utterance]]:
    rng = np.random.default_rng(7)
    utterances, said = [], []
    for i in range(40):
        speaker = i % 8
        total = round(4 + speaker / 2 + rng.normal())
        fields = {"age": 8.0 if speaker < 3 else 30.0, "gender": "fm"[speaker % 2]}
        language = {"first_language": "Thai"} if speaker < 2 else {}
        utterances.append(utterance(str(i), total, speaker=f"s{speaker}", extra=language, **fields))
        said.append(total + rng.normal())
    return said, utterances


def test_every_figure_is_that_of_its_recordings(spoken) -> None:
    said, utterances = spoken
    found = evaluated(said, utterances)
    wanted = [u.scores["total"] for u in utterances]
    assert found["aspects"]["total"] == pytest.approx(metrics(said, wanted), abs=TOLERANCE)
    assert (found["n"], found["speakers"], found["qwk_steps"]) == (40, 8, {"total": 1.0})
    assert set(found["groups"]) == {
        "age above 12",
        "age up to 12",
        "first language Thai",
        "gender f",
        "gender m",
    }
    rows = [i for i, u in enumerate(utterances) if u.age == 8.0]
    group = found["groups"]["age up to 12"]
    assert (group["n"], group["speakers"]) == (15, 3)
    theirs = rmse([said[i] for i in rows], [wanted[i] for i in rows])
    assert group["aspects"]["total"]["rmse"] == pytest.approx(theirs, abs=TOLERANCE)


def test_speakers_are_compared_by_their_means(spoken) -> None:
    said, utterances = spoken
    names = [u.speaker for u in utterances]
    means = [
        [np.mean([v for v, who in zip(values, names, strict=True) if who == name]) for name in
         dict.fromkeys(names)]
        for values in (said, [u.scores["total"] for u in utterances])
    ]  # fmt: skip
    found = evaluated(said, utterances)["by_speaker"]
    assert found["n"] == 8
    assert found["aspects"]["total"]["pcc"] == pytest.approx(pcc(*means), abs=TOLERANCE)


def test_intervals_are_scipys_where_everybody_speaks_once() -> None:
    stats = pytest.importorskip("scipy.stats", reason="needs the extra 'dev'")
    rng = np.random.default_rng(3)
    expected = rng.integers(0, 11, 30).astype(float)
    predicted = expected + rng.normal(0, 2, 30)
    found = intervals({"x": predicted}, {"x": expected}, [str(i) for i in range(30)], {"x": 1.0})
    for name, metric in (("pcc", pcc), ("rmse", rmse)):
        theirs = stats.bootstrap(
            (predicted, expected),
            metric,
            n_resamples=RESAMPLES,
            vectorized=False,
            paired=True,
            method="percentile",
            rng=np.random.default_rng(SEED),
        ).confidence_interval
        assert found["aspects"]["x"][name] == pytest.approx(list(theirs), abs=TOLERANCE)
    assert (found["confidence"], found["resamples"]) == (0.95, RESAMPLES)


def test_intervals_draw_whole_speakers(spoken) -> None:
    said, utterances = spoken
    expected = np.array([u.scores["total"] for u in utterances])
    speakers = [u.speaker for u in utterances]
    found = intervals({"x": np.array(said)}, {"x": expected}, speakers, {"x": 1.0})
    rng = np.random.default_rng(SEED)
    values = []
    for draw in rng.integers(0, 8, (RESAMPLES, 8)):
        rows = [i for k in draw for i in range(40) if speakers[i] == f"s{k}"]
        values.append(rmse(np.array(said)[rows], expected[rows]))
    wanted = np.percentile(values, [2.5, 97.5])
    assert found["aspects"]["x"]["rmse"] == pytest.approx(wanted.tolist(), abs=TOLERANCE)


def test_one_speaker_tells_nothing_of_others() -> None:
    x = np.array([1.0, 2.0, 4.0])
    found = intervals({"x": x}, {"x": x[::-1]}, ["s", "s", "s"], {"x": 1.0})
    assert set(found["aspects"]["x"].values()) == {None}


def test_what_is_undefined_is_null() -> None:
    found = evaluated([5.0, 6.0], [utterance("a", 5), utterance("b", 5)])
    assert found["aspects"]["total"]["pcc"] is None
    assert found["aspects"]["total"]["rmse"] == pytest.approx(np.sqrt(0.5))
    # Half of the resamples draw one recording twice: no correlation can be told from the rest.
    found = evaluated([5.0, 6.0], [utterance("a", 5), utterance("b", 7)])
    assert found["intervals"]["aspects"]["total"]["pcc"] is None
    assert found["speakers"] is None
    assert "by_speaker" not in found
    assert "groups" not in found


def test_half_point_scales_are_judged_in_half_points() -> None:
    expected = [2.5, 3.0, 3.5, 4.5]
    said = [2.4, 3.4, 3.6, 4.1]
    found = evaluated(said, [utterance(str(i), x) for i, x in enumerate(expected)])
    assert found["qwk_steps"] == {"total": 0.5}
    assert found["aspects"]["total"]["qwk"] == metrics(said, expected, step=0.5)["qwk"]


def test_classes_are_judged_by_the_likeliest_and_by_the_band() -> None:
    def answer(*shares: float) -> Assessment:
        names = dict(zip(BANDS.level_names, shares, strict=True))
        return assessed(BANDS.score(float(np.dot(shares, (1, 2, 4))), probabilities=names))

    answers = {
        "a": answer(0.9, 0.1, 0.0),
        "b": answer(0.5, 0.1, 0.4),  # likeliest low, expected 2.3: middle
        "c": answer(0.2, 0.2, 0.6),
        "d": answer(0.0, 1.0, 0.0),
    }
    experts = [utterance("a", 1), utterance("b", 2), utterance("c", 3), utterance("d", 2)]
    found = evaluate(toy(answers, BANDS), experts).to_dict()["classes"]["total"]
    assert found["names"] == ["low", "middle", "high"]
    assert found["likeliest_class"]["confusion"] == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert found["likeliest_class"]["accuracy"] == 3 / 4
    assert found["likeliest_class"]["macro_accuracy"] == pytest.approx(2.5 / 3)
    assert found["likeliest_class"]["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert found["level"]["accuracy"] == 1.0


def test_labels_that_are_no_levels_are_no_classes() -> None:
    shares = {"A": 0.5, "B": 0.5}
    answers = {name: assessed(TOTAL.score(5.0, probabilities=shares)) for name in "ab"}
    found = evaluate(toy(answers), [utterance("a", 5), utterance("b", 6)]).to_dict()
    assert "classes" not in found


def test_what_cannot_be_scored_is_left_out_everywhere() -> None:
    score = Score(5.0, 0.0, 10.0)
    answers = {
        "a": assessed(score),
        "b": None,
        "c": assessed(score, scorable=False),
        "d": assessed(Score(7.0, 0.0, 10.0)),
    }
    rows = [utterance(name, 5, speaker=name, gender="f") for name in "abcd"]
    found = evaluate(toy(answers), rows)
    assert (found.ids, found.unscorable, found.speakers) == (("a", "d"), ("b", "c"), ("a", "d"))
    assert found.groups == {"gender f": [0, 1]}


def test_words_without_an_accuracy_do_not_stop_an_evaluation() -> None:
    word = Word("we", label="Good", scores={"accuracy": Score(8.0, 0.0, 10.0)})
    answers = {name: assessed(Score(5.0, 0.0, 10.0), [word]) for name in "ab"}
    extra = {"words": [{"text": "WE", "phones": [{"phone": "W", "accuracy": 2.0}]}]}
    rows = [utterance(name, 5, extra=extra) for name in "ab"]
    found = evaluate(toy(answers), rows).to_dict()
    assert (found["words"]["n"], found["words"]["judged"]) == (0, 2)


def test_malformed_words_are_refused_before_anything_is_scored() -> None:
    rows = [utterance("a", 5), utterance("b", 5, extra={"words": 3})]
    with pytest.raises(ManifestError, match="b: words is not a list"):
        evaluate(toy({}), rows)


def test_groups_of_one_recording_are_not_told_of() -> None:
    rows = [utterance("a", 1, gender="f"), utterance("b", 1, gender="f"), utterance("c", 1, age=12)]
    assert group_rows(rows) == {"gender f": [0, 1]}


def test_an_evaluation_without_speakers_is_told_of() -> None:
    values = np.array([1.0, 2.0, 4.0])
    found = Evaluation(("a", "b", "c"), {"x": values}, {"x": values}, 1.0, 1.0).to_dict()
    assert found["aspects"]["x"]["pcc"] == pytest.approx(1.0)
    assert found["speakers"] is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ('"scores": {"total": 1' + "0" * 400 + "}", "'total' is not a finite number"),
        ('"scores": {"total": true}', "'total' is not a finite number"),
        ('"scores": {"total": 1}, "age": NaN', "age is not a finite number"),
        ('"scores": {"total": 1}, "age": "12"', "age is not a finite number"),
        ('"scores": {"total": 1}, "duration": "2 s"', "duration is not a number"),
        ('"scores": {"total": 1}, "duration": 0', "duration is not a number"),
    ],
)
def test_numbers_that_are_none_are_refused_by_line(tmp_path: Path, fields: str, said: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"id": "a", "audio": "a.wav", ' + fields + "}\n")
    with pytest.raises(ManifestError) as caught:
        read_manifest(path, check_audio=False)
    assert "line 1" in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize("scores", ['{"overall": 1' + "0" * 400 + "}", '{"overall": "3"}', "3"])
def test_scores_of_sessions_that_are_none_are_refused_by_line(tmp_path: Path, scores: str) -> None:
    path = tmp_path / "sessions.jsonl"
    parts = '[{"part": "P1", "responses": [["a.wav"]]}]'
    path.write_text('{"session": "1", "parts": ' + parts + ', "scores": ' + scores + "}\n")
    with pytest.raises(ManifestError, match="line 1: not a session: a score is not"):
        read_sessions(path)


def test_null_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    nothing = '"speaker": null, "gender": null, "text": null, "first_language": null'
    path.write_text('{"id": "a", "audio": "a.wav", "scores": {"total": 1}, ' + nothing + "}\n")
    (row,) = read_manifest(path, check_audio=False)
    assert (row.speaker, row.gender, row.text, row.first_language) == ("", "", "", "")
    assert row.duration_s is None
    with pytest.raises(ManifestError, match="has no speaker"):
        dev_split([row])
