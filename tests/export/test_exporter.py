"""Export end to end: a bundle that scores as its checkpoint does, or nothing at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

import asa_engine as asa
from asa_engine.bundle import Bundle
from asa_engine.cli.main import main
from asa_engine.errors import BundleError, CheckpointError, DriftError, UsageError
from asa_engine.graders.acoustic.model import AcousticGrader
from asa_export import onnx as graphs
from asa_export.exporter import ExportReport, export, plan
from asa_export.speech import Speech, synthetic_recordings, synthetic_speech

BOTH = (("onnxruntime", "fp32"), ("onnxruntime", "int8"))


def short_speech() -> Speech:
    return Speech("short", synthetic_recordings(seed=1)[:4], synthetic_recordings()[:3])


def make(checkpoint: Path, target: Path, **options: Any) -> ExportReport:
    return export(checkpoint, target, options.pop("variants", BOTH), short_speech(), **options)


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "tiny"
    make(checkpoint, folder)
    return folder


def test_the_bundle_scores_as_the_checkpoint_does(checkpoint: Path, bundle: Path) -> None:
    reference = AcousticGrader.load(checkpoint)
    fp32 = asa.load(bundle, backend="onnxruntime", precision="fp32", threads=1)
    int8 = asa.load(bundle, backend="onnxruntime", precision="int8", threads=1)
    for recording in synthetic_recordings(seed=5)[:3]:
        samples = recording.samples()
        closed = samples[: len(samples) // 16_000 * 16_000]  # whole windows, final when fed
        expected = reference.assess_samples(closed).scores
        for engine, tolerance in ((fp32, 1e-4), (int8, 0.2)):
            with engine.stream() as stream:
                stream.feed(samples)
                scores = stream.provisional
            assert scores is not None
            for value, score in zip(expected, scores.values(), strict=True):
                assert score.value == pytest.approx(float(value), abs=tolerance)
        assert fp32.embed((samples, 16_000)).frames.shape[1] == 32


def test_the_manifest_tells_what_was_measured(checkpoint: Path, bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert opened.name == "tiny"
    assert set(opened.auto) == set(BOTH)
    assert set(opened.variants()) == {*BOTH, ("torch", "fp32")}
    assert opened.config == json.loads((checkpoint / "config.json").read_text())
    for variant in ("onnxruntime/fp32", "onnxruntime/int8"):
        report = opened.parity[variant]
        assert report["reference"] == "torch/fp32"
        assert report["recordings"] == 3
        assert report["exceeded"] == []
        assert report["cpu_ms"] > 0
        assert report["measured_with"]["threads"] == "1"
        for aspect in report["aspects"].values():
            assert aspect["rms"] <= aspect["rms_budget"]
    # The receipt hashes what it names; the fast one comes first.
    times = [opened.parity["/".join(variant)]["cpu_ms"] for variant in opened.auto]
    assert times == sorted(times)


def test_a_bundle_is_exported_again(bundle: Path, tmp_path: Path) -> None:
    report = make(bundle, tmp_path / "again", variants=(("onnxruntime", "fp32"),), name="again")
    assert report.name == "again"
    assert Bundle.open(tmp_path / "again").auto == (("onnxruntime", "fp32"),)
    assert not (tmp_path / "again" / "encoder.int8.onnx").exists()


def test_the_model_card_goes_along(checkpoint: Path, tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    card.write_text("It judges.")
    only = BOTH[:1]
    with pytest.raises(UsageError, match="no model card"):
        make(checkpoint, tmp_path / "first", variants=only, card=tmp_path / "none.md")
    make(checkpoint, tmp_path / "first", variants=only, card=card)
    make(tmp_path / "first", tmp_path / "second", variants=only)
    assert "MODEL_CARD.md" in Bundle.open(tmp_path / "second").artifacts
    assert (tmp_path / "second" / "MODEL_CARD.md").read_text() == "It judges."


def test_native_runs_the_checkpoint_itself(checkpoint: Path, tmp_path: Path) -> None:
    report = make(checkpoint, tmp_path / "native", variants=plan(["native"], ["fp32"]))
    assert report.parity[0].variant == "native/fp32"
    assert sorted(report.bytes) == ["asa.json", "config.json", "weights.safetensors"]
    asa.load(tmp_path / "native", threads=1)


def test_a_target_that_is_there_is_kept_unless_forced(checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "taken"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        make(checkpoint, target)
    assert (target / "mine.txt").read_text() == "mine"
    make(checkpoint, target, overwrite=True, variants=BOTH[:1])
    assert not (target / "mine.txt").exists()
    Bundle.open(target)


def test_drift_over_the_budget_writes_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "LAYER_NORM_EPSILON", 0.05)
    with pytest.raises(DriftError, match="onnxruntime/fp32 moves scores too far"):
        make(checkpoint, tmp_path / "wrong")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_what_was_there(
    checkpoint: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Path(shutil.copytree(bundle, tmp_path / "old"))
    before = Bundle.open(target).sha256

    def full(model: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(onnx, "save", full)
    with pytest.raises(UsageError, match="No space left"):
        make(checkpoint, target, overwrite=True)
    assert Bundle.open(target).sha256 == before
    assert list(tmp_path.iterdir()) == [target]


KILLED = """
import sys, time
from pathlib import Path
from asa_export import exporter
from asa_export.speech import synthetic_speech

def wait(*args, **options):
    print("judging", flush=True)
    time.sleep(60)

exporter.compare = wait
exporter.export(Path(sys.argv[1]), Path(sys.argv[2]), [("onnxruntime", "fp32")],
                synthetic_speech(), overwrite=True)
"""


def test_a_kill_leaves_what_was_there(checkpoint: Path, bundle: Path, tmp_path: Path) -> None:
    target = Path(shutil.copytree(bundle, tmp_path / "old"))
    before = Bundle.open(target).sha256
    command = [sys.executable, "-c", KILLED, str(checkpoint), str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"judging\n"
        process.send_signal(signal.SIGKILL)
    assert Bundle.open(target).sha256 == before


def damaged(checkpoint: Path, folder: Path, change: Any) -> Path:
    shutil.copytree(checkpoint, folder)
    tensors = load_file(folder / "weights.safetensors")
    change(tensors)
    save_file(tensors, folder / "weights.safetensors")
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("encoder.layers.1.fc2.bias"), "lacks encoder.layers.1.fc2.bias"),
        (lambda t: t.update(extra=torch.zeros(2)), "unknown extra"),
        (lambda t: t.update(layer_mix=torch.zeros(4)), r"layer_mix is \[4\], not \[3\]"),
        (lambda t: t["head_fc1.weight"].view(-1)[5:6].fill_(float("nan")), "NaN"),
        (lambda t: t["encoder.conv1.bias"][:1].fill_(float("inf")), "infinity"),
    ],
)
def test_wrong_tensors_are_refused(
    checkpoint: Path, tmp_path: Path, change: Any, said: str
) -> None:
    source = damaged(checkpoint, tmp_path / "damaged", change)
    with pytest.raises(CheckpointError, match=said):
        make(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kept", [0, 5, 300, -1])
def test_cut_off_weights_are_refused(checkpoint: Path, tmp_path: Path, kept: int) -> None:
    source = Path(shutil.copytree(checkpoint, tmp_path / "cut"))
    weights = source / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"weights\.safetensors"):
        make(source, tmp_path / "out")


def test_a_flipped_bit_in_a_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(bundle, tmp_path / "flipped"))
    weights = bytearray((source / "weights.safetensors").read_bytes())
    weights[-3] ^= 1
    (source / "weights.safetensors").write_bytes(weights)
    with pytest.raises(BundleError, match="hash differs"):
        make(source, tmp_path / "out")


def test_the_plan_says_what_cannot_be_made() -> None:
    assert plan(["onnx"], []) == BOTH
    assert plan(["onnx", "native"], ["bf16", "int8"]) == (
        ("onnxruntime", "int8"),
        ("native", "bf16"),
        ("native", "int8"),
    )
    assert plan(["ctranslate2"], [], "speech_llm") == (("ctranslate2", "fp32"),)
    assert plan(["ctranslate2"], ["int8"], "speech_llm") == (("ctranslate2", "int8"),)
    assert plan(["tensorrt"], ["fp16"]) == (("tensorrt", "fp16"),)
    with pytest.raises(UsageError, match="ctranslate2"):
        plan(["ctranslate2"], [])
    with pytest.raises(UsageError, match="bf16"):
        plan(["onnx"], ["bf16"])


def write_manifest(folder: Path, count: int = 6) -> Path:
    import soundfile

    lines = []
    for index, recording in enumerate(synthetic_recordings(seed=9)[:count]):
        soundfile.write(folder / f"{index}.wav", recording.samples(), 16_000)
        scores = {"fluency": float(index), "total": 1.0 + index / 2}
        lines.append(
            {"id": f"r{index}", "audio": f"{index}.wav", "speaker": str(index), "scores": scores}
        )
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def test_command_line(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, made = str(write_manifest(tmp_path)), str(tmp_path / "made")
    arguments = ["export", str(checkpoint), "-o", made, "--data", data, "--precision", "fp32,int8"]
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["parity"]) == {"onnxruntime/fp32", "onnxruntime/int8"}
    # Speakers 0 and 5 judge; 1 to 4 calibrate.
    assert report["parity"]["onnxruntime/int8"]["recordings"] == 2

    verify = ["verify", made, "--against", str(checkpoint), "--data", data]
    assert main([*verify, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["onnxruntime/fp32"]["recordings"] == 6
    assert found["onnxruntime/fp32"]["aspects"]["total"]["pcc_reference"] is not None

    assert main([*verify, "--precision", "int8", "--budget", "1e-7"]) == 5
    captured = capsys.readouterr()
    assert "onnxruntime/int8 moves scores too far" in captured.err
    assert "onnxruntime/fp32" not in captured.out
    assert "over the budget" in captured.out

    assert main(["export", str(checkpoint), "-o", made]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["export", str(checkpoint), "-o", made, "--target", "ctranslate2"]) == 2
    assert "cannot be exported to 'ctranslate2'" in capsys.readouterr().err
    assert main(["verify", made, "--data", data, "--backend", "native"]) == 4
    assert "holds nothing for native" in capsys.readouterr().err


def test_a_bundle_of_another_checkpoint_is_found_out(
    checkpoint: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def louder(tensors: dict[str, torch.Tensor]) -> None:
        tensors["head_fc2.bias"] += 0.05

    other = damaged(checkpoint, tmp_path / "other", louder)
    data = write_manifest(tmp_path, 3)
    assert main(["verify", str(bundle), "--against", str(other), "--data", str(data)]) == 5
    assert main(["verify", str(bundle), "--data", str(data)]) == 0
    capsys.readouterr()


def test_without_data_the_report_says_so(checkpoint: Path, tmp_path: Path) -> None:
    speech = synthetic_speech()
    report = export(checkpoint, tmp_path / "made", BOTH[:1], speech)
    assert "synthetic" in report.parity[0].speech
    ours = {recording.samples().tobytes() for recording in speech.judging}
    assert not ours & {recording.samples().tobytes() for recording in speech.calibration}
    assert np.isfinite(report.cpu_ms["onnxruntime/fp32"])
