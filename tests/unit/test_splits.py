"""Who is held out: by manifests, by `split`, by number, by hash; and what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from asa_engine.errors import ManifestError, UsageError
from asa_engine.evaluation.manifest import Utterance
from asa_engine.evaluation.sessions import Part, Session
from asa_engine.evaluation.splits import read_session_sides, read_sides, session_split
from asa_engine.training.targets import check_targets, target_of


def _row(name: str, speaker: str = "", split: str = "", **more: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"id": name, "audio": "a.wav", "scores": {"total": 5.0}, **more}
    return row | ({"speaker": speaker} if speaker else {}) | ({"split": split} if split else {})


def _write(path: Path, *rows: dict[str, Any]) -> Path:
    (path.parent / "a.wav").write_bytes(b"-")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _ids(side: list[Utterance]) -> list[str]:
    return [utterance.id for utterance in side]


def test_a_hash_holds_out_speakers_of_any_name(tmp_path: Path) -> None:
    names = [f"JPN-{number:03}" for number in range(60)]
    path = _write(tmp_path / "all.jsonl", *(_row(f"u-{name}", name) for name in names))
    sides = read_sides(path)
    # What the documentation says, computed another way.
    held = [n for n in names if int(hashlib.sha256(n.encode()).hexdigest(), 16) % 5 == 0]
    assert 3 < len(held) < 25
    assert _ids(sides.dev) == [f"u-{name}" for name in held]
    assert len(sides.train) == 60 - len(held)
    assert sides.rule == "hash"
    assert _ids(sides.all) == _ids(sides.train) + _ids(sides.dev)


def test_numbers_split_as_they_did(tmp_path: Path) -> None:
    path = _write(tmp_path / "all.jsonl", *(_row(f"u{i}", f"{i:04}") for i in range(1, 11)))
    sides = read_sides(path)
    assert (_ids(sides.dev), sides.rule) == (["u5", "u10"], "numbers")


def test_a_split_field_is_what_it_says(tmp_path: Path) -> None:
    rows = [_row("a", "x", "train"), _row("b", "5", "dev"), _row("c", "z", "test")]
    sides = read_sides(_write(tmp_path / "all.jsonl", *rows))
    assert (_ids(sides.train), _ids(sides.dev), sides.rule) == (["a"], ["b"], "split")
    # Where no line is of `dev`, the rule chooses among all that is not for testing.
    rows = [_row(f"u{i}", str(i), "train") for i in range(1, 6)] + [_row("t", "10", "test")]
    sides = read_sides(_write(tmp_path / "some.jsonl", *rows))
    assert (_ids(sides.dev), sides.rule) == (["u5"], "numbers")
    path = _write(tmp_path / "bare.jsonl", _row("a", "x", "dev"), _row("b", "y"))
    with pytest.raises(ManifestError, match="'b' has no split, others have one"):
        read_sides(path)


def test_manifests_and_folders_hold_out_what_they_hold(tmp_path: Path) -> None:
    train = _write(tmp_path / "train.jsonl", _row("a", "5"), _row("t", "9", "test"))
    dev = _write(tmp_path / "held.jsonl", _row("b", "6"))
    sides = read_sides(train, dev)
    assert (_ids(sides.train), _ids(sides.dev), sides.rule) == (["a"], ["b"], "manifests")
    dev.rename(tmp_path / "dev.jsonl")
    assert read_sides(tmp_path) == sides


@pytest.mark.parametrize(
    ("train", "dev", "message"),
    [
        (_row("a", "x"), _row("b", "x"), "'x' is on the train and on the dev side"),
        (_row("a", "x"), _row("a", "y"), "the recording 'a' is in"),
        (_row("a", "x", "test"), _row("b", "y"), "no train speaker"),
    ],
)
def test_dev_speakers_in_train_are_refused(
    tmp_path: Path, train: dict[str, Any], dev: dict[str, Any], message: str
) -> None:
    paths = (_write(tmp_path / "t.jsonl", train), _write(tmp_path / "d.jsonl", dev))
    with pytest.raises(ManifestError, match=message):
        read_sides(*paths)


def test_a_speaker_on_both_sides_of_a_split_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "all.jsonl", _row("a", "x", "train"), _row("b", "x", "dev"))
    with pytest.raises(ManifestError, match="'x' is on the train and on the dev side"):
        read_sides(path)
    path = _write(tmp_path / "none.jsonl", _row("a"), _row("b"))
    with pytest.raises(ManifestError, match="'a' has no speaker, so that none can be held out"):
        read_sides(path)
    path = _write(tmp_path / "one.jsonl", _row("a", "1"))
    with pytest.raises(ManifestError, match="has no dev speaker"):
        read_sides(path)


def test_sessions_are_held_out_likewise(tmp_path: Path) -> None:
    parts = (Part("P1", ((Path("a.wav"),),)),)
    numbered = [Session(str(i), parts) for i in range(1, 6)]
    assert [s.name for s in session_split(numbered)[1]] == ["5"]
    named = [Session(f"s{i}", parts, speaker=str(i)) for i in range(1, 6)]
    assert [s.name for s in session_split(named)[1]] == ["s5"]
    rows = [
        {"session": name, "parts": [{"part": "P1", "responses": [["a.wav"]]}], "split": split}
        for name, split in (("SI-1", "train"), ("SI-2", "dev"))
    ]
    path = _write(tmp_path / "sessions.jsonl", *rows)
    train, dev = read_session_sides(path)
    assert ([s.name for s in train], [s.name for s in dev]) == (["SI-1"], ["SI-2"])
    path.rename(tmp_path / "train-sessions.jsonl")
    _write(tmp_path / "dev-sessions.jsonl", rows[0])
    with pytest.raises(ManifestError, match="'SI-1' is on the train and on the dev side"):
        read_session_sides(tmp_path)


def _utterance(scores: object) -> Utterance:
    return Utterance("u", Path("a"), {"total": 4.0}, extra={"raters": {"total": scores}})


@pytest.mark.parametrize(
    ("scores", "mean", "median", "majority"),
    [
        ([2.0, 3.0, 3.0, 9.0, 10.0], 5.4, 3.0, 3.0),
        ([1.0, 2.0, 9.0], 4.0, 2.0, 2.0),  # all as often: the nearest to the mean
        ([4.0, 6.0], 5.0, 5.0, 4.0),  # as near: the lower
    ],
)
def test_what_raters_agree_on_has_a_name(
    scores: list[float], mean: float, median: float, majority: float
) -> None:
    utterance = _utterance(scores)
    assert target_of(utterance, "total", "raters") == pytest.approx(mean, abs=1e-12)
    assert target_of(utterance, "total", "raters_median") == median
    assert target_of(utterance, "total", "raters_majority") == majority
    assert target_of(utterance, "total", "medians") == 4.0


@pytest.mark.parametrize("scores", [None, [], ["7"], [True], 3.0 + 1j])
def test_raters_that_are_none_are_refused(scores: object) -> None:
    with pytest.raises(ManifestError, match="u lacks raters for total"):
        target_of(_utterance(scores), "total", "raters")
    with pytest.raises(UsageError, match="targets is 'best'"):
        check_targets("x.toml", "best")
