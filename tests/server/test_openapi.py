"""The document says what the server does, and nothing sent to its routes is a fault of it."""

from __future__ import annotations

import asyncio
from typing import Any

import jsonschema
from audio_samples import encoded, silence, speech
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from server_client import Client

from asa_engine.server.app import _ROUTES
from asa_engine.server.openapi import openapi

DOCUMENT = openapi("1")
ANSWER = encoded(speech(1.2, seed=3))


def _valid(content: Any, name: str) -> None:
    pointed = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    jsonschema.Draft202012Validator(pointed).validate(content)


def test_every_route_is_described(with_server: Any) -> None:
    assert DOCUMENT["paths"].keys() == _ROUTES.keys()

    async def scenario(client: Client) -> None:
        async with client.get("/openapi.json") as response:
            told = await response.json()
        assert told["paths"] == DOCUMENT["paths"]

    with_server(scenario)


def test_answers_are_as_described(with_server: Any) -> None:
    async def scenario(client: Client) -> None:
        for data, status, name in (
            (ANSWER, 200, "Assessment"),
            (encoded(silence(1.0)), 200, "Assessment"),
            (b"text", 422, "Error"),
        ):
            async with client.assess(data) as response:
                assert response.status == status
                _valid(await response.json(), name)
        for path, operations in DOCUMENT["paths"].items():
            if path == "/v1/assess":
                continue
            async with client.get(path) as response:
                assert str(response.status) in operations["get"]["responses"]

    with_server(scenario)


def test_nothing_that_is_asked_is_a_fault(with_server: Any) -> None:
    text = st.text(st.characters(codec="utf-8"), max_size=8)
    asked = st.tuples(
        st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "X"]),
        st.sampled_from([*_ROUTES, "/", "/v1", "/v1/assess/"]),
        st.dictionaries(
            st.sampled_from(["text", "prompt", "format", "sample_rate_hz", "x"]), text, max_size=3
        ),
        st.dictionaries(
            st.sampled_from(["Content-Type", "Content-Encoding", "Origin", "X-Request-ID"]),
            st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12),
            max_size=3,
        ),
        st.sampled_from([b"", b"RIFF", ANSWER[:60], ANSWER]),
    )
    cases: list[Any] = []

    @settings(
        max_examples=150,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(asked)
    def collect(case: Any) -> None:
        cases.append(case)

    collect()

    async def scenario(client: Client) -> None:
        async def ask(method: str, path: str, query: Any, headers: Any, data: bytes) -> None:
            async with client.session.request(
                method, client.server.url + path, params=query, headers=headers, data=data
            ) as response:
                assert response.status < 500, (method, path, query, headers)
                if response.status >= 400 and method != "HEAD":
                    told = await response.json()
                    _valid(told, "Error")
                    assert told["hint"]

        for case in cases:
            await asyncio.wait_for(ask(*case), 20)

    with_server(scenario)
