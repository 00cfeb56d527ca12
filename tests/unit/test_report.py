"""Pages for teachers: what is counted, and that pages hold it, safely and by themselves."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from assessments import assessment, refused
from html_page import Page

from asa_engine.assessment import Assessment, Phone, Score, Word
from asa_engine.batch.recordings import Recording
from asa_engine.batch.rows import Row
from asa_engine.cli.main import main
from asa_engine.errors import AudioError
from asa_engine.report import gather, learner_page, whole_page
from asa_engine.report.pictures import Course, course_chart, dot_chart

EVIL = "<script>alert(1)</script>\"'&"


def _recording(name: str, **values: str) -> Recording:
    return Recording(name, Path(name), **values)


def _scored(total: float, *, sd: float | None = 0.5, words: tuple[Word, ...] = ()) -> Assessment:
    scores = {"fluency": Score(total - 1, 0.0, 10.0), "total": Score(total, 0.0, 10.0, sd=sd)}
    return replace(assessment(), scores=scores, words=words)


def _word(text: str, error: str | None = None, score: float | None = None) -> Word:
    return Word(text, error=error, score=None if score is None else Score(score, 0.0, 10.0))


def _rows(*items: tuple[str, str, Assessment | AudioError], **values: str) -> list[Row]:
    return [
        Row(_recording(f"{i}.wav", learner=learner, session=session, **values), result.to_dict())
        for i, (learner, session, result) in enumerate(items)
    ]


def test_scores_are_means_whose_uncertainty_does_not_shrink() -> None:
    group = gather(
        _rows(
            ("Ana", "1", _scored(4.0, sd=0.3)),
            ("Ana", "1", _scored(6.0, sd=0.4)),
            ("Ana", "2", _scored(8.0, sd=None)),
            ("Bea", "2", _scored(9.0, sd=0.5)),
        )
    )
    assert group.scores == ["total", "fluency"]
    ana = group.learners["Ana"]
    first = ana.estimate("total", "1")
    assert first is not None
    assert (first.value, first.n) == (5.0, 2)
    assert first.sd == pytest.approx((0.5 * (0.3**2 + 0.4**2)) ** 0.5)
    last, missing = ana.estimate("total", "2"), group.learners["Bea"].estimate("total", "1")
    assert last is not None
    assert (last.value, last.sd) == (8.0, None)
    assert missing is None
    whole = group.whole.estimate("total")
    assert whole is not None
    assert (whole.value, whole.n) == (6.75, 4)


def test_sessions_are_in_order_of_time_or_else_of_their_numbers() -> None:
    scored = _scored(5.0)

    def sessions(*pairs: tuple[str, str]) -> list[str]:
        recordings = (_recording("a", session=name, date=date) for name, date in pairs)
        return gather(Row(each, scored.to_dict()) for each in recordings).sessions

    assert sessions(("Unit 10", ""), ("Unit 9", ""), ("unit 1", "2026-05-01")) == [
        *("unit 1", "Unit 9", "Unit 10"),
    ]
    dated = (("b", "2026-05-01"), ("a", "2026-05-02"), ("a", "2026-04-30T08:00:00"))
    assert sessions(*dated) == ["a", "b"]
    assert sessions(("", "2026-05-02T10:00:00"), ("", "2026-05-01")) == ["2026-05-01", "2026-05-02"]
    assert sessions(("", "")) == []


def test_words_are_missed_by_their_error_or_a_low_score() -> None:
    words = (
        *(_word("cat", "none"), _word("Cat", "mispronunciation"), _word("dog", "omission")),
        *(_word("um", "insertion"), _word("the", "repetition"), _word("the", "none", 1.0)),
        *(_word("low", None, 4.9), _word("high", None, 5.0), _word("unknown")),
    )
    group = gather(_rows(("Ana", "1", _scored(5, words=words)), ("Bea", "1", _scored(5))))
    found = {word: (tally.missed, tally.said) for word, tally in group.whole.words.items()}
    assert found == {"cat": (1, 2), "dog": (1, 1), "the": (0, 1), "low": (1, 1), "high": (0, 1)}
    assert group.whole.words["cat"].learners == {"Ana"}
    assert (dict(group.whole.inserted), dict(group.whole.repeated)) == ({"um": 1}, {"the": 1})
    assert group.learners["Bea"].words == {}


def test_sounds_are_missed_below_half_of_their_scale() -> None:
    def phone(symbol: str, score: float, heard: str | None = None) -> Phone:
        return Phone(symbol, score=Score(score, 0.0, 2.0), heard=heard)

    phones = (phone("TH", 0.9, "S"), phone("IH1", 1.0), phone("IH0", 0.1, "IH1"), Phone("Z"))
    word = Word("this", error="none", phones=phones)
    group = gather(_rows(("Ana", "1", _scored(5, words=(word,)))))
    found = {sound: (tally.missed, tally.said) for sound, tally in group.whole.sounds.items()}
    assert found == {"θ": (1, 1), "ɪ": (1, 2)}
    assert dict(group.whole.sounds["θ"].kinds) == {"s": 1}
    assert dict(group.whole.sounds["ɪ"].kinds) == {}  # only stressed in another way
    assert dict(group.whole.sounds["θ"].words) == {"this": 1}


def test_what_could_not_be_judged_is_told_with_its_reason() -> None:
    quiet = replace(refused(), scores={})
    noisy = replace(assessment(), validity=replace(refused().validity, scorable=True))
    group = gather(
        _rows(("Ana", "1", quiet), ("Ana", "1", AudioError("no file")), ("Ana", "1", noisy))
    )
    assert [why for _, why in group.whole.refused] == ["no speech", "no file"]
    assert [why for _, why in group.whole.doubted] == ["no speech"]
    text = Page(whole_page(group, "Year 7")).text
    assert "What could not be judged" in text
    assert "no file" in text
    assert "To be taken with care" in text


def _class() -> list[Row]:
    return _rows(
        *(("Ana", str(unit), assessment()) for unit in range(1, 4)),
        *(("Bea", str(unit), _scored(3.0 + 2 * unit)) for unit in range(1, 4)),
        ("Bea", "3", AudioError("no file")),
        (EVIL, EVIL, assessment()),
        ("مريم", "3", refused()),
    )


def test_a_page_is_whole_and_holds_nothing_that_runs_or_is_fetched() -> None:
    text = whole_page(gather(_class()), EVIL)
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object"}.intersection(page.tags)
    assert not re.search(r"https?:|//[a-z]|url\(|@import", text)
    ids = {value for name, value in page.attributes if name == "id"}
    links = {value for name, value in page.attributes if name == "href"}
    assert links == {f"#{each}" for each in ids}
    assert len(links) == 4
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert EVIL in page.text
    assert "default-src 'none'" in text


def test_a_change_within_the_uncertainty_is_not_called_progress() -> None:
    def told(first: float, last: float, sd: float | None) -> str:
        rows = _rows(("A", "1", _scored(first, sd=sd)), ("A", "2", _scored(last, sd=sd)))
        group = gather(rows)
        return Page(learner_page(group, group.learners["A"])).text

    assert "total went from 4.0 ± 0.5 to 4.7 ± 0.5: a change within" in told(4.0, 4.7, 0.5)
    assert "to 4.8 ± 0.5: up, by more than the uncertainty" in told(4.0, 4.8, 0.5)
    assert "down, by more" in told(8.0, 4.0, 0.5)
    assert "does not say" in told(4.0, 8.0, None)


def test_a_learners_page_shows_nobody_else() -> None:
    group = gather(_class())
    text = learner_page(group, group.learners["Bea"])
    assert "Ana" not in text
    assert "script" not in text
    assert "no file" in text


def test_results_without_names_are_one_page_of_all() -> None:
    page = Page(whole_page(gather(_rows(("", "", assessment()), ("", "", refused()))), "Test"))
    assert "2 recordings" in page.text
    assert "section" not in page.tags
    empty = Page(whole_page(gather(_rows(("Ana", "1", AudioError("no file")))), "Test"))
    assert "svg" not in empty.tags


def _circles(svg: str, axis: str) -> list[float]:
    return [float(at) for at in re.findall(rf'<circle [^>]*{axis}="([\d.]+)"', svg)]


def _estimate(value: float, sd: float | None = None) -> Any:
    row = Row(_recording("a", learner="A"), _scored(value, sd=sd).to_dict())
    return gather([row]).whole.estimate("total")


def test_dots_lie_where_their_scores_do() -> None:
    svg = dot_chart("t", [(EVIL, _estimate(0.0)), ("b", _estimate(10.0, 1.0))])
    low, high = _circles(svg, "cx")
    five, ten = (
        float(x) for x in re.findall(r'x1="([\d.]+)" x2="([\d.]+)" y1="5\d.0" y2="5\d.0"', svg)[0]
    )
    assert ten == pytest.approx(high)  # the band ends where the scale does
    assert five == pytest.approx(low + 0.9 * (high - low), abs=0.1)
    assert "<script" not in svg


def test_a_course_keeps_its_gaps_and_its_order() -> None:
    course = Course([_estimate(2.0), None, _estimate(6.0), _estimate(6.0)])
    svg = course_chart("t", ["a", "b", "c", "d"], [course])
    xs, ys = _circles(svg, "cx"), _circles(svg, "cy")
    assert xs[1] - xs[0] == pytest.approx(2 * (xs[2] - xs[1]), abs=0.2)
    assert ys[0] > ys[1] == ys[2]  # higher scores stand higher
    assert svg.count("<polyline") == 1
    many = course_chart("t", [f"s{i}" for i in range(60)], [Course([_estimate(5.0)] * 60)])
    assert many.count('class="tick"') == 12


def test_pages_are_written_for_a_class_and_for_each_learner(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    results = tmp_path / "results.jsonl"
    results.write_text("".join(row.to_line() for row in _class()))
    page = tmp_path / "report.html"
    assert main(["report", str(results), "-o", str(page), "--title", "Year 7"]) == 0
    assert "Year 7" in Page(page.read_text(encoding="utf-8")).text
    folder = tmp_path / "pages"
    assert main(["report", str(results), "-o", str(folder)]) == 0
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        *("class.html", "learner-001-script-alert-1-script.html", "learner-002-ana.html"),
        *("learner-003-bea.html", "learner-004-مريم.html"),
    ]
    links = Page((folder / "class.html").read_text(encoding="utf-8")).attributes
    assert sorted(value or "" for name, value in links if name == "href") == names[1:]
    assert main(["report", str(tmp_path / "none"), "-o", str(page)]) == 2
    assert "cannot be read" in capsys.readouterr().err
