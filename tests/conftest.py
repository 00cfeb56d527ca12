"""Fixtures that many tests share: real learner speech, where it is, and small bundles."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from asa_engine.bundle import write_manifest
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.graders.aspects import AspectConfig

# Triton's kernels run in its interpreter where there is no GPU; decided before triton is imported.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Tests leave this user's cache of packed weights alone.
os.environ["ASA_PACKED_CACHE"] = "off"

_SHARED = Path(os.environ.get("ASA_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The speechocean762 folder; tests that need real learner speech skip without it."""
    folder = _SHARED / "data" / "speechocean762"
    if not (folder / "train.jsonl").is_file():
        pytest.skip(f"no real learner speech at {folder}; set ASA_SHARED")
    return folder


@pytest.fixture
def fake_bundle(tmp_path: Path) -> Path:
    """A bundle without a model, for the `fake` backend."""
    folder = tmp_path / "fake-bundle"
    folder.mkdir()
    aspects = (AspectConfig("fluency", sd=((1.0, 2.0), (5.0, 1.0))), AspectConfig("total"))
    config = AcousticConfig(aspects=aspects, window_s=1.0)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 4)
    write_manifest(
        folder,
        name="fake",
        version="1",
        grader="acoustic",
        stages={"encoder": {"onnxruntime": {"fp32": "weights.bin"}}},
        auto=(("onnxruntime", "fp32"),),
        parity={},
    )
    return folder
