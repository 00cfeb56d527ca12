"""The shipped grader as a device has it, and as the native backend has it."""

from __future__ import annotations

from pathlib import Path

import libasa
import pytest

from asa_engine.bundle import Bundle
from asa_export.device import acoustic_file
from asa_export.device_reading import pronunciation_file

PRECISION = "int8"


@pytest.fixture(scope="session")
def library() -> Path:
    """libasa's shared form; tests of it skip where it is not built."""
    if not libasa.LIBRARY.is_file():
        pytest.skip(f"{libasa.LIBRARY} is not built: make libasa")
    return libasa.LIBRARY


@pytest.fixture(scope="session")
def grader_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("device") / "grader.asa"
    path.write_bytes(acoustic_file(Bundle.open("acoustic"), PRECISION, "acoustic"))
    return path


@pytest.fixture(scope="session")
def reading_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("device") / "reading.asa"
    path.write_bytes(pronunciation_file(Bundle.open("pronunciation"), PRECISION, "pronunciation"))
    return path
