"""The GPU benchmark without a GPU: the whole way dry, and what is made of figures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("onnx", reason="needs the extra 'export'")

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks are not installed

from benchmarks.gpu import run
from benchmarks.gpu.contenders import CONTENDERS, DRY
from benchmarks.gpu.measure import MEASURES
from benchmarks.gpu.report import DRY_WARNING, check_targets, render, summary_lines
from benchmarks.gpu.workloads import SIZES, flops_of_window

ONE_OF_EACH = ("torch-eager-fp32", "tensorrt-bf16", "ours-triton-bf16")


def dry(tmp_path: Path, *more: str) -> tuple[int, dict[str, Any]]:
    target = tmp_path / "dry.json"
    given = ["--dry", "--work", str(tmp_path / "work"), "-o", str(target), *more]
    code = run.main([*given, "--contenders", ",".join(ONE_OF_EACH), "--batches", "2"])
    return code, json.loads(target.read_text()) if target.is_file() else {}


def test_the_whole_way_dry_and_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, result = dry(tmp_path)
    assert code == 0
    assert result["dry"] is True
    sections = {entry["cell"]["section"] for entry in result["cells"].values()}
    assert sections == set(MEASURES)
    for key, entry in result["cells"].items():
        assert "figures" in entry or "tensorrt" in key, (key, entry)
    assert result["cells"]["stability dry ours-triton-bf16 2"]["figures"] == {
        "windows": 2,
        "windows_that_differ": 0,
    }
    # Nothing of it can be taken for a figure of a GPU.
    assert all(target["met"] is None for target in result["targets"])
    assert DRY_WARNING in capsys.readouterr().out
    assert DRY_WARNING in (tmp_path / "dry.html").read_text()

    # What is done is kept, and not measured again; a section left out stays.
    monkeypatch.setattr(run, "_measure", None)
    code, again = dry(tmp_path, "--only", "peaks,drift")
    assert code == 0
    assert again["cells"] == result["cells"]


def test_another_machines_file_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dry.json").write_text('{"dry": false, "gpu": {"name": "A GPU"}, "cells": {}}')
    assert dry(tmp_path, "--only", "peaks")[0] == 2
    assert "another machine" in capsys.readouterr().err
    assert json.loads((tmp_path / "dry.json").read_text())["dry"] is False


def test_a_cell_that_dies_is_kept_with_its_last_words(tmp_path: Path) -> None:
    cell = {"section": "no such section", "dry": True}
    found = run._in_a_process(cell, tmp_path)
    assert "ended with 1" in found["not_timed"]
    assert "no such section" in found["not_timed"]


def test_the_plan_takes_every_contender_at_every_batch() -> None:
    cells = list(run.plan(run._parse([])))
    encoder = [(c["size"], c["batch"], c["contender"]) for c in cells if c["section"] == "encoder"]
    assert len(set(encoder)) == len(encoder) == 2 * 9 * len(CONTENDERS)
    assert encoder[0][:2] == ("tiny", 256)
    assert {c["section"] for c in cells} == set(MEASURES)
    assert set(DRY) <= set(CONTENDERS)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--only", "colours"), ("--contenders", "jax"), ("--sizes", "huge"), ("--batches", "0")],
)
def test_wrong_options(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main([option, value])
    assert option.removeprefix("--")[:4] in capsys.readouterr().err


def result_of(**figures: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    cells = {name: {"cell": cell, "figures": found} for name, (cell, found) in figures.items()}
    result = {
        "dry": False, "made": "now", "command": "x", "revision": None, "cells": cells,
        "gpu": {"name": "A <GPU>"}, "libraries": {}, "host": {"cpu": "A CPU"},
    }  # fmt: skip
    return {**result, "targets": check_targets(result)}


def encoder(contender: str, windows_per_s: float, tflops: float) -> tuple[dict[str, Any], ...]:
    cell = {"section": "encoder", "size": "large-v3", "contender": contender, "batch": 8}
    found = {"windows_per_s": windows_per_s, "tflops": tflops, "least_gb_s": 1.0, "n": 3}
    return cell, {**found, "p50_ms": 1.0, "p99_ms": 2.0, "relative_error": None}


@pytest.mark.parametrize(("ours", "met"), [(120.0, True), (119.0, False)])
def test_targets_are_taken_from_the_best_of_each(ours: float, met: bool) -> None:
    result = result_of(
        peaks=({"section": "peaks"}, {"bf16_tflops": 800.0, "fp16_tflops": 1.0, "copy_gb_s": 9.0}),
        a=encoder("torch-compile-bf16", 100.0, 400.0),
        b=encoder("torch-compile-max-bf16", 90.0, 1.0),
        c=encoder("ours-triton-bf16", ours, 480.0),
        d=encoder("ours-cuda-bf16", 50.0, 100.0),
    )
    throughput, share, *others = result["targets"]
    assert throughput["met"] is met
    assert (share["figure"], share["met"]) == ("0.6", True)
    assert all(target["met"] is None for target in others)
    assert "A &lt;GPU&gt;" in render(result)
    assert any("not measured" in line for line in summary_lines(result))


def test_bits_that_depend_on_the_batch_miss_their_target() -> None:
    cell = {"section": "stability", "size": "tiny", "contender": "ours-cuda-bf16", "batch": 9}
    result = result_of(s=(cell, {"windows": 9, "windows_that_differ": 1}))
    assert result["targets"][-1]["met"] is False


def test_operations_of_a_window() -> None:
    """Whisper-tiny on 30 s: about 37 GFLOP, as counted by hand for the CPU's benchmark."""
    assert flops_of_window(SIZES["tiny"].encoder, 1500) == pytest.approx(37e9, rel=0.05)
