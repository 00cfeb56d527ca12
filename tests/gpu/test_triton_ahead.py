"""The Triton kernels compile for GPUs that are not here: the interpreter takes what they do not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("triton", reason="needs the extra 'cuda'")

PROGRAM = """\
import json
from gpu_samples import SMALL
from asa_engine.gpu.triton.ahead import compile_launch, launches_of
launches = launches_of(SMALL, "bf16")
made = {l.name: compile_launch(l, c) for l, c in zip(launches, [80, 90, 120] * len(launches))}
for one in made.values():
    print(one.name, one.capability, one.shared_bytes, one.registers, int(one.tensor_cores))
"""
KERNELS = {"spectrum", "floor_mel", "conv", "linear", "attention", "moments", "pool_and_head"}


def test_every_kernel_compiles(tmp_path: Path) -> None:
    """Each launch for one architecture of three in turn, so that all of it takes half a minute."""
    environment = {
        **{k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"},
        "TRITON_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split() for line in done.stdout.splitlines()]
    assert {row[0] for row in rows} == KERNELS
    for name, _, shared, registers, tensor_cores in rows:
        assert int(shared) <= 99 * 1024, name
        assert int(registers) <= 255, name
        assert int(tensor_cores) == (name in ("conv", "linear", "attention")), name
