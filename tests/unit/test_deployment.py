"""The container and the unit start the server with options that it has, and copy what is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from asa_engine.cli.main import main

ROOT = Path(__file__).parents[2]
CONTAINER = (ROOT / "release" / "Containerfile").read_text()
UNIT = (ROOT / "release" / "asa-engine.service").read_text()


def test_they_start_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    command = json.loads(re.search(r"^ENTRYPOINT (.*)$", CONTAINER, re.MULTILINE)[1])
    asked = re.search(r"^ExecStart=(.*)$", UNIT, re.MULTILINE)[1].split()
    for words in (command, asked):
        assert words[:2] == ["/opt/asa/bin/asa-engine", "serve"]
        assert {word for word in words if word.startswith("--")} <= known


def test_the_container_copies_what_there_is() -> None:
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", CONTAINER, re.MULTILINE):
        assert all((ROOT / name).exists() for name in line.split())
    assert re.search(r"^USER [1-9]", CONTAINER, re.MULTILINE)
