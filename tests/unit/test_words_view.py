"""Words and sounds on a terminal, in files, and while they are passed."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from assessments import assessment, refused
from audio_samples import RATE_HZ, speech
from hypothesis import given, settings
from hypothesis import strategies as st

import asa_engine.engine
from asa_engine.assessment import Assessment, Grade, Word
from asa_engine.audio.intake import Intake
from asa_engine.cli.live import LiveView
from asa_engine.cli.main import main
from asa_engine.cli.options import FORMAT_NAMES
from asa_engine.cli.tables import table
from asa_engine.cli.words import Paint, live_line, pace_line, word_lines
from asa_engine.formats import FORMATS, to_azure, to_csv, to_textgrid
from asa_engine.formats.table import COLUMNS
from asa_engine.profiling import StageClock
from asa_engine.stream import Stream

_ESCAPES = re.compile(r"\x1b\[\d*[mK]")


class Terminal(io.StringIO):
    """A stream that says what it is."""

    def __init__(self, tty: bool = True, encoding: str = "utf-8") -> None:
        super().__init__()
        self._tty = tty
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return self._tty


@pytest.mark.parametrize(
    ("tty", "variables", "colour"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),  # no-color.org: an empty one says nothing
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colours_are_for_terminals_that_want_them(
    monkeypatch: pytest.MonkeyPatch, tty: bool, variables: dict[str, str], colour: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    paint = Paint.of(Terminal(tty))
    assert paint.colour is colour
    assert any("\x1b" in line for line in word_lines(assessment().words, paint)) is colour


def test_a_terminal_without_ipa_gets_arpabet() -> None:
    lines = "\n".join(word_lines(assessment().words, Paint.of(Terminal(encoding="ascii"))))
    assert "B" in lines
    assert lines.isascii()


def test_the_table_names_words_errors_and_sounds_without_colour_too() -> None:
    lines = word_lines(assessment().words, Paint())
    assert lines[0].strip() == "we call -it +um !bear"
    bear = lines[-1].split("  ")
    assert [part.strip() for part in bear if part.strip()] == [
        *("bear", "1.30-1.84", "3.5", "b [ɛ>ɑ] ɹ", "mispronunciation (80% sure)"),
    ]
    omitted = next(line for line in lines if "omission" in line)
    assert not re.search(r"\d\.\d", omitted)  # no time, and no score that nobody heard


def test_colours_go_by_the_share_of_the_scale() -> None:
    lines = word_lines(assessment().words, Paint(colour=True))
    assert "\x1b[32mwe" in lines[0]
    assert "\x1b[33mcall" in lines[0]
    assert "\x1b[31m!bear" in lines[0]
    assert "\x1b[31m[ɛ>ɑ]\x1b[0m" in lines[-1]
    plain = [_ESCAPES.sub("", line) for line in lines]
    assert [line.rstrip() for line in plain] == word_lines(assessment().words, Paint())


def test_words_that_were_only_recognised_are_no_table() -> None:
    assert word_lines([Word("we", 0.1, 0.2, probability=0.9)], Paint()) == []


def test_nothing_in_a_word_steers_the_terminal() -> None:
    words = [Word("a\x1b[2Jb\n", 0.0, 1.0, error="none")]
    assert "a?[2Jb?" in "\n".join(word_lines(words, Paint()))
    assert "\x1b" not in "\n".join(word_lines(words, Paint()))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.text("abc", min_size=1, max_size=9), max_size=40),
    st.lists(st.text("abc", min_size=1, max_size=9), max_size=40),
    st.integers(20, 120),
)
def test_the_live_line_fits_the_terminal(passed: list[str], ahead: list[str], width: int) -> None:
    words = [Word(text, 0.0, 1.0, error="none") for text in passed]
    line = live_line(words, ahead, Paint(colour=True, width=width))
    shown = _ESCAPES.sub("", line)
    assert len(shown) < width
    if ahead:
        assert ahead[0] in shown.split(" ")


class Reader:
    """A run that passes a word of `assessment()` with every 0.4 s."""

    def __init__(self) -> None:
        self.samples = 0
        self.asked = 0

    def push(self, samples: Any) -> None:
        self.samples += len(samples)

    def provisional(self) -> Grade | None:
        self.asked += 1
        whole = assessment()
        passed = int(self.samples / (0.4 * RATE_HZ))
        return Grade(whole.scores, words=whole.words[:passed]) if passed else None

    def finish(self) -> Grade | None:
        return Grade(assessment().scores, words=assessment().words)


def _stream(run: Reader) -> Stream:
    clock = StageClock()
    return Stream(run, clock, "pronunciation", {}, Intake(RATE_HZ, None, clock))


def _watched(out: io.StringIO, text: str | None) -> str:
    run = Reader()
    samples = speech(2.5, seed=1)
    with _stream(run) as stream:
        view = LiveView(out, text)
        for first in range(0, len(samples), RATE_HZ // 10):
            stream.feed(samples[first : first + RATE_HZ // 10])
            view.update(stream, first / RATE_HZ)
        view.close()
        chunks = len(range(0, len(samples), RATE_HZ // 10))
        assert run.asked == chunks  # scores and words cost one question
        result = stream.finish()
        assert stream.provisional_words == result.words
    return out.getvalue()


def test_words_are_coloured_as_they_are_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = _watched(Terminal(), "We call it bear.").split("\r\x1b[K")
    assert shown[1] == "\x1b[32mwe\x1b[0m \x1b[2mcall\x1b[0m \x1b[2mit\x1b[0m \x1b[2mbear\x1b[0m"
    assert _ESCAPES.sub("", shown[3]) == "we call -it bear"
    assert _ESCAPES.sub("", shown[4]) == "we call -it +um bear"  # not a word of the text
    assert _ESCAPES.sub("", shown[-1]) == "we call -it +um !bear\n"


def test_without_a_terminal_every_word_is_a_line() -> None:
    lines = _watched(Terminal(tty=False), None).splitlines()
    assert [line.split()[2] for line in lines] == ["we", "call", "-it", "+um", "!bear"]
    assert "\x1b" not in "".join(lines)


class Engine:
    """Gives a result by the name of the recording."""

    grader = "pronunciation"
    uses = ("text",)
    hears_sessions = False

    def assess(self, path: Path, **_: object) -> Assessment:
        return refused() if path.stem == "empty" else assessment()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asa_engine.engine, "load", lambda *_, **__: Engine())


def _assess(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = main(["assess", *map(str, args)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.usefixtures("fake")
def test_every_form_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert tuple(FORMATS) == FORMAT_NAMES
    for name, form in FORMATS.items():
        code, out, _ = _assess(capsys, "a.wav", "--format", name)
        assert code == 0
        assert out == form.header + form.write(assessment(), "a.wav")
    assert _assess(capsys, "a.wav", "--json")[1] == _assess(capsys, "a.wav", "--format", "json")[1]
    code, out, _ = _assess(capsys, "a.wav", "empty.wav", "--format", "csv")
    assert code == 3
    assert out.count("audio,item") == 1
    assert "empty.wav,refused" in out


@pytest.mark.usefixtures("fake")
def test_every_recording_has_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "new" / "grids"
    args = ("a.wav", "b.wav", "--format", "textgrid", "--output", folder)
    code, out, _ = _assess(capsys, *args)
    assert (code, out) == (0, "")
    assert sorted(path.name for path in folder.iterdir()) == ["a.TextGrid", "b.TextGrid"]
    _assess(capsys, "a.wav", "--format", "azure", "-o", folder)
    assert json.loads((folder / "a.azure.json").read_text("utf-8"))["NBest"]


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("a.wav", "b.wav", "--format", "textgrid"), "--output DIR"),
        (("a.wav", "--json", "--format", "csv"), "two forms"),
        (("a.wav", "--output", "x"), "--format"),
        (("--session", "s.jsonl", "--format", "csv"), "--json"),
        (("a/x.wav", "b/x.wav", "--format", "csv", "-o", "out"), "overwrite"),
        (("a.wav", "--format", "csv", "-o", "/dev/null/x"), "cannot be made"),
    ],
)
def test_what_cannot_be_written_is_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    args: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = _assess(capsys, *args)
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.usefixtures("fake")
def test_the_table_has_words(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _assess(capsys, "a.wav", "--text", "We call it bear.")
    assert code == 0
    assert "!bear" in out
    assert "\x1b" not in out  # not a terminal
    assert "total" in out


def test_a_word_is_shown_as_it_is_read_and_a_guess_is_said() -> None:
    words = [
        Word("$5", 0.0, 0.5, error="none", spoken="five"),
        Word("Blorf", 0.5, 1.0, error="none", pronunciation_confidence=0.42),
    ]
    lines = word_lines(words, Paint())
    assert lines[0].strip() == "five Blorf"
    assert lines[-1].endswith("pronunciation guessed (42% sure)")
    result = replace(assessment(), words=tuple(words))
    assert 'Word": "five' in json.dumps(to_azure(result))
    assert 'text = "five"' in to_textgrid(result)
    row = to_csv(result).splitlines()[-1].split(",")
    assert dict(zip(COLUMNS, row, strict=True))["pronunciation_confidence"] == "0.42"
    assert words[0].to_dict()["spoken"] == "five"
    assert "spoken" not in words[1].to_dict()


def test_pace_and_pauses_are_told_where_they_were_measured() -> None:
    pace = {"words_per_minute": 127.6, "pauses": 3.0, "longest_pause_s": 0.84}
    assert pace_line(pace).strip() == "128 words a minute; 3 pauses, the longest 0.8 s"
    assert pace_line({"pauses": 0.0, "longest_pause_s": 0.0}).strip() == "no pauses"
    assert pace_line({"pitch": 100.0}) == ""
    assert "128 words a minute" in table(replace(assessment(), features=pace), "a.wav")
