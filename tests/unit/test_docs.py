"""What the pages say holds: files and folders are there, and the README's Python runs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asa_engine.assessment import schema

ROOT = Path(__file__).parents[2]
FOLDERS = ("asa_engine", "benchmarks", "docs", "examples", "export", "kernels", "kiosk",
           "models", "requirements", "tests", "web")  # fmt: skip
SKIPPED = {"CHANGELOG.md"}  # of the past
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [
        *ROOT.glob("*.md"),
        *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md")),
    ]
    if path.name not in SKIPPED
)
# A path of the repository in code quotes, without a placeholder.
_PATH = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w./*-]*)`")


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_are_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = {match[1].rstrip("/") for match in _PATH.finditer(text)}
    missing = [path for path in sorted(named) if not any(ROOT.glob(path))]
    assert missing == []


def test_the_map_has_every_folder() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text[text.index("## Where things are") : text.index("## What to touch")]
    packages = [path.parent for path in (ROOT / "asa_engine").glob("*/__init__.py")]
    folders = [f"asa_engine/{path.name}/" for path in packages] + [f"{name}/" for name in FOLDERS]
    assert [folder for folder in sorted(folders) if f"`{folder}`" not in table] == []


def test_every_field_of_a_result_is_explained() -> None:
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    word = schema()["properties"]["words"]["items"]["properties"]
    levels = (
        schema()["properties"],
        schema()["$defs"]["score"]["properties"],
        word,
        word["phones"]["items"]["properties"],
    )
    assert sorted({name for level in levels for name in level if f"`{name}`" not in text}) == []


def test_the_readmes_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    recording = ROOT / "examples" / "audio" / "demo.flac"
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    whole, live = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    exec(whole.replace("answer.flac", str(recording)), names)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "accuracy",
        "fluency",
        "prosodic",
        "total",
    ]
    samples, rate_hz = soundfile.read(recording, dtype="float32")
    names["microphone"] = np.array_split(samples, 7)
    offline = names["result"]
    exec(live.replace("48_000", str(rate_hz)), names)
    assert names["result"].scores == offline.scores  # type: ignore[attr-defined]
