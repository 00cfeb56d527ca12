"""Uploads as forms score as files do; what is wrong with one is told, and it stays in memory."""

from __future__ import annotations

import io
import tempfile
from typing import Any

import aiohttp
import pytest
from audio_samples import encoded, speech
from server_client import Client

import asa_engine as asa
from asa_engine.server.uploads import FORM_BYTES

ANSWER = encoded(speech(2.2, seed=3))
BOUNDARY = "----a-boundary"


def _form(**fields: Any) -> aiohttp.FormData:
    form = aiohttp.FormData()
    for name, value in fields.items():
        if isinstance(value, bytes):
            form.add_field(name, io.BytesIO(value), filename=f"{name}.wav")
        else:
            form.add_field(name, value)
    return form


def _part(head: str, body: bytes = b"") -> bytes:
    return (
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + body + b"\r\n"
    )


FILE = _part('name="file"; filename="a.wav"', ANSWER)
END = f"--{BOUNDARY}--\r\n".encode()


def test_a_form_scores_as_its_file_does(with_server: Any, offline: asa.Engine) -> None:
    expected = offline.assess(ANSWER).to_dict()

    async def scenario(client: Client) -> None:
        async with client.assess(_form(file=ANSWER)) as response:
            assert response.status == 200
            told = await response.json()
        assert told["scores"] == expected["scores"]
        assert told["receipt"] == expected["receipt"]
        async with client.assess(_form(format="csv", file=ANSWER)) as response:
            assert response.content_type == "text/csv"
        await client.until_open(0)

    with_server(scenario)


def test_a_forms_texts_reach_the_grader(with_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    stream = asa.Engine.stream

    def noting(self: Any, rate_hz: int, **texts: Any) -> Any:
        given.append(texts)
        return stream(self, rate_hz)

    monkeypatch.setattr(asa.Engine, "stream", noting)

    async def scenario(client: Client) -> None:
        form = _form(text="WE CALL IT BÄR", prompt="Read.", file=ANSWER)
        async with client.assess(form) as response:
            assert response.status == 200
        assert given[-1] == {"text": "WE CALL IT BÄR", "prompt": "Read."}
        async with client.assess(_form(text="A", file=ANSWER), params={"prompt": "B"}) as response:
            assert response.status == 200
        assert given[-1] == {"text": "A", "prompt": "B"}

    with_server(scenario)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (FILE + FILE + END, 400, "Too many files"),
        (_part('name="text"', b"a") * 2 + FILE + END, 400, "field 'text'"),
        (_part('name="text"', b"a") * 4 + END, 400, "Too many fields"),
        (_part('name="text"', b"a" * 80_001) + FILE + END, 400, "Part exceeded"),
        (_part('name="text"', b"\xff\xfe") + FILE + END, 400, "not UTF-8"),
        (_part('name="text"', b"a\x00b") + FILE + END, 400, "control character"),
        (_part('name="format"', b"xml") + FILE + END, 400, "'xml'"),
        (_part('name="id"', b"a") + FILE + END, 400, "field 'id'"),
        (_part('name="audio"; filename="a"', b"a") + END, 400, "file 'audio'"),
        (_part('name="file"', b"RIFF") + END, 400, "field 'file'"),
        (_part('filename="a"', b"a") + END, 400, "name"),
        (END, 400, "no file"),
        (b"", 400, ""),
        (FILE, 400, ""),
        (FILE[:-100], 400, ""),
        (b"nothing of the kind", 400, "cannot be read"),
        (_part('name="file"; filename="a.wav"', b"") + END, 422, "empty"),
        (_part('name="file"; filename="a.wav"', b"text") + END, 422, ""),
        (_part("x" * 10_000) + END, 400, "cannot be read"),
        (f"--{BOUNDARY}\r\n".encode() + b"A: b\r\n" * 1000 + b"\r\n" + END, 400, "cannot be read"),
        (_part('name="file"; filename="a"', bytes(200_001)) + END, 413, "200000 bytes"),
        (_part('name="file"; filename="a"', bytes(200_000 + FORM_BYTES)) + END, 413, "200000"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_told", [True, False], ids=["length", "no length"])
def test_what_is_wrong_with_a_form_is_told(
    with_server: Any, body: bytes, status: int, words: str, is_told: bool
) -> None:
    async def pieces() -> Any:
        for start in range(0, len(body), 5000):
            yield body[start : start + 5000]

    async def scenario(client: Client) -> None:
        headers = {"Content-Type": f'multipart/form-data; boundary="{BOUNDARY}"'}
        data = body if is_told else pieces()
        async with client.assess(data, headers=headers) as response:
            told = await response.json()
        assert response.status == status
        assert words in told["message"]
        await client.until_open(0)

    with_server(scenario, max_upload_bytes=200_000)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("multipart/form-data", 400),
        ("multipart/form-data; boundary=" + "a" * 300, 400),
        ("multipart/mixed; boundary=a", 415),
        ("application/x-www-form-urlencoded", 200),  # as curl calls any body
    ],
)
def test_kinds_of_bodies(with_server: Any, kind: str, status: int) -> None:
    async def scenario(client: Client) -> None:
        async with client.assess(ANSWER, headers={"Content-Type": kind}) as response:
            assert response.status == status
            if status != 200:
                assert (await response.json())["hint"]

    with_server(scenario)


def test_a_text_is_given_once(with_server: Any) -> None:
    async def scenario(client: Client) -> None:
        form = _form(format="csv", file=ANSWER)
        async with client.assess(form, params={"format": "json"}) as response:
            assert response.status == 400
            assert "in the address and in the form" in (await response.json())["message"]

    with_server(scenario)


def test_a_form_never_touches_the_disk(with_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("a file")

    monkeypatch.setattr(tempfile, "TemporaryFile", fail)
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", fail)

    async def scenario(client: Client) -> None:
        answer = encoded(speech(60.0, seed=3))  # 1.9 MB: more than Starlette holds in memory
        assert len(answer) > 2**20
        async with client.assess(_form(file=answer)) as response:
            assert response.status == 200

    with_server(scenario)
