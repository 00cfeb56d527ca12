"""Nothing phones home: what commands say to the network and write to disk, seen by the kernel."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from acoustic_samples import CLASSES_SECTION, GRADER_SECTIONS
from traced import clean_environment, talks, under_strace, writes

import asa_engine

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "audio" / "demo.flac"
TIME_LIMIT_S = 300.0  # a hang fails; nothing is measured
Run = Callable[..., str]
RECIPE = """
threads = 1
[data]
manifest = "train.jsonl"
[[phase]]
name = "all"
epochs = 1
batch_size = 4
encoder_lr = 1e-3
[kernel]
blend = 0.4
width = 6
folds = 2
gammas = [0.5]
"""
RECIPE += GRADER_SECTIONS + 'aspects = [{ name = "total" }]\n'
TEXT_RECIPE = """
grader = "text"
ship = "plain"
[data]
manifest = "train.jsonl"
transcripts = "heard.jsonl"
[encoder]
source = "bert"
tuned_layers = 1
max_pieces = 16
[fit]
epochs = 1
batch_size = 8
[[objective]]
name = "plain"
kind = "focal"
"""
TEXT_RECIPE += CLASSES_SECTION


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty folder to work in, beside an empty home."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def run(tmp_path: Path, place: Path) -> Run:
    """Run `python ARGUMENTS` traced; fail if it talks, or writes where it has no business."""

    def run(*arguments: str) -> str:
        trace, home = tmp_path / "trace", tmp_path / "home"
        done = subprocess.run(
            under_strace(trace, list(arguments)),
            cwd=place,
            env=clean_environment(home),
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT_S,
        )
        assert done.returncode == 0, done.stderr
        assert talks(trace, loopback=False) == []
        _only_its_own_files(trace, place, home)
        return done.stdout

    return run


def _only_its_own_files(trace: Path, place: Path, home: Path) -> None:
    """Written: what was asked for, the engine's cache, temporary files that are gone by now."""
    assert writes(trace, place, [place, home / ".cache" / "asa-engine", home / "tmp"]) == []
    assert [path for path in (home / "tmp").rglob("*") if path.is_file()] == []


@pytest.fixture
def corpus_of_noise(place: Path) -> Path:
    """Recordings of noise with scores and transcripts, a speaker each."""
    rng = np.random.default_rng(3)
    rows, heard = [], []
    for index in range(24):
        samples = rng.normal(0, 0.05, 16_000).astype(np.float32)
        soundfile.write(place / f"u{index}.wav", samples, 16_000)
        score = float(3 + index % 6)
        rows.append(
            {
                "id": f"u{index}",
                "audio": f"u{index}.wav",
                "speaker": f"{index + 1:04d}",
                "duration": 1.0,
                "scores": {"total": score},
                "raters": {"total": [score, score]},
                "words": [{"accuracy": score, "phones": [{"phone": "T", "accuracy": 1.0}]}],
            }
        )
        heard.append({"id": f"u{index}", "text": "the cat" if index % 6 < 3 else "the dog ran"})
    (place / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "heard.jsonl").write_text("".join(json.dumps(row) + "\n" for row in heard))
    return place


@pytest.mark.parametrize("backend", ["native", "onnxruntime"])
def test_assess(run: Run, backend: str) -> None:
    printed = run("-m", "asa_engine", "assess", str(DEMO), "--json", "--backend", backend)
    assert json.loads(printed)["validity"]["scorable"]


def test_assess_by_a_language_model(run: Run) -> None:
    bundle = ROOT / "tests" / "data" / "bundles" / "speech-llm"
    printed = run("-m", "asa_engine", "assess", str(DEMO), "--json", "--bundle", str(bundle))
    assert json.loads(printed)["scores"]


def test_train_and_export(run: Run, corpus_of_noise: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra 'train'")
    pytest.importorskip("onnx", reason="needs the extra 'export'")
    (corpus_of_noise / "recipe.toml").write_text(RECIPE)
    run("-m", "asa_engine", "train", "recipe.toml", "-o", "trained")
    run("-m", "asa_engine", "export", "trained", "-o", "bundle")
    assert (corpus_of_noise / "bundle" / "asa.json").is_file()


def test_train_with_transformers(run: Run, corpus_of_noise: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra 'llm'")
    from text_samples import make_bert

    make_bert(corpus_of_noise / "bert")
    (corpus_of_noise / "recipe.toml").write_text(TEXT_RECIPE)
    run("-m", "asa_engine", "train", "recipe.toml", "-o", "trained")
    assert (corpus_of_noise / "trained" / "training.json").is_file()


def test_serve_stays_on_the_loopback(tmp_path: Path, place: Path) -> None:
    pytest.importorskip("uvicorn", reason="needs the extra 'server'")
    trace, home = tmp_path / "trace", tmp_path / "home"
    arguments = ["-m", "asa_engine", "serve", "--port", "0", "--workers", "1"]
    with subprocess.Popen(
        under_strace(trace, arguments),
        cwd=place,
        env=clean_environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            port = next(int(m[1]) for x in process.stdout if (m := re.search(r":(\d+)\b", x)))
            peer = http.client.HTTPConnection("127.0.0.1", port, timeout=TIME_LIMIT_S)
            peer.request("POST", "/v1/assess", body=DEMO.read_bytes())
            answer = json.load(peer.getresponse())
            peer.close()
        finally:
            os.killpg(process.pid, signal.SIGTERM)
        process.stdout.read()
    assert answer["validity"]["scorable"]
    assert talks(trace, loopback=False), "the server's own socket is not seen"
    assert talks(trace, loopback=True) == []
    _only_its_own_files(trace, place, home)


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.socket(socket.AF_INET)",
        "import socket; socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "try: s.connect(('192.0.2.1', 53))\nexcept OSError: pass",
    ],
)
def test_a_talker_is_seen(tmp_path: Path, code: str) -> None:
    trace = tmp_path / "trace"
    subprocess.run(under_strace(trace, ["-c", code]), env=clean_environment(tmp_path), check=True)
    assert talks(trace, loopback=False)
    assert bool(talks(trace, loopback=True)) == ("connect" in code)


def test_a_writer_is_seen(tmp_path: Path, place: Path) -> None:
    trace, home = tmp_path / "trace", tmp_path / "home"
    code = (
        "import os, pathlib\npathlib.Path.home().joinpath('.cache', 'other').mkdir(parents=True)\n"
        "os.chdir(pathlib.Path.home() / '.cache')\nopen('deviceid', 'w')\n"
        "os.open('relative', os.O_CREAT | os.O_WRONLY, dir_fd=os.open('other', os.O_RDONLY))\n"
        "pathlib.Path('asa-engine').absolute().mkdir()\nopen('asa-engine/mine', 'w')"
    )
    subprocess.run(under_strace(trace, ["-c", code]), env=clean_environment(home), check=True)
    found = writes(trace, place, [place, home / ".cache" / "asa-engine"])
    assert [re.search(r'"([^"]+)"', line)[1] for line in found][-3:] == [  # type: ignore[index]
        str(home / ".cache" / "other"),
        "deviceid",
        "relative",
    ]


def test_telemetry_is_off_before_dependencies_are_imported() -> None:
    code = (
        "import sys, os, asa_engine, asa_export\n"
        "assert not {'onnxruntime', 'huggingface_hub', 'transformers'} & set(sys.modules)\n"
        "import huggingface_hub.constants as hub\nassert hub.HF_HUB_DISABLE_TELEMETRY\n"
        "assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'\n"
        "assert os.environ['RAY_USAGE_STATS_ENABLED'] == '0'"
    )
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "0", "HF_HUB_DISABLE_TELEMETRY": "0"}
    environment["RAY_USAGE_STATS_ENABLED"] = "1"
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1", asa_engine.__name__
