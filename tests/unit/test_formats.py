"""Assessments in the forms of other programs, read back by other readers."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from assessments import assessment, refused
from hypothesis import given, settings
from hypothesis import strategies as st

from asa_engine.assessment import Phone, Score, Word, schema
from asa_engine.formats import FORMATS, to_azure, to_csv, to_textgrid
from asa_engine.formats.table import COLUMNS, HEADER

Tier = tuple[str, str, list[tuple[float, float, str]]]


def read_textgrid(text: str) -> tuple[float, list[Tier]]:
    """Read a TextGrid as Praat does: it takes the values in their order and no other words."""
    values = iter(re.findall(r'"(?:[^"]|"")*"|<exists>|(?<![\w\[])-?\d+(?:\.\d+)?(?![\w\]])', text))

    def text_value() -> str:
        return next(values)[1:-1].replace('""', '"')

    assert (text_value(), text_value()) == ("ooTextFile", "TextGrid")
    start, end = float(next(values)), float(next(values))
    assert start == 0
    assert next(values) == "<exists>"
    tiers: list[Tier] = []
    for _ in range(int(next(values))):
        kind, name = text_value(), text_value()
        assert (float(next(values)), float(next(values))) == (start, end)
        items = []
        for _ in range(int(next(values))):
            first = float(next(values))
            last = float(next(values)) if kind == "IntervalTier" else first
            items.append((first, last, text_value()))
        tiers.append((kind, name, items))
    assert next(values, None) is None
    return end, tiers


def test_a_textgrid_holds_words_and_sounds_in_their_places() -> None:
    end, tiers = read_textgrid(to_textgrid(assessment()))
    assert end == 2.5
    by_name = {name: items for _, name, items in tiers}
    assert list(by_name) == [
        *("words", "phones", "ipa", "heard", "word scores", "phone scores", "errors", "omitted"),
    ]
    assert by_name["words"] == [
        (0, 0.3, ""),
        (0.3, 0.52, "we"),
        (0.52, 0.9, "call"),
        (0.9, 0.95, ""),
        (0.95, 1.2, "um"),
        (1.2, 1.3, ""),
        (1.3, 1.84, "bear"),
        (1.84, 2.5, ""),
    ]
    assert (1.42, 1.7, "AA") in by_name["heard"]
    assert (1.3, 1.84, "mispronunciation") in by_name["errors"]
    assert by_name["omitted"] == [(0.9, 0.9, "it")]


def test_a_textgrid_of_nothing_is_whole() -> None:
    _, tiers = read_textgrid(to_textgrid(refused()))
    assert [(name, items) for _, name, items in tiers] == [
        ("words", [(0, 2.5, "")]),
        ("phones", [(0, 2.5, "")]),
    ]


_TIMES = st.one_of(st.none(), st.floats(0, 3))
_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)


@st.composite
def _words(draw: st.DrawFn) -> Word:
    phones = draw(
        st.lists(st.builds(Phone, _TEXTS, start_s=_TIMES, end_s=_TIMES, heard=_TEXTS), max_size=3)
    )
    return Word(draw(_TEXTS), draw(_TIMES), draw(_TIMES), phones=tuple(phones))


@settings(max_examples=150, deadline=None)
@given(st.lists(_words(), max_size=5))
def test_any_words_make_a_whole_textgrid_and_table(words: list[Word]) -> None:
    result = replace(assessment(), words=tuple(words))
    _, tiers = read_textgrid(to_textgrid(result))
    for kind, _, items in tiers:
        if kind != "IntervalTier":
            continue
        assert items[0][0] == 0
        assert items[-1][1] == 2.5
        assert all(start < end for start, end, _ in items)
        assert all(a[1] == b[0] for a, b in itertools.pairwise(items))
    rows = list(csv.DictReader(io.StringIO(HEADER + to_csv(result, "a.wav"), newline="")))
    assert sum(row["item"] == "word" for row in rows) == len(words)
    assert not any(row["text"][:1] in "=+-@" for row in rows if row["text"])
    json.dumps(to_azure(result))


def test_a_table_has_a_line_for_each_score_word_and_sound() -> None:
    rows = list(csv.DictReader(io.StringIO(HEADER + to_csv(assessment(), "=a.wav"), newline="")))
    assert [row["item"] for row in rows] == [
        *["score"] * 5, "word", "phone", "phone", "word", "word", "word", "word", *["phone"] * 3
    ]  # fmt: skip
    assert {row["audio"] for row in rows} == {"'=a.wav"}  # no spreadsheet runs it
    assert set(rows[0]) == set(COLUMNS)
    total = next(row for row in rows if row["text"] == "total")
    assert (total["score"], total["scale_max"], total["sd"]) == ("7.25", "10.0", "0.9")
    bear, _, poor, _ = rows[-4:]
    assert (bear["error"], bear["confidence"], bear["start_s"]) == (
        "mispronunciation",
        "0.8",
        "1.3",
    )
    assert [poor[n] for n in ("word", "phone", "text", "ipa", "score", "heard")] == [
        *("5", "2", "EH1", "ɛ", "0.5", "AA"),
    ]


def test_a_refused_recording_says_so_in_every_form() -> None:
    assert "refused,,,no_speech" in to_csv(refused(), "a.wav")
    assert to_azure(refused())["RecognitionStatus"] == "NoMatch"
    assert "NBest" not in to_azure(refused())


def test_azure_has_its_names_units_and_scale() -> None:
    found = to_azure(assessment())
    assert found["RecognitionStatus"] == "Success"
    assert found["Id"] == "ab" * 16
    assert (found["Offset"], found["Duration"]) == (3_000_000, 15_400_000)
    assert found["SNR"] == 31.5
    (best,) = found["NBest"]
    assert best["Lexical"] == "we call um bear"
    assert best["PronunciationAssessment"] == {
        "AccuracyScore": 75.0,
        "FluencyScore": 80.0,
        "ProsodyScore": 60.0,
        "CompletenessScore": 90.0,
        "PronScore": 72.5,
    }
    errors = [word["PronunciationAssessment"]["ErrorType"] for word in best["Words"]]
    assert errors == ["None", "None", "Omission", "Insertion", "Mispronunciation"]
    assert "Offset" not in best["Words"][2]
    bear = best["Words"][4]
    assert (bear["Offset"], bear["Duration"]) == (13_000_000, 5_400_000)
    assert bear["PronunciationAssessment"]["AccuracyScore"] == 35.0
    assert bear["Syllables"] == [
        {
            "Syllable": "bɛɹ",
            "Offset": 13_000_000,
            "Duration": 5_400_000,
            "PronunciationAssessment": {"AccuracyScore": 73.3},  # mean of 100, 25 and 95
        }
    ]
    assert bear["Phonemes"][1] == {
        "Phoneme": "ɛ",
        "Offset": 14_200_000,
        "Duration": 2_800_000,
        "PronunciationAssessment": {
            "AccuracyScore": 25.0,
            "NBestPhonemes": [{"Phoneme": "ɑ", "Score": 100.0}],
        },
    }


def test_azure_takes_other_graders_results() -> None:
    scores = {"overall": Score(3.0, 1.0, 5.0)}
    words = (Word("hi", 0.1, 0.2, label="Good", scores={"x": Score(3.0, 1.0, 5.0)}),)
    best = to_azure(replace(assessment(), scores=scores, words=words, transcript="Hi."))["NBest"][0]
    assert best["PronunciationAssessment"] == {}  # none of its scores has a name of Azure's
    assert best["Display"] == "Hi."
    assert best["Words"][0]["PronunciationAssessment"] == {
        "AccuracyScore": 50.0,
        "ErrorType": "None",
    }


@pytest.mark.parametrize("name", FORMATS)
def test_every_form_is_lines_that_end(name: str) -> None:
    form = FORMATS[name]
    for result in (assessment(), refused()):
        written = form.write(result, "a.wav")
        assert written.endswith("\n")
        if name in ("json", "azure"):
            assert written.count("\n") == 1
            json.loads(written)


def test_the_json_form_is_the_schema_s() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    values = json.loads(FORMATS["json"].write(assessment(), "a.wav"))
    receipt = dict.fromkeys(schema()["properties"]["receipt"]["required"], "x")
    jsonschema.validate({**values, "receipt": receipt}, schema())


_CLIENT = Path(__file__).parents[1] / "node"


@pytest.mark.skipif(
    shutil.which("node") is None or not (_CLIENT / "node_modules").is_dir(),
    reason="Microsoft's client is not here: npm ci --prefix tests/node",
)
def test_microsofts_own_client_reads_it() -> None:
    done = subprocess.run(
        ["node", _CLIENT / "azure_client.js"],
        input=json.dumps(to_azure(assessment())),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
        timeout=60,
    )
    seen = json.loads(done.stdout)
    words = seen.pop("words")
    assert seen == {
        **{"accuracy": 75, "fluency": 80, "completeness": 90, "prosody": 60},
        "pronunciation": 72.5,
    }
    assert [word["error"] for word in words] == [
        *("None", "None", "Omission", "Insertion", "Mispronunciation"),
    ]
    assert words[-1]["phonemes"] == ["b", "ɛ", "ɹ"]


def test_parquet_holds_the_table_with_its_types(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    from asa_engine.formats.parquet import ParquetTable
    from asa_engine.formats.table import table_lines

    path = tmp_path / "table.parquet"
    table = ParquetTable(path)
    table.write(table_lines(assessment(), {"audio": "=a.wav", "learner": "Ana"}))
    table.write(table_lines(refused(), {"audio": "b.wav"}))
    table.close()
    read = parquet.read_table(path)
    assert read.column_names == list(COLUMNS)
    rows = read.to_pylist()
    as_csv = HEADER + to_csv(assessment(), "a.wav") + to_csv(refused(), "b.wav")
    expected = list(csv.DictReader(io.StringIO(as_csv, newline="")))
    assert len(rows) == len(expected)
    for row, line in zip(rows, expected, strict=True):
        for name, kind in COLUMNS.items():
            if name not in ("audio", "learner"):
                assert row[name] == (kind(line[name]) if line[name] else None)
    assert rows[0]["audio"] == "=a.wav"  # nothing runs it here
    assert (rows[0]["learner"], rows[-1]["learner"]) == ("Ana", None)
