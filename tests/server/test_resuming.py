"""A stream that has an id ends with the bits it would have had, whatever happened on the way."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audio_samples import RATE_HZ, speech
from server_client import RESUMABLE, STREAM_ID, Client, agree_final, listen, pcm, resume_offset

import asa_engine as asa
from asa_engine.server.keys import new_key
from asa_engine.server.store import StoreError
from asa_engine.server.store.sql import SqlStore

ANSWER = pcm(speech(3.3, seed=3))


@pytest.fixture
def expected(offline: asa.Engine) -> dict[str, Any]:
    return offline.assess((np.frombuffer(ANSWER, "<i2"), RATE_HZ)).to_dict()


async def _finish(client: Client, query: str = RESUMABLE, data: bytes = ANSWER) -> Any:
    """Go on where the server says; return the last message."""
    async with client.stream(query) as socket:
        await socket.send_bytes(data[await resume_offset(socket) :])
        await socket.send_json({"type": "finish"})
        return (await listen(socket))[-1]


@pytest.mark.parametrize("polite", [True, False])
@pytest.mark.parametrize("cut", [0, 7, 16_001, 65_537, len(ANSWER)])
def test_a_dropped_connection_goes_on(
    with_server: Any, tmp_path: Path, expected: dict[str, Any], cut: int, polite: bool
) -> None:
    async def scenario(client: Client) -> None:
        socket = await client.stream(RESUMABLE)
        assert await resume_offset(socket) == 0
        await socket.send_bytes(ANSWER[:cut])
        if polite:
            await socket.close()
        else:
            await asyncio.sleep(0.1)
            socket._response.connection.transport.abort()
        await client.until_open(0)
        async with client.stream(RESUMABLE) as socket:
            offset = await resume_offset(socket)
            assert offset == cut
            await socket.send_bytes(ANSWER[offset:])
            await socket.send_json({"type": "finish"})
            agree_final((await listen(socket))[-1], expected)

    with_server(scenario, store=tmp_path / "streams.db")


def test_a_finished_stream_is_told_again(
    with_server: Any, tmp_path: Path, expected: dict[str, Any]
) -> None:
    async def scenario(client: Client) -> None:
        first = await _finish(client)
        agree_final(first, expected)
        async with client.stream(RESUMABLE) as socket:
            assert await listen(socket) == [first]
        assert socket.close_code == 1000
        async with client.get(f"/v1/streams/{STREAM_ID}") as response:
            told = await response.json()
        assert told == {
            "bytes": told["bytes"],
            "finished": True,
            "assessment": first["assessment"],
        }

    with_server(scenario, store=tmp_path / "streams.db")


def test_another_server_goes_on(with_server: Any, tmp_path: Path, expected: dict[str, Any]) -> None:
    async def begin(client: Client) -> None:
        async with client.stream(RESUMABLE) as socket:
            await resume_offset(socket)
            await socket.send_bytes(ANSWER[:50_001])
            await socket.receive_json()

    async def go_on(client: Client) -> None:
        async with client.get(f"/v1/streams/{STREAM_ID}") as response:
            assert await response.json() == {"bytes": 50_001, "finished": False}
        agree_final(await _finish(client), expected)

    with_server(begin, store=tmp_path / "streams.db")
    with_server(go_on, store=tmp_path / "streams.db", workers=2)


def test_the_last_connection_has_the_stream(
    with_server: Any, tmp_path: Path, expected: dict[str, Any]
) -> None:
    async def scenario(client: Client) -> None:
        async with client.stream(RESUMABLE) as first:
            await resume_offset(first)
            await first.send_bytes(ANSWER[:40_000])
            await first.receive_json()
            agree_final(await _finish(client), expected)
            assert (await listen(first))[-1]["error"] == "TakenOver"

    with_server(scenario, store=tmp_path / "streams.db")


def test_provisional_scores_tell_what_is_kept(with_server: Any, tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        async with client.stream(RESUMABLE) as socket:
            await resume_offset(socket)
            for start in range(0, len(ANSWER), 3200):
                await socket.send_bytes(ANSWER[start : start + 3200])
                await asyncio.sleep(0.01)
            told = [await socket.receive_json() for _ in range(3)]
            for message in told:
                assert message["saved"] <= len(ANSWER)
                assert message["saved"] % 64_000 == 0 or message["saved"] % 3200 == 0

    with_server(scenario, store=tmp_path / "streams.db")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (RESUMABLE.replace("16000", "48000"), "other parameters"),
        (RESUMABLE + "&channels=2", "other parameters"),
        (RESUMABLE + "&format=f32le", "other parameters"),
        (RESUMABLE.replace(STREAM_ID, "short"), "id cannot be used"),
        (RESUMABLE.replace(STREAM_ID, "a/../../etc/passwd00"), "id cannot be used"),
        (RESUMABLE.replace(STREAM_ID, "%27;DROP%20TABLE--00"), "id cannot be used"),
    ],
)
def test_what_does_not_fit_is_refused(
    with_server: Any, tmp_path: Path, query: str, said: str
) -> None:
    async def scenario(client: Client) -> None:
        async with client.stream(RESUMABLE) as socket:
            await resume_offset(socket)
        async with client.stream(query) as socket:
            (told,) = await listen(socket)
        assert told["error"] == "BadRequest"
        assert said in told["message"]

    with_server(scenario, store=tmp_path / "streams.db")


def test_without_a_store_ids_are_refused(with_server: Any) -> None:
    async def scenario(client: Client) -> None:
        async with client.stream(RESUMABLE) as socket:
            (told,) = await listen(socket)
        assert "keeps no streams" in told["message"]
        async with client.get(f"/v1/streams/{STREAM_ID}") as response:
            assert response.status == 404

    with_server(scenario)


def test_a_stream_is_deleted_by_its_owner_alone(with_server: Any, tmp_path: Path) -> None:
    mine, line = new_key("mine")
    other, other_line = new_key("other")

    def bearer(key: str) -> dict[str, Any]:
        return {"headers": {"Authorization": f"Bearer {key}"}}

    async def scenario(client: Client) -> None:
        url = f"{client.server.url}/v1/streams/{STREAM_ID}"
        async with client.stream(RESUMABLE, **bearer(mine)) as socket:
            await resume_offset(socket)
            await socket.send_bytes(ANSWER[:40_000])
            await socket.receive_json()
            async with client.stream(RESUMABLE, **bearer(other)) as thief:
                assert (await listen(thief))[-1]["error"] == "NotKept"
            for method in ("GET", "DELETE"):
                async with client.session.request(method, url, **bearer(other)) as response:
                    assert response.status == 404
        async with client.session.delete(url, **bearer(mine)) as response:
            assert response.status == 204
        async with client.session.get(url, **bearer(mine)) as response:
            assert response.status == 404

    with_server(scenario, store=tmp_path / "streams.db", keys=f"{line};{other_line}")
    kept = (tmp_path / "streams.db").read_bytes()
    assert ANSWER[1000:1100] not in kept


def test_a_stream_that_cannot_be_scored_is_not_kept(with_server: Any, tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        query = RESUMABLE + "&format=f32le"
        async with client.stream(query) as socket:
            await resume_offset(socket)
            await socket.send_bytes(np.full(100, np.nan, "<f4").tobytes())
            assert (await listen(socket))[-1]["error"] == "AudioError"
        async with client.get(f"/v1/streams/{STREAM_ID}") as response:
            assert response.status == 404

    with_server(scenario, store=tmp_path / "streams.db")


def test_a_failing_store_costs_nobody_a_score(
    with_server: Any,
    tmp_path: Path,
    expected: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: Any) -> Any:
        raise StoreError("the disk is full")

    async def scenario(client: Client) -> None:
        async with client.stream(RESUMABLE) as socket:
            await resume_offset(socket)
            with monkeypatch.context() as patch:
                patch.setattr(SqlStore, "append", fail)
                patch.setattr(SqlStore, "finish", fail)
                for start in range(0, len(ANSWER), 5000):
                    await socket.send_bytes(ANSWER[start : start + 5000])
                await socket.send_json({"type": "finish"})
                agree_final((await listen(socket))[-1], expected)
        async with client.get("/metrics") as response:
            lines = (await response.text()).splitlines()
        assert any(x.startswith("asa_store_errors_total ") and x[-3:] != "0.0" for x in lines)
        with monkeypatch.context() as patch:
            patch.setattr(SqlStore, "find", fail)
            patch.setattr(SqlStore, "take", fail)
            async with client.stream(RESUMABLE) as socket:
                assert (await listen(socket))[-1]["error"] == "StoreDown"
            assert socket.close_code == 1013
            async with client.get(f"/v1/streams/{STREAM_ID}") as response:
                assert response.status == 503
        agree_final(await _finish(client), expected)

    with_server(scenario, store=tmp_path / "streams.db")
