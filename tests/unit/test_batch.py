"""Many recordings: how they are named, how their rows are kept, and what goes wrong on the way."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile
from assessments import assessment, refused, write_results
from audio_samples import RATE_HZ, silence, speech
from hypothesis import given, settings
from hypothesis import strategies as st

from asa_engine.batch.journal import Journal
from asa_engine.batch.recordings import Recording, read_recordings
from asa_engine.batch.rows import Row, parse_row, read_rows
from asa_engine.cli.main import main
from asa_engine.cli.progress import Progress
from asa_engine.errors import AudioError, ManifestError, UsageError
from asa_engine.formats import to_textgrid
from asa_engine.formats.reading import assessment_from_dict

RECEIPT: dict[str, Any] = {"backend": "native", "precision": "int8"}


def _names(*inputs: Path, **options: Any) -> list[str]:
    return [recording.name for recording in read_recordings(inputs, **options)]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder "in" with recordings in it and below."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.wav", "a.FLAC", "notes.txt", ".hidden.wav", "deep/er/c.mp3", ".git/d.wav"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def test_folders_and_patterns_are_searched_in_order(tree: Path) -> None:
    inside = [os.path.join("in", name) for name in ("a.FLAC", "b.wav", "deep/er/c.mp3")]
    assert _names(Path("in")) == inside
    assert _names(Path("in/**/*.mp3"), Path("in/*.wav"), Path("gone.wav")) == [
        *(inside[2], inside[1], "gone.wav"),
    ]
    (tree / "odd[1].wav").touch()
    assert _names(Path("odd[1].wav")) == ["odd[1].wav"]  # what is there is no pattern
    (tree / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no recordings"):
        _names(Path("empty"))
    with pytest.raises(UsageError, match="nothing is like"):
        _names(Path("none*.wav"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.csv", "\ufeffAudio,Text,learner,other\nx.wav,\"Hi, you\",Ana,1\n\n y.wav ,,,\n"),
        ("m.csv", "audio;text;learner\nx.wav;Hi, you;Ana\ny.wav\n"),
        ("m.tsv", "learner\taudio\ttext\nAna\tx.wav\tHi, you\n\ty.wav\t\n"),
        (
            "m.jsonl",
            '{"audio": "x.wav", "text": "Hi, you", "speaker": "Ana", "scores": {"total": 1}}\n\n'
            '{"audio": "y.wav", "learner": null}\n',
        ),
    ],
)  # fmt: skip
def test_manifests_in_every_form(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    found = read_recordings([tmp_path / name], text="Bye")
    assert found == [
        Recording("x.wav", tmp_path / "x.wav", text="Hi, you", learner="Ana"),
        Recording("y.wav", tmp_path / "y.wav", text="Bye"),
    ]


def test_a_manifest_on_standard_input_is_told_from_a_recording(tree: Path) -> None:
    line = io.BufferedReader(io.BytesIO(b'{"audio": "in/b.wav", "date": "2026-03-31"}\n'))
    (found,) = read_recordings([Path("-")], standard_input=line)
    assert (found.name, found.date) == ("in/b.wav", "2026-03-31")
    assert found.audio.resolve() == tree / "in" / "b.wav"
    sound = io.BufferedReader(io.BytesIO(b"RIFF...."))
    assert _names(Path("-"), standard_input=sound) == ["-"]
    assert sound.read() == b"RIFF...."


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("m.csv", "file,text\nx.wav,Hi\n", "line 1: there is no column 'audio'"),
        ("m.csv", "audio,text,text\n", "line 1: a column occurs twice"),
        ("m.csv", "audio\n\nx.wav,Hi\n", "line 3: more cells than columns"),
        ("m.csv", 'audio\n"x.wav\n', "line 2: unexpected end of data"),
        ("m.csv", "audio\n", "names no recording"),
        ("m.csv", "", "there is no column 'audio'"),
        ("m.csv", "audio\n../x.wav\n", "line 2: audio '../x.wav' leads out"),
        ("m.csv", "audio\n/etc/passwd\n", "line 2: audio '/etc/passwd' leads out"),
        ("m.csv", "audio,date\nx.wav,31.3.2026\n", "line 2: date '31.3.2026' is not like"),
        ("m.csv", "audio,id\nx.wav,1\ny.wav,1\n", "line 3: id '1' occurs twice"),
        ("m.jsonl", '{"audio": "x.wav"}\n{', "line 2: not valid JSON"),
        ("m.jsonl", "[1]", "line 1: not a JSON object"),
        ("m.jsonl", '{"text": "x.wav"}', "line 1: audio is missing"),
        ("m.jsonl", '{"audio": ["x.wav"]}', "line 1: audio is not a path"),
        ("m.jsonl", '{"audio": "x.wav", "text": {}}', "line 1: text is not a text"),
        ("m.jsonl", '{"audio": "x.wav", "learner": "\\ud800"}', "learner holds half a character"),
        ("m.jsonl", "\n", "names no recording"),
        ("m.jsonl", "\udcff", "line 1: not UTF-8"),
        ("m.jsonl", '{"parts": []}', "holds sessions"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError) as caught:
        read_recordings([path])
    assert said in caught.value.message
    assert str(path) in caught.value.message


def _row(number: int) -> Row:
    recording = Recording(f"{number}.wav", Path(f"{number}.wav"), learner="Ana")
    outcomes = (assessment().to_dict(), refused().to_dict(), AudioError("bad", hint="x").to_dict())
    return Row(recording, outcomes[number % 3])


ROWS = [_row(number) for number in range(7)]
WHOLE = "".join(row.to_line() for row in ROWS).encode()


def _journal(path: Path, *, resume: bool = True, receipt: dict[str, Any] | None = None) -> Journal:
    recordings = [row.recording for row in ROWS]
    return Journal(path, recordings, receipt or RECEIPT, resume=resume)


def test_a_row_is_read_back_as_it_was() -> None:
    for row in ROWS:
        read = parse_row(row.to_line())
        assert (read.recording, read.outcome) == (row.recording, row.outcome)
        assert read.exit_code == row.exit_code
    assert assessment_from_dict(assessment().to_dict()) == assessment()
    assert isinstance(ROWS[2].error, AudioError)
    assert [row.exit_code for row in ROWS[:3]] == [0, 3, 3]


@settings(max_examples=100, deadline=None)
@given(cut=st.integers(0, len(WHOLE)))
def test_a_journal_cut_anywhere_is_gone_on_with(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "results.jsonl"
    path.write_bytes(WHOLE[:cut])
    with _journal(path) as journal:
        assert journal.done == WHOLE[:cut].count(b"\n")
        for row in ROWS[journal.done :]:
            journal.append(row)
    assert path.read_bytes() == WHOLE
    assert journal.codes == {0: 3, 3: 4}
    assert [row.recording.name for row in read_rows(path)] == [f"{i}.wav" for i in range(7)]


def test_blocks_of_zeros_after_a_power_failure_are_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for rest in (bytes(900), bytes(900) + b"\n"):
        path.write_bytes(ROWS[0].to_line().encode() + rest)
        with _journal(path) as journal:
            assert journal.done == 1
        assert path.read_text() == ROWS[0].to_line()


@pytest.mark.parametrize(
    ("text", "receipt", "said"),
    [
        ("hello\nworld\n", None, "line 1: "),
        ("a note", None, "line 1: "),
        ('{"x": 1}', None, "line 1: "),
        (ROWS[1].to_line(), None, "is of 1.wav, not of 0.wav"),
        (WHOLE.decode() + ROWS[0].to_line(), None, "only 7 recordings"),
        (ROWS[0].to_line(), {**RECEIPT, "precision": "fp32"}, "scored with another precision"),
    ],
)
def test_other_results_are_never_touched(
    tmp_path: Path, text: str, receipt: dict[str, Any] | None, said: str
) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        _journal(path, receipt=receipt)
    assert path.read_text() == text


def test_without_resume_nothing_may_be_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.jsonl"
    with _journal(path, resume=False) as journal:
        journal.append(ROWS[0])
        pytest.importorskip("fcntl")
        with pytest.raises(UsageError, match="another process"):
            _journal(path)
    with pytest.raises(UsageError, match="exists already"):
        _journal(path, resume=False)
    assert path.read_text() == ROWS[0].to_line()


class FullDisk(io.BytesIO):
    """Takes ten bytes, then no more."""

    def write(self, data: Any) -> int:
        if self.tell() >= 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(bytes(data[:10]))


def test_a_full_disk_is_one_error_and_the_rows_before_stay(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with _journal(path) as journal:
        journal.append(ROWS[0])
        whole, full = journal._file, FullDisk()
        journal._file = full
        with pytest.raises(UsageError, match=r"No space.*go on with --resume"):
            journal.append(ROWS[1])
        whole.write(full.getvalue())
        journal._file = whole
    with _journal(path) as journal:
        assert journal.done == 1
    assert path.read_text() == ROWS[0].to_line()


def test_results_that_are_none_are_named(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(ROWS[0].to_line() + '{"audio": "x.wav"}\n')
    with pytest.raises(ManifestError, match=r"line 2: not a result: 'validity'"):
        list(read_rows(path))
    path.write_text("")
    with pytest.raises(UsageError, match="holds no results"):
        list(read_rows(path))


def test_progress_tells_rate_and_time_left() -> None:
    progress = Progress(100, done=40)
    for _ in range(10):
        progress.step()
    assert progress.line(5.0) == "[##########..........] 50/100 recordings, 2.0/s, 25 s left"
    assert progress.line(500.0).endswith("0.0/s, 42 min left")
    assert progress.line(50_000.0).endswith("0.0/s, 69.4 h left")


def _run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = main([str(arg) for arg in args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three recordings: one to be scored, one silent, one that is none."""
    path = tmp_path / "answers"
    path.mkdir()
    soundfile.write(path / "a.wav", speech(2.5, seed=1), RATE_HZ)
    soundfile.write(path / "b.wav", silence(2.0), RATE_HZ)
    (path / "c.wav").write_text("no sound")
    return path


def test_a_folder_becomes_rows_and_is_gone_on_with(
    capsys: pytest.CaptureFixture[str], fake_bundle: Path, folder: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out" / "results.jsonl"
    args = ("assess", folder, "--bundle", fake_bundle, "--backend", "fake", "-o", target)
    code, out, err = _run(capsys, *args, "--resume")
    assert (code, out) == (3, "")
    assert "c.wav" in err
    assert "1 scored, 2 without a score" in err
    whole = target.read_text()
    assert ["error" in json.loads(line) for line in whole.splitlines()] == [False, False, True]
    code, _, err = _run(capsys, *args, "--resume")
    assert (code, target.read_text()) == (3, whole)
    assert "3 of 3 recordings are scored already" in err
    code, _, err = _run(capsys, *args)
    assert code == 2
    assert "--resume goes on with it" in err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("a.wav", "--resume"), "-o results.jsonl"),
        (("a.wav", "--workers", "2", "--stream"), "leave out --workers"),
        (("-", "a.wav", "--workers", "2"), "one process alone"),
        (("--session", "s.jsonl", "--workers", "2"), "leave out --workers"),
        (("a.wav", "-o", "x.csv", "--format", "textgrid"), "leave out one of them"),
        (
            ("a.wav", "--bundle", "{bundle}", "--backend", "fake", "-o", "x" * 5000 + ".csv"),
            "cannot be written",
        ),
    ],
)
def test_what_does_not_go_together_is_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    fake_bundle: Path,
    args: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    args = tuple(arg.format(bundle=fake_bundle) for arg in args)
    code, out, err = _run(capsys, "assess", *args)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not Path("x.csv").exists()


RESULTS = [
    Row(Recording("a.wav", Path("a.wav"), learner="=Ana", session="1"), assessment().to_dict()),
    Row(Recording("b.wav", Path("b.wav"), date="2026-03-31"), refused().to_dict()),
    Row(Recording("c.wav", Path("c.wav")), AudioError("bad", hint="listen").to_dict()),
]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return write_results(tmp_path / "results.jsonl", RESULTS)


def test_results_become_a_table(
    capsys: pytest.CaptureFixture[str], results: Path, tmp_path: Path
) -> None:
    target = tmp_path / "scores.csv"
    assert _run(capsys, "convert", results, "-o", target) == (0, "", "")
    rows = list(csv.DictReader(io.StringIO(target.read_text(encoding="utf-8"), newline="")))
    assert {row["learner"] for row in rows if row["audio"] == "a.wav"} == {"'=Ana"}
    assert [(row["item"], row["text"], row["date"]) for row in rows[-2:]] == [
        ("refused", "no_speech", "2026-03-31"),
        ("failed", "bad (listen)", ""),
    ]
    code, _, err = _run(capsys, "convert", results, "-o", target)
    assert code == 2
    assert "exists already" in err


def test_results_become_parquet_that_pandas_can_read(
    capsys: pytest.CaptureFixture[str], results: Path, tmp_path: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    target = tmp_path / "scores.parquet"
    assert _run(capsys, "convert", results, "-o", target)[0] == 0
    rows = parquet.read_table(target).to_pylist()
    assert [row["item"] for row in rows[-2:]] == ["refused", "failed"]
    assert rows[0]["score"] == 7.5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.jsonl", "scores.parquet"]


def test_parquet_without_its_library_says_what_to_install(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    results: Path,
    tmp_path: Path,
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, err = _run(capsys, "convert", results, "-o", tmp_path / "scores.parquet")
    assert code == 2
    assert "asa-engine[parquet]" in err


def test_results_become_a_file_for_each_recording(
    capsys: pytest.CaptureFixture[str], results: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "grids"
    assert _run(capsys, "convert", results, "--format", "textgrid", "-o", folder)[0] == 0
    assert sorted(path.name for path in folder.iterdir()) == ["a.TextGrid", "b.TextGrid"]
    assert (folder / "a.TextGrid").read_text(encoding="utf-8") == to_textgrid(assessment())


@pytest.mark.parametrize("name", ["scores.csv", "grids"])
def test_every_output_is_gone_on_with(
    capsys: pytest.CaptureFixture[str],
    fake_bundle: Path,
    folder: Path,
    tmp_path: Path,
    name: str,
) -> None:
    def target(number: int) -> list[object]:
        form = () if name.endswith(".csv") else ("--format", "json")
        return [*form, "-o", tmp_path / str(number) / name]

    args = ("assess", folder, "--bundle", fake_bundle, "--backend", "fake")
    assert _run(capsys, *args, *target(1))[0] == 3
    assert _run(capsys, *args, *target(2), "--resume")[0] == 3
    journal = tmp_path / "2" / f"{name}.jsonl"
    # As if it had been killed after the first row.
    journal.write_text(journal.read_text().splitlines(keepends=True)[0])
    (tmp_path / "3").mkdir()
    journal.rename(tmp_path / "3" / journal.name)
    assert _run(capsys, *args, *target(3), "--resume")[0] == 3
    assert _run(capsys, *args, *target(3), "--resume")[0] == 3  # all is there
    if name.endswith(".csv"):
        assert (tmp_path / "3" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()
    else:
        for path in (tmp_path / "1" / name).iterdir():
            again = json.loads((tmp_path / "3" / name / path.name).read_text())
            assert again["scores"] == json.loads(path.read_text())["scores"]
        assert len(list((tmp_path / "3" / name).iterdir())) == 2
