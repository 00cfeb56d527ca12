"""API keys and TLS: missing, wrong, revoked, for other things; and where they are asked for."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import io
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSServerHandshakeError
from audio_samples import encoded, speech
from server_client import Client, listen, pcm, speak

from asa_engine.cli.main import main
from asa_engine.errors import UsageError
from asa_engine.server.keys import ENVIRONMENT, Keys, new_key
from asa_engine.server.refusal import Forbidden, TooOften, Unauthorized
from asa_engine.server.settings import Settings

ANSWER = speech(1.2, seed=3)


@pytest.fixture
def keys_file(tmp_path: Path) -> tuple[Path, str, str]:
    """A file with a key for scoring and one for watching; and these keys."""
    kiosk, line = new_key("kiosk")
    watcher, other = new_key("prometheus", ("watch",))
    path = tmp_path / "keys.txt"
    path.write_text(f"# ours\n\n{line}\n{other}\n")
    return path, kiosk, watcher


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_keys_open_what_they_are_for(with_server: Any, keys_file: tuple[Path, str, str]) -> None:
    path, kiosk, watcher = keys_file

    async def scenario(client: Client) -> None:
        for headers, scoring, watching in (
            ({}, 401, 401),
            (_bearer("asa_wrong"), 401, 401),
            ({"Authorization": "Basic a2V5"}, 401, 401),
            (_bearer(kiosk), 200, 403),
            (_bearer(watcher), 403, 200),
        ):
            async with client.assess(encoded(ANSWER), headers=headers) as response:
                assert response.status == scoring
                assert ("WWW-Authenticate" in response.headers) == (scoring == 401)
            for route in ("/metrics", "/v1/health", "/v1/graders"):
                async with client.get(route, headers=headers) as response:
                    assert response.status == watching
        for route in ("/livez", "/readyz"):
            async with client.get(route) as response:
                assert response.status == 200

    with_server(scenario, keys_file=path)


def test_a_stream_brings_its_key_in_a_header_or_a_subprotocol(
    with_server: Any, keys_file: tuple[Path, str, str]
) -> None:
    from aiohttp import WSServerHandshakeError

    path, kiosk, watcher = keys_file

    async def scenario(client: Client) -> None:
        for options, status in (
            ({}, 401),
            ({"headers": _bearer(watcher)}, 403),
            ({"protocols": ["asa", "asa.key.wrong"]}, 401),
        ):
            with pytest.raises(WSServerHandshakeError, match=str(status)):
                await client.stream(**options)
        for options in (
            {"headers": _bearer(kiosk)},
            {"protocols": ["asa", f"asa.key.{kiosk}"]},
        ):
            async with client.stream(**options) as socket:
                assert socket.protocol == ("asa" if "protocols" in options else None)
                await speak(socket, pcm(ANSWER))
                assert (await listen(socket))[-1]["type"] == "final"

    with_server(scenario, keys_file=path)


def test_a_key_is_revoked_by_taking_its_line_out(
    with_server: Any, keys_file: tuple[Path, str, str]
) -> None:
    path, kiosk, watcher = keys_file

    async def scenario(client: Client) -> None:
        async def status(key: str) -> int:
            async with client.get("/v1/health", headers=_bearer(key)) as response:
                return int(response.status)

        assert (await status(kiosk), await status(watcher)) == (403, 200)
        lines = path.read_text().splitlines()
        path.write_text("\n".join(lines[:-1]))
        assert (await status(kiosk), await status(watcher)) == (403, 401)
        path.write_text("nonsense")
        assert (await status(kiosk), await status(watcher)) == (401, 401)
        path.unlink()
        assert (await status(kiosk), await status(watcher)) == (401, 401)
        path.write_text("\n".join(lines))
        assert (await status(kiosk), await status(watcher)) == (403, 200)

    with_server(scenario, keys_file=path)


def test_a_key_has_no_more_open_than_it_may(with_server: Any) -> None:
    few, line = new_key("few", limits={"open": 1})
    many, other = new_key("many")
    assert line.endswith(" score open=1")

    async def scenario(client: Client) -> None:
        async with client.stream(headers=_bearer(few)) as first:
            await client.until_open(1)
            async with client.stream(headers=_bearer(few)) as second:
                assert (await listen(second))[-1]["error"] == "TooMany"
            async with client.assess(encoded(ANSWER), headers=_bearer(few)) as response:
                assert response.status == 429
                assert int(response.headers["Retry-After"]) > 0
            async with client.assess(encoded(ANSWER), headers=_bearer(many)) as response:
                assert response.status == 200
            await speak(first, pcm(ANSWER))
            assert (await listen(first))[-1]["type"] == "final"
        await client.until_open(0)
        async with client.assess(encoded(ANSWER), headers=_bearer(few)) as response:
            assert response.status == 200

    with_server(scenario, keys=f"{line};{other}")


def test_a_key_asks_no_more_often_than_it_may(with_server: Any) -> None:
    few, line = new_key("few", limits={"rate": 6, "burst": 2})
    many, other = new_key("many")
    assert line.endswith(" score rate=6 burst=2")

    async def scenario(client: Client) -> None:
        for status in (200, 200, 429):
            async with client.assess(encoded(ANSWER), headers=_bearer(few)) as response:
                assert response.status == status
        assert 1 <= int(response.headers["Retry-After"]) <= 10
        with pytest.raises(WSServerHandshakeError) as refused:
            async with client.stream(headers=_bearer(few)):
                pass
        assert refused.value.status == 429
        async with client.assess(encoded(ANSWER), headers=_bearer(many)) as response:
            assert response.status == 200

    with_server(scenario, keys=f"{line};{other}")


def test_requests_come_back_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr("asa_engine.server.keys.time.monotonic", lambda: now_s)
    key, line = new_key("kiosk", limits={"rate": 30})
    keys = Keys(text=line)

    def asked() -> int:
        """Return how many requests in a row are let through."""
        for count in range(100):
            try:
                keys.check(key, "score")
            except TooOften:
                return count
        return 100

    assert asked() == 5  # ten seconds' worth
    with pytest.raises(TooOften) as caught:
        keys.check(key, "score")
    assert caught.value.told_headers() == {"Retry-After": "2"}
    now_s += 2.0
    assert asked() == 1
    now_s += 3600.0
    assert asked() == 5


def test_a_key_sends_no_more_than_it_may(with_server: Any) -> None:
    short, line = new_key("short", limits={"seconds": 1, "mib": 1})

    async def scenario(client: Client) -> None:
        async with client.assess(encoded(ANSWER), headers=_bearer(short)) as response:
            assert response.status == 413
            assert "longer than is taken" in (await response.json())["message"]
        async with client.assess(io.BytesIO(bytes(2**20 + 1)), headers=_bearer(short)) as response:
            assert response.status == 413
            assert str(2**20) in (await response.json())["message"]
        async with client.stream(headers=_bearer(short)) as socket:
            await speak(socket, pcm(ANSWER))
            assert (await listen(socket))[-1]["error"] == "TooLarge"

    with_server(scenario, keys=line)


def test_every_hash_is_compared_in_constant_time(
    keys_file: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, kiosk, _ = keys_file
    compared: list[bytes] = []
    compare = hmac.compare_digest

    def noting(a: bytes, b: bytes) -> bool:
        compared.append(b)
        return compare(a, b)

    monkeypatch.setattr(hmac, "compare_digest", noting)
    keys = Keys(path)
    assert keys.check(kiosk, "score").name == "kiosk"
    assert compared == [hashlib.sha256(kiosk.encode()).digest()] * 2
    with pytest.raises(Unauthorized):
        keys.check("é" * 5000, "score")
    assert len(compared) == 4
    with pytest.raises(Forbidden):
        keys.check(kiosk, "watch")


def test_no_file_holds_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--new-key", "kiosk", "--scopes", "score,watch"]) == 0
    told = capsys.readouterr()
    key = told.err.split()[-1]
    assert told.out == f"kiosk {hashlib.sha256(key.encode()).hexdigest()} score,watch\n"
    assert Keys(text=told.out).check(key, "watch").name == "kiosk"
    assert main(["serve", "--new-key", "two words"]) == 2
    assert main(["serve", "--new-key", "kiosk", "--scopes", "all"]) == 2


@pytest.mark.parametrize(
    "text",
    [
        "kiosk",
        "kiosk 1234",
        f"kiosk {'0' * 63}g",
        f"kiosk {'0' * 64} root",
        f"kiosk {'0' * 64} ,",
        f"kiosk {'0' * 64} score open=0",
        f"kiosk {'0' * 64} score open=-1",
        f"kiosk {'0' * 64} score open=100000",
        f"kiosk {'0' * 64} score open=1 open=2",
        f"kiosk {'0' * 64} score speed=1",
        f"a {'0' * 64};a {'1' * 64}",
        "#",
    ],
)
def test_malformed_keys_are_named(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Keys(text=text)
    assert "0" * 20 not in str(caught.value)


def test_a_missing_file_of_keys_does_not_start(
    fake_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--bundle", str(fake_bundle), "--backend", "fake", "--port", "0"]
    assert main(["serve", *options, "--keys", str(tmp_path / "none")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_the_environment_brings_keys(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fake_bundle: Path
) -> None:
    monkeypatch.setenv(ENVIRONMENT, "malformed")
    options = ["--bundle", str(fake_bundle), "--backend", "fake", "--port", "0"]
    assert main(["serve", *options]) == 2
    assert ENVIRONMENT in capsys.readouterr().err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_beyond_the_loopback_keys_and_tls_are_asked_for(host: str, tmp_path: Path) -> None:
    pem = tmp_path / "x.pem"
    with pytest.raises(UsageError, match=r"API keys .* and TLS"):
        Settings(host=host)
    with pytest.raises(UsageError, match="asks for API keys"):
        Settings(host=host, tls_cert=pem, tls_key=pem)
    with pytest.raises(UsageError, match="asks for TLS"):
        Settings(host=host, keys_file=pem)
    Settings(host=host, keys_file=pem, tls_cert=pem, tls_key=pem)
    Settings(host=host, insecure=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "LOCALHOST"])
def test_on_the_loopback_nothing_is_asked_for(host: str) -> None:
    Settings(host=host)
    with pytest.raises(UsageError, match="certificate and its key"):
        Settings(host=host, tls_cert=Path("x"))


def test_speech_goes_over_tls(with_server: Any, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", str(key), "-out", str(cert), "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    trusting = ssl.create_default_context(cafile=str(cert))

    async def scenario(client: Client) -> None:
        assert client.server.url.startswith("https://")
        async with client.assess(encoded(ANSWER), ssl=trusting) as response:
            assert response.status == 200
        async with client.stream(ssl=trusting) as socket:
            _, said = await asyncio.gather(speak(socket, pcm(ANSWER), 7), listen(socket))
            assert said[-1]["type"] == "final"

    with_server(scenario, tls_cert=cert, tls_key=key)


def test_an_unusable_certificate_is_one_clear_line(
    fake_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pem = tmp_path / "x.pem"
    for content in (None, "no certificate"):
        if content is not None:
            pem.write_text(content)
        options = ["--bundle", str(fake_bundle), "--backend", "fake", "--port", "0"]
        assert main(["serve", *options, "--tls-cert", str(pem), "--tls-key", str(pem)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "TLS cannot be set up" in line
