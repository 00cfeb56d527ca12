"""The command line as a user meets it: exit codes, one clear line, JSON that fits the schema."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import soundfile
from audio_samples import RATE_HZ, silence, speech
from children import piped

from asa_engine.assessment import schema
from asa_engine.cli.main import COMMANDS, main


@pytest.fixture
def answer(tmp_path: Path) -> Path:
    path = tmp_path / "answer.wav"
    soundfile.write(path, speech(2.5, seed=1), RATE_HZ)
    return path


def _run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    try:
        code = main([str(arg) for arg in args])
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def _fake(fake_bundle: Path) -> tuple[str, Path, str, str]:
    return ("--bundle", fake_bundle, "--backend", "fake")


def _one_line(err: str) -> str:
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("asa-engine: ")
    assert "Traceback" not in err
    return lines[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = _run(capsys, command, "--help")
    assert code == 0
    assert f"asa-engine {command}" in out


def test_json_fits_the_shipped_schema(
    capsys: pytest.CaptureFixture[str], fake_bundle: Path, answer: Path
) -> None:
    code, out, err = _run(capsys, "assess", answer, *_fake(fake_bundle), "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    jsonschema.validate(result, schema())
    assert result["audio"] == str(answer)
    assert 0.0 <= result["scores"]["fluency"]["value"] <= 10.0


def test_streaming_prints_the_same_scores(
    capsys: pytest.CaptureFixture[str], fake_bundle: Path, answer: Path
) -> None:
    args = ("assess", answer, *_fake(fake_bundle), "--json")
    offline = json.loads(_run(capsys, *args)[1])
    streamed = json.loads(_run(capsys, *args, "--stream", "--chunk-ms", 30)[1])
    assert streamed["scores"] == offline["scores"]
    assert streamed["receipt"] == offline["receipt"]


def test_one_line_a_file_and_bad_ones_do_not_stop_the_rest(
    capsys: pytest.CaptureFixture[str], fake_bundle: Path, answer: Path, tmp_path: Path
) -> None:
    absent = tmp_path / "absent.wav"
    code, out, err = _run(capsys, "assess", answer, absent, answer, *_fake(fake_bundle))
    assert code == 3
    assert [line.split()[0] for line in out.splitlines()] == ["answer.wav", "answer.wav"]
    assert "absent.wav" in _one_line(err)
    code, out, err = _run(capsys, "assess", absent, answer, *_fake(fake_bundle), "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, rows[0]["error"], rows[0]["exit_code"]) == (3, "AudioError", 3)
    assert rows[0]["audio"] == str(absent)
    assert "scores" in rows[1]


def _bad_files(folder: Path) -> dict[str, Any]:
    good = speech(2.0, seed=2)
    paths = {
        "missing": folder / "missing.wav",
        "empty": folder / "empty.wav",
        "text": folder / "text.wav",
        "truncated": folder / "truncated.flac",
        "hours": folder / "hours.wav",
        "no samples": folder / "none.wav",
        "nan": folder / "nan.wav",
    }
    paths["empty"].touch()
    paths["text"].write_text("this is not audio, it only says so\n" * 9)
    soundfile.write(paths["truncated"], good, RATE_HZ)
    paths["truncated"].write_bytes(paths["truncated"].read_bytes()[:-9000])
    soundfile.write(paths["hours"], good, RATE_HZ, subtype="PCM_16")
    header = bytearray(paths["hours"].read_bytes())
    header[40:44] = (5 * 3600 * RATE_HZ * 2).to_bytes(4, "little")
    paths["hours"].write_bytes(header)
    soundfile.write(paths["no samples"], good[:0], RATE_HZ)
    good[4000] = np.nan
    soundfile.write(paths["nan"], good, RATE_HZ, subtype="FLOAT")
    return paths


@pytest.mark.parametrize(
    "case",
    ["missing", "empty", "text", "truncated", "hours", "no samples", "nan"],
)
def test_unreadable_audio_is_one_line_and_exit_3(
    capsys: pytest.CaptureFixture[str], fake_bundle: Path, tmp_path: Path, case: str
) -> None:
    path = _bad_files(tmp_path)[case]
    code, out, err = _run(capsys, "assess", path, *_fake(fake_bundle))
    assert (code, out) == (3, "")
    assert path.name in _one_line(err)


def test_audio_without_speech_is_still_an_assessment(
    capsys: pytest.CaptureFixture[str], fake_bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "silent.wav"
    soundfile.write(path, silence(2.0), RATE_HZ)
    code, out, _ = _run(capsys, "assess", path, *_fake(fake_bundle), "--json")
    result = json.loads(out)
    jsonschema.validate(result, schema())
    assert code == 3
    assert result["validity"]["scorable"] is False
    assert result["validity"]["reasons"] == ["silence"]
    assert result["scores"] == {}


@pytest.mark.parametrize(
    "args",
    [
        ("assess",),
        ("assess", "a.wav", "--threads", "0"),
        ("assess", "a.wav", "--threads", "many"),
        ("assess", "a.wav", "--backend", "abacus"),
        ("assess", "a.wav", "--session", "s.jsonl"),
        ("frobnicate",),
        ("assess", "examples/audio/demo.flac", "--text", ""),
        ("evaluate", "default"),
    ],
)
def test_wrong_usage_is_exit_2(capsys: pytest.CaptureFixture[str], args: tuple[str, ...]) -> None:
    code, out, err = _run(capsys, *args)
    assert code == 2
    assert out == ""
    assert "asa-engine" in err


def test_options_of_other_graders_are_refused(
    capsys: pytest.CaptureFixture[str], fake_bundle: Path, answer: Path
) -> None:
    code, _, err = _run(capsys, "assess", answer, *_fake(fake_bundle), "--text", "hello")
    assert code == 2
    assert "does not use --text" in _one_line(err)


def test_too_many_threads_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], fake_bundle: Path, answer: Path
) -> None:
    code, _, err = _run(capsys, "assess", answer, *_fake(fake_bundle), "--threads", 10_000)
    assert code == 2
    assert "between 1 and 256" in _one_line(err)


def test_an_unusable_bundle_is_exit_4(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, answer: Path
) -> None:
    code, out, err = _run(capsys, "assess", answer, "--bundle", tmp_path / "nowhere", "--json")
    assert code == 4
    assert json.loads(out)["error"] == "BundleError"
    assert "not a bundle folder" in _one_line(err)


def test_a_backend_the_bundle_lacks_is_exit_4(
    capsys: pytest.CaptureFixture[str], fake_bundle: Path, answer: Path
) -> None:
    code, _, err = _run(capsys, "assess", answer, "--bundle", fake_bundle, "--backend", "native")
    assert code == 4
    assert "it has onnxruntime/fp32" in _one_line(err)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not valid JSON"),
        ("[1]", "not a JSON object"),
        ('{"id": "b", "audio": "answer.wav"}', "'scores' is missing"),
        ('{"id": "b", "audio": "answer.wav", "scores": {"total": NaN}}', "not a finite number"),
        ('{"id": "b", "audio": "gone.wav", "scores": {"total": 1}}', "there is no recording"),
        ('{"id": "a", "audio": "answer.wav", "scores": {"total": 1}}', "occurs twice"),
        ('{"id": "b", "audio": "../x.wav", "scores": {"total": 1}}', "leads out"),
    ],
)
def test_a_bad_manifest_line_is_named(
    capsys: pytest.CaptureFixture[str],
    fake_bundle: Path,
    answer: Path,
    line: str,
    said: str,
) -> None:
    manifest = answer.parent / "data.jsonl"
    good = '{"id": "a", "audio": "answer.wav", "scores": {"total": 5, "fluency": 4}}'
    manifest.write_text(f"{good}\n\n{line}\n")
    code, _, err = _run(capsys, "evaluate", fake_bundle, "--backend", "fake", "--data", manifest)
    assert code == 2
    assert "data.jsonl, line 3" in _one_line(err)
    assert said in err


def test_evaluate_compares_with_the_experts(
    capsys: pytest.CaptureFixture[str], fake_bundle: Path, tmp_path: Path
) -> None:
    rows = []
    for seed in range(4):
        soundfile.write(tmp_path / f"{seed}.wav", speech(2.0, seed=seed) * 0.5, RATE_HZ)
        scores = {"fluency": seed, "total": 2 * seed}
        rows.append(json.dumps({"id": str(seed), "audio": f"{seed}.wav", "scores": scores}))
    (tmp_path / "data.jsonl").write_text("\n".join(rows))
    code, out, _ = _run(
        capsys,
        "evaluate",
        fake_bundle,
        "--backend",
        "fake",
        "--data",
        tmp_path / "data.jsonl",
        "--json",
    )
    found = json.loads(out)
    assert code == 0
    assert found["n"] == 4
    assert set(found["aspects"]) == {"fluency", "total"}
    assert {"pcc", "srcc", "krc", "rmse", "mae", "within_0_5", "within_1_0", "qwk"} == set(
        found["aspects"]["total"]
    )
    assert found["seconds_per_audio_hour"] > 0


def test_sessions_from_the_command_line(
    capsys: pytest.CaptureFixture[str], fake_bundle: Path, answer: Path
) -> None:
    path = answer.parent / "sessions.jsonl"
    parts = [{"part": "P1", "responses": [["answer.wav"]]}]
    path.write_text(json.dumps({"session": "one", "parts": parts}))
    code, out, _ = _run(capsys, "assess", "--session", path, *_fake(fake_bundle), "--json")
    result = json.loads(out)
    jsonschema.validate(result, schema())
    assert code == 0
    assert result["session"] == "one"
    assert result["parts"][0]["scored"] == 1


def test_doctor_and_graders_say_what_is_here(
    capsys: pytest.CaptureFixture[str], fake_bundle: Path
) -> None:
    code, out, _ = _run(capsys, "doctor", "--bundle", fake_bundle, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["backends"]["onnxruntime"]["usable"] is True
    assert "every hash agrees" in found["bundle"]
    assert found["choice"].startswith("onnxruntime/fp32")
    code, out, _ = _run(capsys, "graders")
    assert code == 0
    assert out.startswith("acoustic\n")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_names_the_commands(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    code, out, _ = _run(capsys, "completion", shell)
    assert code == 0
    assert all(command in out for command in COMMANDS)


def test_a_closed_pipe_is_no_error(fake_bundle: Path, answer: Path) -> None:
    program = "import sys; from asa_engine.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = (
        sys.executable,
        "-c",
        program,
        "assess",
        *[answer] * 20,
        "--json",
        *_fake(fake_bundle),
    )
    with piped(*map(str, command)) as (child, output, errors):
        output.readline()
        output.close()
        assert "Traceback" not in errors.read()
    assert child.wait() == 0
