"""What the tests of export share."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("onnx", reason="needs the extra 'export'")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained checkpoint; tests must not write to it."""
    from export_samples import make_checkpoint

    return make_checkpoint(tmp_path_factory.mktemp("export") / "checkpoint")
