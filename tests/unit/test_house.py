"""The house stays small enough to hold in one's head; import-linter keeps its layers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import asa_engine

ROOT = Path(__file__).parents[2]
PACKAGE = Path(asa_engine.__file__).parent
SOURCES = ("asa_engine", "export", "kernels", "benchmarks", "tests")
MOST_LINES = 420
MOST_MODULES = 12


def _files(*folders: str, endings: tuple[str, ...] = (".py",)) -> list[Path]:
    return [
        path
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in endings and path.is_file()
    ]


def test_the_core_is_a_handful_of_modules() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_MODULES


@pytest.mark.parametrize("folder", SOURCES)
def test_no_file_is_long(folder: str) -> None:
    files = _files(folder, endings=(".py", ".cc", ".cu", ".h"))
    assert files, f"{folder} holds no sources"
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    long = {str(path.relative_to(ROOT)): n for path, n in lines.items() if n > MOST_LINES}
    assert not long, f"a file over {MOST_LINES} lines is usually two: {long}"


def test_nothing_outside_a_grader_asks_for_it_by_name() -> None:
    asks = re.compile(r"[!=]=\s*[\"']acoustic[\"']|[\"']acoustic[\"']\s*[!=]=")
    asking = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in _files("asa_engine", "export")
        if PACKAGE / "graders" / "acoustic" not in path.parents
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if asks.search(line)
    ]
    assert not asking


def test_a_grader_has_one_name_in_three_places() -> None:
    from asa_engine.graders import grader_entry, grader_names

    for name in grader_names():
        entry = grader_entry(name)
        assert (PACKAGE / "graders" / name / "__init__.py").is_file()
        assert entry.trainer.startswith(f"asa_engine.training.{name}.")
        assert entry.exporter.startswith(f"asa_export.{name}:")


def test_the_map_names_every_package() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)?)/`", page[page.index("| folder | holds |") :]))
    packages = {f"asa_engine/{p.parent.name}" for p in PACKAGE.glob("*/__init__.py")}
    assert packages <= named
    assert all((ROOT / folder).is_dir() for folder in named)
