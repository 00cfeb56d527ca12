"""Odd names and odd manifests: through every output, or one clear error."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from assessments import assessment
from hypothesis import given, settings
from hypothesis import strategies as st

from asa_engine.batch.recordings import read_recordings
from asa_engine.batch.rows import Row
from asa_engine.cli.main import main
from asa_engine.errors import UsageError


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Results of a recording whose name holds a byte that is no UTF-8."""
    folder = tmp_path / "answers"
    folder.mkdir()
    try:
        Path(os.fsdecode(os.fsencode(folder) + b"/\xff.wav")).touch()
    except (OSError, UnicodeError):
        pytest.skip("this file system takes Unicode alone")
    (recording,) = read_recordings([folder])
    assert recording.name.endswith("\udcff.wav")
    values = {**recording.to_dict(), "learner": "Ana", **assessment().to_dict()}
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(values) + "\n")
    assert Row(recording, assessment().to_dict()).to_line().isascii()
    return path


@pytest.mark.parametrize(
    ("command", "name", "options"),
    [
        ("convert", "scores.csv", ()),
        ("convert", "scores.parquet", ()),
        ("convert", "again.jsonl", ()),
        ("convert", "xapi.json", ("--format", "xapi", "--platform", "https://school.example")),
        ("report", "report.html", ()),
        ("report", "pages", ()),
    ],
)
def test_every_output_takes_them(
    results: Path, tmp_path: Path, command: str, name: str, options: tuple[str, ...]
) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    target = tmp_path / name
    assert main([command, str(results), "-o", str(target), *options]) == 0
    if target.suffix in (".csv", ".json"):
        assert r"\udcff.wav" in target.read_text(encoding="utf-8")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120), st.sampled_from(["m.csv", "m.tsv", "m.jsonl"]), st.booleans())
def test_any_bytes_are_a_manifest_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str, headed: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes((b"audio;text\n" if headed else b"") + data)
    try:
        found = read_recordings([path])
    except UsageError:
        return
    assert all(each.audio.resolve().is_relative_to(path.parent.resolve()) for each in found)


def test_odd_paths_are_errors_of_their_recordings(
    capsys: pytest.CaptureFixture[str], fake_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    (tmp_path / "m.jsonl").write_text('{"audio": "loop.wav"}\n')
    with_bundle = ("--bundle", str(fake_bundle), "--backend", "fake")
    for audio in ("a" * 5000, str(tmp_path / "loop.wav")):
        assert main(["assess", audio, *with_bundle]) == 3
        assert "Traceback" not in capsys.readouterr().err
    assert main(["assess", str(tmp_path / "m.jsonl"), *with_bundle]) in (2, 3)
