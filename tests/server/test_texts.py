"""Texts that come with the audio reach the grader, or are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest
from audio_samples import encoded, speech
from server_client import Client, pcm, streamed

from asa_engine import engine as engine_module
from asa_engine.engine import Engine
from asa_engine.graders import grader_entry

SPEECH = speech(1.2, seed=3)
ANSWER = pcm(SPEECH)
LONG = "\N{GRINNING FACE} " * 10_000


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, str | None]]:
    """Let the engine's grader use both texts, and note what each stream was given."""
    given: list[Mapping[str, str | None]] = []
    stream = Engine.stream
    monkeypatch.setattr("asa_engine.server.pool.check_scores", lambda engine: None)

    def noting(self: Engine, rate_hz: int = 16_000, **texts: str | None) -> Any:
        given.append(texts)
        return stream(self, rate_hz, **texts)

    monkeypatch.setattr(Engine, "stream", noting)
    entry = replace(grader_entry("acoustic"), uses=("text", "prompt"))
    monkeypatch.setattr(engine_module, "grader_entry", lambda name: entry)
    return given


def test_texts_reach_the_grader(with_server: Any, heard: list[Mapping[str, str]]) -> None:
    async def scenario(client: Client) -> None:
        messages = await streamed(client, ANSWER, "?prompt=Where%3F&text=na%C3%AFve")
        assert messages[-1]["type"] == "final"
        texts = {"text": "WE CALL IT BEAR"}
        async with client.assess(encoded(SPEECH, "WAV"), params=texts) as response:
            assert response.status == 200

    with_server(scenario)
    assert heard == [{"text": "naïve", "prompt": "Where?"}, {"text": "WE CALL IT BEAR"}]


def test_long_texts_fit(with_server: Any, heard: list[Mapping[str, str]]) -> None:
    async def scenario(client: Client) -> None:
        messages = await streamed(client, ANSWER, f"?text={quote(LONG)}")
        assert messages[-1]["type"] == "final"

    with_server(scenario)
    assert heard == [{"text": LONG}]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("?prompt=Where", "does not use a prompt"),
        ("?text=a%00b", "control character U+0000"),
        ("?text=" + "x" * 20_001, "at most 20000"),
        ("?texts=x", "unknown parameter 'texts'"),
    ],
)
def test_texts_that_cannot_be_used_are_refused(with_server: Any, query: str, said: str) -> None:
    async def scenario(client: Client) -> None:
        messages = await streamed(client, ANSWER, query)
        assert messages[-1]["type"] == "error"
        assert said in messages[-1]["message"]

    with_server(scenario)
