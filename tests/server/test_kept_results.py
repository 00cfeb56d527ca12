"""Results that a store keeps, written as a table by `asa-engine convert`."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audio_samples import RATE_HZ, speech
from databases import PASSWORD
from server_client import Client, listen, pcm

import asa_engine as asa
from asa_engine.cli.main import main

ANSWERS = [pcm(speech(2.0 + n, seed=n)) for n in range(2)]
KEY = "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "store.key"
    path.write_text(KEY + "\n")
    return path


def test_kept_results_become_tables(
    with_server: Any,
    place: str,
    key_file: Path,
    tmp_path: Path,
    offline: asa.Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(client: Client) -> None:
        for number, answer in enumerate(ANSWERS):
            query = f"?sample_rate_hz=16000&id=stream-{number:010d}"
            async with client.stream(query) as socket:
                await socket.receive_json()
                await socket.send_bytes(answer)
                await socket.send_json({"type": "finish"})
                await listen(socket)
        async with client.stream("?sample_rate_hz=16000&id=never-finished-0") as socket:
            await socket.receive_json()

    with_server(scenario, store=place, store_key=b"k" * 32)
    given = ["--store", place, "--store-key", str(key_file)]
    lines, table = tmp_path / "kept.jsonl", tmp_path / "kept.csv"
    assert main(["convert", *given, "-o", str(lines)]) == 0
    monkeypatch.setenv("ASA_STORE", place)
    monkeypatch.setenv("ASA_STORE_KEY", KEY)
    assert main(["convert", "-o", str(table)]) == 0
    assert main(["convert", str(lines), "-o", str(tmp_path / "again.csv")]) == 0
    assert (tmp_path / "again.csv").read_bytes() == table.read_bytes()
    rows = sorted(map(json.loads, lines.read_text().splitlines()), key=lambda row: row["id"])
    assert [row["id"] for row in rows] == ["stream-0000000000", "stream-0000000001"]
    for row, answer in zip(rows, ANSWERS, strict=True):
        expected = offline.assess((np.frombuffer(answer, "<i2"), RATE_HZ)).to_dict()
        assert row["scores"] == expected["scores"]
        assert row["receipt"] == expected["receipt"]
        assert row["date"].endswith("+00:00")
    with table.open(encoding="utf-8", newline="") as file:
        assert {line["audio"] for line in csv.DictReader(file)} == {row["id"] for row in rows}


def test_kept_results_become_parquet(
    with_server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra 'parquet'")

    async def scenario(client: Client) -> None:
        async with client.stream("?sample_rate_hz=16000&id=0123456789abcdef") as socket:
            await socket.receive_json()
            await socket.send_bytes(ANSWERS[0])
            await socket.send_json({"type": "finish"})
            await listen(socket)

    path, table = str(tmp_path / "streams.db"), tmp_path / "kept.parquet"
    assert main(["convert", "--store", path, "-o", str(table)]) == 2
    assert not Path(path).exists()
    with_server(scenario, store=path)
    assert main(["convert", "--store", path, "-o", str(table)]) == 0
    assert set(parquet.read_table(table)["audio"].to_pylist()) == {"0123456789abcdef"}


def test_what_cannot_be_converted_is_one_line(
    with_server: Any,
    place: str,
    key_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(client: Client) -> None:
        async with client.stream("?sample_rate_hz=16000&id=0123456789abcdef") as socket:
            await socket.receive_json()

    monkeypatch.delenv("ASA_STORE", raising=False)
    output = ["-o", str(tmp_path / "kept.csv")]
    other = tmp_path / "other.key"
    other.write_text("short")
    with_server(scenario, store=place, store_key=b"k" * 32)
    for arguments, said in (
        ([], "one source of results is needed"),
        (["results.jsonl", "--store", place], "one source of results is needed"),
        (["--store", place], "is encrypted"),
        (["--store", place, "--store-key", str(other)], "is not 32 bytes in base64"),
        (["--store", place, "--store-key", str(tmp_path / "none")], "cannot be read"),
        (["--store", place, "--store-key", str(key_file)], "keeps no results"),
        (["--store", "oracle://me:secret@host/x"], "a store cannot be in 'oracle'"),
    ):
        assert main(["convert", *arguments, *output]) == 2
        told = capsys.readouterr().err
        assert said in told
        assert told.count("\n") == 1
        assert "secret" not in told
        assert PASSWORD not in told
    assert not (tmp_path / "kept.csv").exists()
