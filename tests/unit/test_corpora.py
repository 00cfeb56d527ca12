"""Corpora's layouts, read from small trees of the right shape."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asa_engine.cli.main import main
from asa_engine.corpora import LAYOUTS, read_corpus, write_manifests
from asa_engine.errors import ManifestError, UsageError
from asa_engine.evaluation.manifest import read_manifest
from asa_engine.evaluation.sessions import read_sessions


def _record(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(160), 16_000)


@pytest.fixture
def speak_improve(tmp_path: Path) -> Path:
    folder = tmp_path / "sandi"
    marks: dict[str, list[str]] = {name: [] for name in ("P1", "P3", "P4", "P5")}
    for number, submission in enumerate(("SI114J-00043", "SI114J-00044")):
        for part, count in (("P1", 6), ("P3", 1), ("P4", 1), ("P5", 5)):
            for i in range(1, count + 1):
                name = f"{submission}-{part}{i:04d}.flac"
                _record(folder / "data" / "flac" / "dev" / submission[-2:] / name)
            marks[part].append(f"{submission}-{part}0001\t{2 + number + int(part[1]) / 2}")
    _record(folder / "data" / "flac" / "dev" / "SI114J-00044-P20001.flac")
    _record(folder / "data" / "flac" / "dev" / "notes.flac")
    for part, lines in marks.items():
        path = folder / "marks" / f"dev.{part}.tsv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(["fileID\tscore", *lines, ""]))
    return folder


def test_speak_improve_gives_recordings_and_sessions(speak_improve: Path) -> None:
    found = read_corpus("speak-improve", speak_improve, "dev")
    assert len(found.recordings) == 26
    assert len(found.left_out) == 2
    first = found.recordings[0]
    assert first.id == "SI114J-00043-P10001"
    assert first.fields["scores"] == {"part": 2.5}
    assert first.fields["speaker"] == "SI114J-00043"
    session = found.sessions[1]
    assert {part: len(audio) for part, audio in session.parts.items()} == {
        "P1": 6,
        "P3": 1,
        "P4": 1,
        "P5": 5,
    }
    expected = {"P1": 3.5, "P3": 4.5, "P4": 5.0, "P5": 5.5, "overall": 4.625}
    assert session.scores == expected
    manifest, sessions = speak_improve / "dev.jsonl", speak_improve / "sessions.jsonl"
    write_manifests(found, manifest, sessions)
    assert len(read_manifest(manifest)) == 26
    read = read_sessions(sessions)
    assert [part.name for part in read[0].parts] == ["P1", "P3", "P4", "P5"]
    assert all(r[0].is_file() for part in read[1].parts for r in part.responses)
    with pytest.raises(ManifestError, match="in the split train"):
        read_corpus("speak-improve", speak_improve, "train")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("SI114J-00043-P10001\t5", "another mark already for P1"),
        ("SI114J-00043-P10002\tfive", "'five' is not a number"),
        ("SI114J-00045-P10002\tnan", "'nan' is not a number"),
        ("SI114J-00045-P10002", "not fileID<TAB>score"),
    ],
)
def test_speak_improve_names_the_line_of_a_bad_mark(
    speak_improve: Path, line: str, message: str
) -> None:
    path = speak_improve / "marks" / "dev.P1.tsv"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ManifestError, match=rf"dev\.P1\.tsv, line 4: .*{message}"):
        read_corpus("speak-improve", speak_improve)


def test_icnale_reads_the_band_from_the_name(tmp_path: Path) -> None:
    for name in (
        "JPN/SM_JPN_PTJ1_001_A2_0.wav",
        "JPN/SM_JPN_SMK2_001_A2_0.wav",
        "CHN/SM_CHN_PTJ1_012_B1_2.wav",
        "ENS/SM_ENS_PTJ2_003_XX_1.wav",
        "ENS/again/SM_ENS_PTJ2_003_XX_1.wav",
        "CHN/readme.wav",
    ):
        _record(tmp_path / name)
    (tmp_path / "JPN" / "SM_JPN_PTJ1_001_A2_0.txt").write_text("\ufeffI have\n a job.\n")
    found = read_corpus("icnale", tmp_path)
    bands = {r.id: r.fields["scores"]["band"] for r in found.recordings}
    assert bands == {
        "SM_CHN_PTJ1_012_B1_2": 3,
        "SM_ENS_PTJ2_003_XX_1": 5,
        "SM_JPN_PTJ1_001_A2_0": 1,
        "SM_JPN_SMK2_001_A2_0": 1,
    }
    assert len(found.left_out) == 2
    told = {r.id: r.fields for r in found.recordings}["SM_JPN_PTJ1_001_A2_0"]
    assert (told["speaker"], told["level"], told["transcript"]) == (
        "JPN-001",
        "A2_0",
        "I have a job.",
    )
    assert [r.id[3:6] for r in read_corpus("icnale", tmp_path, "JPN").recordings] == ["JPN"] * 2
    write_manifests(found, tmp_path / "all.jsonl")
    assert len(read_manifest(tmp_path / "all.jsonl")) == 4
    with pytest.raises(UsageError, match="no sessions"):
        write_manifests(found, tmp_path / "all.jsonl", tmp_path / "sessions.jsonl")


TABLE = """\
text_id,spk_id,wav_path,Transcript,prompt,content,delivery,language_use,holistic
u1,s1,u1.wav,"well, I like it",A01,Pre-A1,A1,A1+,1.5
u2,s2,,so do I,A01,B2,B1+,,B1
u3,s3,gone.wav,nothing,A01,A1,A1,A1,A1
u4,s4,u4.wav,nothing,A01,,,,
"""


def test_teemi_reads_grades_by_name_or_number(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(TABLE)
    for name in ("u1.wav", "audio/u2.wav", "u4.wav"):
        _record(tmp_path / name)
    found = read_corpus("teemi", tmp_path, "train")
    assert [dict(r.fields) for r in found.recordings] == [
        {
            "scores": {"content": 1.0, "delivery": 1.5, "language_use": 2.0, "holistic": 1.5},
            "speaker": "s1",
            "prompt": "A01",
            "transcript": "well, I like it",
            "split": "train",
        },
        {
            "scores": {"content": 4.5, "delivery": 4.0, "holistic": 3.5},
            "speaker": "s2",
            "prompt": "A01",
            "transcript": "so do I",
            "split": "train",
        },
    ]
    assert found.left_out == ["u3: no recording", "u4: no grade"]
    assert read_corpus("teemi", tmp_path / "train.csv") == found
    write_manifests(found, tmp_path / "train.jsonl")
    assert read_manifest(tmp_path / "train.jsonl")[1].scores["content"] == 4.5


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("name,grade\nu1,A1\n", "names no id or no grade"),
        ("id,text\nu1,hello\n", "names no id or no grade"),
        ("id,holistic\nu1,C9\n", "line 2: 'C9' is not a number"),
        ("id,holistic\nu1,A1\nu1,A1\n", "line 3: id 'u1' is empty or occurs twice"),
        ('id,holistic\n"u1,A1\n', "not CSV"),
        ("", "names no id"),
    ],
)
def test_teemi_names_what_is_wrong(tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "train.csv").write_text(table)
    with pytest.raises(ManifestError, match=message):
        read_corpus("teemi", tmp_path)


@pytest.fixture
def speechocean(tmp_path: Path) -> Path:
    words = [
        {
            "text": "WE",
            "accuracy": 10,
            "stress": 10,
            "total": 10,
            "phones": ["W", "IY0"],
            "phones-accuracy": [2.0, 1.8],
        }
    ]
    entry = {"accuracy": 8, "completeness": 10, "fluency": 9, "prosodic": 9, "total": 8}
    scores = {key: {"text": "WE", "words": words, **entry} for key in ("000010011", "000020012")}
    (tmp_path / "resource").mkdir()
    (tmp_path / "resource" / "scores.json").write_text(json.dumps(scores))
    for split, key in (("train", "000010011"), ("test", "000020012")):
        path = f"WAVE/SPEAKER{key[:4]}/{key}.WAV"
        _record(tmp_path / path)
        tables = {
            "wav.scp": f"{key}\t{path}\n{key[:-1]}9\tWAVE/gone.WAV\n",
            "utt2spk": f"{key} {key[:4]}\n",
            "spk2age": f"{key[:4]} 6\n",
            "spk2gender": f"{key[:4]} m\n",
        }
        (tmp_path / split).mkdir()
        for name, content in tables.items():
            (tmp_path / split / name).write_text(content)
    return tmp_path


def test_speechocean762_reads_like_its_manifest(speechocean: Path) -> None:
    output = speechocean / "all.jsonl"
    assert main(["corpus", "speechocean762", str(speechocean), "-o", str(output)]) == 0
    first, second = read_manifest(output)
    assert (first.id, second.id) == ("000010011", "000020012")
    assert first.scores == {"accuracy": 8, "fluency": 9, "prosodic": 9, "total": 8}
    assert (first.speaker, first.age, first.gender, first.text) == ("0000", 6, "m", "WE")
    phones = [{"phone": "W", "accuracy": 2.0}, {"phone": "IY0", "accuracy": 1.8}]
    assert first.extra["words"][0]["phones"] == phones
    assert len(read_corpus("speechocean762", speechocean, "test").recordings) == 1


def test_speechocean762_names_what_is_wrong(speechocean: Path) -> None:
    path = speechocean / "resource" / "scores.json"
    scores = json.loads(path.read_text())
    scores["000010011"]["total"] = None
    path.write_text(json.dumps(scores))
    with pytest.raises(ManifestError, match="000010011, total: None is not a number"):
        read_corpus("speechocean762", speechocean)
    path.write_text("{")
    with pytest.raises(ManifestError, match="not valid JSON"):
        read_corpus("speechocean762", speechocean)
    path.unlink()
    with pytest.raises(ManifestError, match="cannot be read"):
        read_corpus("speechocean762", speechocean)


@pytest.mark.parametrize("layout", ["speak-improve", "icnale", "teemi"])
def test_an_empty_folder_holds_nothing(layout: str, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="holds no scored recording"):
        read_corpus(layout, tmp_path)


def test_command_counts_and_refuses(
    speak_improve: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = str(speak_improve), str(speak_improve / "m.jsonl")
    assert main(["corpus", "speak-improve", folder, "-o", output, "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert (counts["recordings"], counts["sessions"], counts["left_out"]) == (26, 2, 2)
    elsewhere = str(speak_improve.parent / "elsewhere" / "m.jsonl")
    assert main(["corpus", "speak-improve", folder, "-o", elsewhere]) == 2
    assert "lies outside the folder" in capsys.readouterr().err
    assert main(["corpus", "icnale", folder + "-none", "-o", output]) == 2
    with pytest.raises(UsageError, match="no layout 'librispeech'"):
        read_corpus("librispeech", speak_improve)
    assert set(LAYOUTS) == {"speechocean762", "speak-improve", "icnale", "teemi"}
