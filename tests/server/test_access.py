"""Which requests come in: host, origin, method, encoding; and what the log tells of them."""

from __future__ import annotations

import gzip
import io
import json
import logging
from typing import Any

import pytest
from audio_samples import encoded, speech
from raw_client import RawClient
from server_client import Client, listen, pcm, speak

from asa_engine.server.access import Access
from asa_engine.server.logs import JsonLines
from asa_engine.server.refusal import Forbidden, Misdirected

ANSWER = speech(1.2, seed=3)


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8770", None),
        ("localhost", "http://localhost"),
        ("LOCALHOST:8770", "http://localhost:8770"),
        ("[::1]:8770", "http://[::1]:8770"),
        ("10.1.2.3:8770", None),
        ("asa.example.org", "https://asa.example.org"),
        ("127.0.0.1:8770", "https://friend.example"),
    ],
)
def test_own_names_and_named_friends_come_in(host: str, origin: str | None) -> None:
    Access(["https://friend.example"], ["ASA.example.org"]).check(host, origin)


@pytest.mark.parametrize(
    ("host", "origin", "error"),
    [
        (None, None, Misdirected),
        ("", None, Misdirected),
        ("evil.example:8770", "http://evil.example:8770", Misdirected),
        ("evil.example:8770", None, Misdirected),
        ("127.0.0.1.evil.example", None, Misdirected),
        ("localhost@evil.example", None, Misdirected),
        ("[::1", None, Misdirected),
        ("127.0.0.1:8770", "http://127.0.0.1:9000", Forbidden),
        ("127.0.0.1:8770", "http://evil.example", Forbidden),
        ("127.0.0.1:8770", "http://[", Forbidden),
        ("127.0.0.1:8770", "null", Forbidden),
        ("127.0.0.1:8770", "", Forbidden),
    ],
)
def test_others_do_not(host: str | None, origin: str | None, error: type[Exception]) -> None:
    with pytest.raises(error):
        Access(["https://friend.example"], []).check(host, origin)


def test_a_name_made_to_point_here_is_refused(with_server: Any) -> None:
    async def scenario(client: Client) -> None:
        rebound = {"Host": "evil.example:80", "Origin": "http://evil.example:80"}
        async with client.get("/v1/health", headers=rebound) as response:
            assert response.status == 421
            assert "--allow-host" in (await response.json())["hint"]
        async with client.get("/v1/health", headers={"Origin": "http://["}) as response:
            assert response.status == 403

    with_server(scenario)


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/v1/assess", 405, {"POST", "OPTIONS"}),
        ("PUT", "/v1/assess", 405, {"POST", "OPTIONS"}),
        ("DELETE", "/v1/health", 405, {"GET", "HEAD"}),
        ("GET", "/v1/nothing", 404, set()),
        ("GET", "/v1/assess/", 404, set()),
        ("GET", "/v1/stream", 426, set()),
    ],
)
def test_what_is_not_served_says_what_is(
    with_server: Any, method: str, path: str, status: int, allow: set[str]
) -> None:
    async def scenario(client: Client) -> None:
        async with client.session.request(method, client.server.url + path) as response:
            assert response.status == status
            assert (await response.json())["hint"]
            allowed = {x.strip() for x in response.headers.get("Allow", "").split(",") if x.strip()}
            assert allowed == allow
            assert ("Upgrade" in response.headers) == (status == 426)

    with_server(scenario)


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "nonsense", "gzip, gzip"])
@pytest.mark.parametrize("data", [gzip.compress(encoded(ANSWER)), b"\x1f\x8bno gzip"])
def test_encoded_bodies_are_refused(with_server: Any, encoding: str, data: bytes) -> None:
    async def scenario(client: Client) -> None:
        headers = {"Content-Encoding": encoding}
        async with client.assess(io.BytesIO(data), headers=headers) as response:
            assert response.status == 415
            assert response.headers["Accept-Encoding"] == "identity"
        headers = {"Content-Encoding": "identity"}
        async with client.assess(encoded(ANSWER), headers=headers) as response:
            assert response.status == 200

    with_server(scenario)


def test_a_request_has_an_id(with_server: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "asa_engine.server")

    async def scenario(client: Client) -> None:
        async with client.get("/livez", headers={"X-Request-ID": "mine-1"}) as response:
            assert response.headers["X-Request-ID"] == "mine-1"
        async with client.get("/livez", headers={"X-Request-ID": 'a"} b'}) as response:
            assert len(response.headers["X-Request-ID"]) == 32

    with_server(scenario)
    (first, second) = (record.fields for record in caplog.records if hasattr(record, "fields"))
    assert first["request_id"] == "mine-1"
    assert (first["route"], first["status"], first["method"]) == ("/livez", 200, "GET")
    assert second["request_id"] != 'a"} b'


def test_the_log_has_a_line_an_event_with_its_time(
    with_server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "asa_engine.server")

    async def scenario(client: Client) -> None:
        path = "/v1/x%0a{%22event%22:%22forged%22}?text=secret"
        async with RawClient(client.server.url) as raw:
            assert "404" in await raw.ask(f"GET {path} HTTP/1.1\nHost: localhost")

    with_server(scenario)
    lines = "\n".join(JsonLines().format(record) for record in caplog.records).splitlines()
    assert len(lines) == len(caplog.records)
    for line in map(json.loads, lines):
        assert line["time"].endswith("+00:00")
    assert "forged" not in "".join(lines)
    assert "secret" not in "".join(lines)
    forged = logging.makeLogRecord({"msg": 'a\n{"event": "b"}', "levelname": "ERROR"})
    assert json.loads(JsonLines().format(forged))["event"] == forged.getMessage()
    assert "\n" not in JsonLines().format(forged)


def test_a_stream_states_its_rate(with_server: Any) -> None:
    async def scenario(client: Client) -> None:
        url = f"{client.server.url}/v1/stream"
        async with client.session.ws_connect(url) as socket:
            (told,) = await listen(socket)
        assert told["error"] == "BadRequest"
        assert "sample_rate_hz is missing" in told["message"]

    with_server(scenario)


@pytest.mark.parametrize("chunk_bytes", [1, 5, 3200])
@pytest.mark.parametrize(
    ("kind", "name"), [("WAV", "WAV"), ("FLAC", "FLAC"), ("OGG", "Ogg"), ("AIFF", "AIFF")]
)
def test_a_file_is_no_stream_of_samples(
    with_server: Any, kind: str, name: str, chunk_bytes: int
) -> None:
    data = encoded(ANSWER, kind)[:4000]

    async def scenario(client: Client) -> None:
        async with client.stream() as socket:
            await speak(socket, data, chunk_bytes)
            (told,) = await listen(socket)
        assert told["error"] == "AudioError"
        assert f"as a {name} file" in told["message"]
        assert "/v1/assess" in told["hint"]
        assert socket.close_code == 1007

    with_server(scenario)


def test_channels_are_told(with_server: Any, offline: Any) -> None:
    import numpy as np

    left = np.frombuffer(pcm(ANSWER), "<i2")
    both = np.stack((left, left // 2), axis=1)
    expected = offline.assess((both, 16_000)).to_dict()

    async def scenario(client: Client) -> None:
        async with client.stream("?channels=2") as socket:
            await speak(socket, both.tobytes(), 1001)
            final = (await listen(socket))[-1]["assessment"]
        for part in ("scores", "validity", "receipt", "channels"):
            assert final.get(part) == expected.get(part)
        async with client.stream("?channels=9") as socket:
            (told,) = await listen(socket)
        assert "channels is '9'" in told["message"]

    with_server(scenario)


def test_pages_of_other_sites_are_kept_out(with_server: Any) -> None:
    from aiohttp import WSServerHandshakeError

    async def scenario(client: Client) -> None:
        foreign = {"Origin": "https://elsewhere.example"}
        async with client.get("/v1/health", headers=foreign) as response:
            assert response.status == 403
            assert "Access-Control-Allow-Origin" not in response.headers
        with pytest.raises(WSServerHandshakeError, match="403"):
            await client.stream(headers=foreign)
        async with client.get("/v1/health", headers={"Origin": client.server.url}) as response:
            assert response.status == 200
        friend = {"Origin": "https://friend.example"}
        async with client.assess(encoded(ANSWER), headers=friend) as response:
            assert response.headers["Access-Control-Allow-Origin"] == friend["Origin"]
        async with client.session.options(
            client.server.url + "/v1/assess", headers=friend
        ) as response:
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Methods"] == "POST"
            assert "Authorization" in response.headers["Access-Control-Allow-Headers"]
        async with client.session.options(
            client.server.url + "/v1/streams/0123456789abcdef", headers=friend
        ) as response:
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Methods"] == "GET, DELETE"

    with_server(scenario, allow_origins=("https://friend.example",))
