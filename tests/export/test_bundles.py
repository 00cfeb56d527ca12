"""`make bundles`: what is made, what is left as it is, and what is said meanwhile."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from export_samples import make_checkpoint

from asa_engine.bundle import Bundle
from asa_engine.errors import DriftError, UsageError
from asa_export import bundles, progress
from asa_export.bundles import Job, jobs, main
from asa_export.exporter import LOG, export, exporter_of

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        make_checkpoint(tmp_path / "models" / name)
    return tmp_path / "models"


def job(name: str, *precisions: str, manifest: Path | None = None) -> Job:
    """Return what is to be made of a shipped checkpoint."""
    (found,) = jobs(MODELS, Path("out"), manifest, only=[name], precisions=precisions)
    return found


def test_a_bundle_holds_the_preferred_variant_unless_more_are_asked_for() -> None:
    assert job("s3-speech-llm").variants == (("native", "int8"),)
    assert job("s3-units").variants == (("onnxruntime", "int8"),)
    assert job("s3-speech-llm", "fp32", "int8").variants == (
        ("native", "fp32"),
        ("native", "int8"),
        ("onnxruntime", "fp32"),
        ("onnxruntime", "int8"),
    )
    assert {precision for _, precision in job("s3-speech-llm", "all").variants} == {
        "fp32",
        "int8",
        "int4",
    }
    assert job("s5-multi-granular").variants == (("onnxruntime", "fp32"),)
    for path in MODELS.iterdir():
        assert len(job(path.name).variants) == 1


def test_what_the_budget_refuses_is_left_out_for_the_next(
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tried = []

    def refusing(checkpoint: Path, bundle: Path, variants: Any, *given: Any, **how: Any) -> Any:
        tried.append(variants)
        if variants[0][1] == "int8":
            raise DriftError("int8 moves scores too far")
        return export(checkpoint, bundle, variants, *given, **how)

    exporter = replace(exporter_of("acoustic"), preferred=(("native", "int8"), ("native", "fp32")))
    monkeypatch.setattr(bundles, "exporter_of", lambda grader: exporter)
    monkeypatch.setattr(bundles, "export", refusing)
    out = tmp_path / "bundles"
    assert main([str(models), str(out), "--only", "a"]) == 0
    assert tried == [(("native", "int8"),), (("native", "fp32"),)]
    assert "int8 moves scores too far: left out" in "".join(capsys.readouterr())
    assert ("native", "int8") not in Bundle.open(out / "a").variants()
    assert main([str(models), str(out), "--only", "b", "--precision", "int8"]) == 5


def test_backbones_are_those_that_the_checkpoint_names() -> None:
    assert job("s1-text").backbones() == ["whisper-tiny.en", "minilm-l6"]
    assert job("s4-session").backbones() == ["whisper-tiny.en", "smollm2-135m"]


def test_a_name_or_a_precision_that_is_not_there_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(UsageError, match="has no 's9'"):
        job("s9")
    with pytest.raises(UsageError, match="no target can have precision 'int3'"):
        job("s1-text", "int3")
    assert main([str(MODELS), "out", "--only", "s9"]) == 2
    assert "one of s1-text" in capsys.readouterr().err


def test_sessions_are_judged_on_the_manifest_beside_it(tmp_path: Path) -> None:
    manifest = tmp_path / "train.jsonl"
    manifest.touch()
    assert job("s4-session", manifest=manifest).manifest is None
    (tmp_path / "train-sessions.jsonl").touch()
    assert job("s4-session", manifest=manifest).manifest == tmp_path / "train-sessions.jsonl"
    assert job("s1-text", manifest=manifest).manifest == manifest


def test_a_grader_that_needs_text_is_left_out_where_there_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models" / "s5").mkdir(parents=True)
    (tmp_path / "models" / "s5" / "config.json").write_text('{"grader": "multi_granular"}')
    assert main([str(tmp_path / "models"), str(tmp_path / "out")]) == 0
    assert "s5 is left out: it needs a manifest with text" in capsys.readouterr().out


def test_a_stopped_run_goes_on_where_it_was(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    damaged = models / "b" / "weights.safetensors"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1])
    assert main([str(models), str(out)]) == 4
    said = capsys.readouterr().out
    assert "1/2 a: judge on 12 recordings" in said
    assert f"{out / 'a'}: 0 MB, made in " in said
    assert not (out / "b").exists()
    first = (out / "a" / "asa.json").stat().st_mtime_ns

    damaged.write_bytes(whole)
    assert main([str(models), str(out)]) == 0
    said = capsys.readouterr().out
    assert f"{out / 'a'} is made already" in said
    assert "1/1 b: judge on 12 recordings" in said
    assert (out / "a" / "asa.json").stat().st_mtime_ns == first
    assert Bundle.open(out / "b").auto == (("native", "int8"),)


def test_what_is_damaged_or_of_something_else_is_made_anew(models: Path, tmp_path: Path) -> None:
    def waiting(*precisions: str) -> list[str]:
        found = jobs(models, tmp_path / "out", None, precisions=precisions)
        return [job.name for job in found if not job.is_made()]

    assert main([str(models), str(tmp_path / "out")]) == 0
    assert waiting() == []
    assert waiting("fp32") == ["a", "b"]
    config = models / "a" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()), indent=3))
    assert waiting() == ["a"]
    (tmp_path / "out" / "b" / "config.json").write_text("{}")
    assert waiting() == ["a", "b"]


def test_what_is_left_is_told_by_what_the_last_run_took(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.Progress(LOG, {"a": 30.0, "b": 60.0, "c": None}) as shown:
        LOG.setLevel(logging.INFO)
        assert shown.left_s() == 30 + 60 + 45  # c as the others on average
        shown.begin("a")
        now[0] += 20
        assert shown.left_s() == 10 + 60 + 45
        now[0] += 40  # twice as long as the last time
        assert shown.left_s() == 60 + 45
        shown.begin("b")
        now[0] += 5
        LOG.info("judge")
        assert list(shown.count(range(8))) == list(range(8))
        for index, _ in enumerate(shown.count(range(4))):
            now[0] += 400
            if index == 3:  # two of four took 800 s, the third 400 s
                assert shown.left_s() == 400 + 90
        assert shown.left_s() == 90
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[1:05 gone, about 3:25 left] 2/3 b: judge"
    assert [line.split("b: ")[1] for line in lines[1:]] == [
        f"judge: {count} done" for count in (2, 4, 6, 1, 2, 3)
    ]
