"""Fixtures that many tests share: real learner speech, where it is, and small bundles."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from asa_engine.backbones import backbone_folder
from asa_engine.bundle import write_manifest
from asa_engine.errors import CheckpointError
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.graders.aspects import AspectConfig

# Triton's kernels run in its interpreter where there is no GPU; decided before triton is imported.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Tests leave this user's cache of packed weights alone.
os.environ["ASA_PACKED_CACHE"] = "off"

# The extra of pyproject.toml that brings what a test module may import beyond the extra `test`.
_EXTRAS = {
    "ctranslate2": "recogniser",
    "onnx": "export",
    "safetensors": "train",
    "scipy": "dev",
    "sklearn": "dev",
    "tokenizers": "recogniser",
    "torch": "train",
    "tqdm": "train",
    "transformers": "llm",
    "triton": "cuda",
}

_SHARED = Path(os.environ.get("ASA_SHARED", Path(__file__).parents[2] / "shared"))


class TestModule(pytest.Module):
    """A module of tests, skipped as a whole where an extra that it imports is not installed."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        try:
            return super().collect()
        except self.CollectError as error:
            cause = error.__cause__
            if isinstance(cause, ModuleNotFoundError) and cause.name in _EXTRAS:
                reason = f"{self.path.name} needs the extra '{_EXTRAS[cause.name]}'"
                pytest.skip(reason, allow_module_level=True)
            raise


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> TestModule:
    """Make every module of tests a `TestModule`."""
    return TestModule.from_parent(parent, path=module_path)


@pytest.fixture(autouse=True)
def _the_thread_keeps_subnormals() -> Iterator[None]:
    """Whoever flushes them to zero, as training does for speed, sets that back."""
    yield
    assert math.ldexp(1.0, -1030) * 1.0 > 0, "subnormal numbers are flushed to zero from here on"


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The speechocean762 folder; tests that need real learner speech skip without it."""
    folder = _SHARED / "data" / "speechocean762"
    if not (folder / "train.jsonl").is_file():
        pytest.skip(f"no real learner speech at {folder}; set ASA_SHARED")
    return folder


@pytest.fixture(scope="session")
def whisper_folder() -> Path:
    """Whisper tiny.en, as a package brings it; tests that need it skip without it."""
    try:
        return backbone_folder("whisper-tiny.en")
    except CheckpointError as missing:
        pytest.skip(str(missing))


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
