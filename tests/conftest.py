"""Fixtures that many tests share: the speech corpus where it is, and a tiny grader."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_SHARED = Path(os.environ.get("ASA_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The speechocean762 folder; tests that need real learner speech skip without it."""
    folder = _SHARED / "data" / "speechocean762"
    if not (folder / "train.jsonl").is_file():
        pytest.skip(f"no real learner speech at {folder}; set ASA_SHARED")
    return folder
