"""A session over one connection scores as `assess --session` does, to the last bit."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from audio_samples import RATE_HZ, silence, speech
from server_client import Client, agree, listen, pcm

import asa_engine as asa
from asa_engine.assessment import Grade, Score
from asa_engine.errors import AudioError, UsageError
from asa_engine.evaluation.sessions import assess_session, read_sessions
from asa_engine.graders import grader_entry

PARTS = ("P1", "P2")
SAID = {"P1": [speech(2.4, seed=1), speech(1.3, seed=2)], "P2": [speech(3.1, seed=3)]}


class _Loudness:
    """A grader of sessions: how loud each part was, heard in windows of a second."""

    mode = "late"

    def __init__(self, config: Any, stages: Any, clock: Any, **_: Any) -> None:
        self._clock = clock
        self._heard: dict[str, list[np.ndarray]] = {}
        self._part = ""
        self._open: list[np.ndarray] = []
        self._count = 0

    def begin(self, part: str) -> None:
        if part not in PARTS:
            raise UsageError(f"the grader knows no part {part!r}", hint=f"parts are {PARTS}")
        if self._part and part < self._part:
            raise UsageError(f"part {part} comes after {self._part}")
        self._count += 1
        if self._count > 4:
            raise AudioError("the session has more than 4 responses")
        self._part, self._open = part, []

    def push(self, samples: np.ndarray) -> None:
        before = sum(map(len, self._open)) // RATE_HZ
        self._open.append(samples)
        for _ in range(sum(map(len, self._open)) // RATE_HZ - before):
            with self._clock.scope("encoder"):
                pass

    def end(self, *, keep: bool = True) -> bool:
        if keep:
            self._heard.setdefault(self._part, []).extend(self._open)
        self._open = []
        return keep

    def provisional(self) -> Grade | None:
        return self._grade({**self._heard, **({self._part: self._open} if self._open else {})})

    def finish(self) -> Grade | None:
        if self._open:
            raise UsageError("the last response has not ended")
        return self._grade(self._heard)

    def _grade(self, heard: dict[str, list[np.ndarray]]) -> Grade | None:
        loud = {
            part: float(np.sqrt(np.mean(np.concatenate(pieces).astype(np.float64) ** 2)))
            for part, pieces in heard.items()
        }
        if not loud:
            return None
        loud["overall"] = sum(loud.values()) / len(loud)
        return Grade({name: Score(value, 0.0, 1.0) for name, value in loud.items()})


@pytest.fixture
def _of_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the bundle without a model be one of a grader of sessions."""
    config = SimpleNamespace(
        parts=[SimpleNamespace(name=name) for name in PARTS], front=0, max_responses=4
    )
    entry = dataclasses.replace(
        grader_entry("acoustic"), session=_Loudness, config=lambda values: config
    )
    monkeypatch.setattr("asa_engine.engine.grader_entry", lambda name: entry)


def _folder(path: Path, said: dict[str, list[np.ndarray]]) -> Path:
    for part, responses in said.items():
        (path / part).mkdir(parents=True)
        for number, response in enumerate(responses):
            samples = np.frombuffer(pcm(response), "<i2")
            soundfile.write(path / part / f"{number}.wav", samples, RATE_HZ, subtype="PCM_16")
    return path


async def _session(
    client: Client,
    said: dict[str, list[np.ndarray]],
    chunk_bytes: int = 3200,
    query: str = "sample_rate_hz=16000",
) -> list[dict[str, Any]]:
    """Speak a session; return every message."""
    url = f"{client.server.url}/v1/session?{query}"
    async with client.session.ws_connect(url) as socket:

        async def speak() -> None:
            for part, responses in said.items():
                for response in responses:
                    await socket.send_json({"type": "begin", "part": part})
                    data = pcm(response)
                    for start in range(0, len(data), chunk_bytes):
                        await socket.send_bytes(data[start : start + chunk_bytes])
                    await socket.send_json({"type": "end"})
            await socket.send_json({"type": "finish"})

        _, messages = await asyncio.gather(speak(), listen(socket))
    return messages


def _agree(final: dict[str, Any], offline: asa.Assessment) -> None:
    expected = json.loads(json.dumps(offline.to_dict()))
    agree(final, expected, "parts")
    assert [each["receipt"] for each in final["responses"]] == [
        each["receipt"] for each in expected["responses"]
    ]


@pytest.mark.usefixtures("_of_sessions")
@pytest.mark.parametrize("chunk_bytes", [7, 3200, 500_000])
def test_a_session_scores_as_offline(
    with_server: Any, fake_bundle: Path, tmp_path: Path, chunk_bytes: int
) -> None:
    said = {**SAID, "P2": [*SAID["P2"], silence(1.0)]}
    (session,) = read_sessions(_folder(tmp_path / "session", said))
    expected = assess_session(asa.load(fake_bundle, backend="fake", threads=1), session)

    async def scenario(client: Client) -> None:
        messages = await _session(client, said, chunk_bytes)
        assert messages[-1]["type"] == "final"
        _agree(messages[-1]["assessment"], expected)
        ended = [each for each in messages if each["type"] == "response"]
        assert [each["part"] for each in ended] == ["P1", "P1", "P2", "P2"]
        assert [each["validity"]["scorable"] for each in ended] == [True, True, True, False]
        told = [each for each in messages if each["type"] == "provisional"]
        assert {"P1", "overall"} == told[0]["scores"].keys()
        async with client.get("/v1/graders") as response:
            assert (await response.json())["serving"]["parts"] == list(PARTS)
        async with client.get("/metrics") as response:
            text = await response.text()
        assert 'asa_ended_total{kind="session",outcome="finished"} 1.0\n' in text

    with_server(scenario)


@pytest.mark.usefixtures("_of_sessions")
def test_sessions_at_once_do_not_touch(with_server: Any, fake_bundle: Path, tmp_path: Path) -> None:
    engine = asa.load(fake_bundle, backend="fake", threads=1)
    many = [{"P1": [speech(1.2, seed=n)], "P2": [speech(1.7, seed=9 + n)]} for n in range(5)]
    expected = [
        assess_session(engine, read_sessions(_folder(tmp_path / str(n), said))[0])
        for n, said in enumerate(many)
    ]

    async def scenario(client: Client) -> None:
        talks = [_session(client, said, 400 + 614 * n) for n, said in enumerate(many)]
        for messages, offline in zip(await asyncio.gather(*talks), expected, strict=True):
            _agree(messages[-1]["assessment"], offline)

    with_server(scenario, workers=2)


BEGIN = {"type": "begin", "part": "P1"}
END = {"type": "end"}
FINISH = {"type": "finish"}
HALF = pcm(speech(0.5, seed=1))


@pytest.mark.usefixtures("_of_sessions")
@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([b"ab"], "outside a response"),
        ([BEGIN, END, b"ab"], "outside a response"),
        ([{"type": "begin"}], "without its part"),
        ([{"type": "begin", "part": ["P1"]}], "without its part"),
        ([{"type": "begin", "part": "P9"}], "no part 'P9'"),
        ([END], "no response was begun"),
        ([BEGIN, HALF, END, BEGIN, HALF, FINISH], "has not ended"),
        ([{"type": "begin", "part": "P2"}, END, BEGIN], "comes after"),
        ([BEGIN, END] * 5, "more than 4"),
        ([BEGIN, b"abc", END], "inside a sample"),
        ([BEGIN, b"RIFF\x00\x00\x00\x00WAVEfmt ", END], "begins as a WAV"),
        ([BEGIN, HALF, END, BEGIN, b"fLaC" + bytes(60)], "begins as a FLAC"),
        ([FINISH], "no audio"),
        ([{"type": "pause"}], "not understood"),
        ([BEGIN, END] * 500, ""),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_what_a_client_does_wrong_is_told(with_server: Any, frames: list[Any], words: str) -> None:
    async def scenario(client: Client) -> None:
        url = f"{client.server.url}/v1/session?sample_rate_hz=16000"
        async with client.session.ws_connect(url) as socket:
            for each in frames:
                await (socket.send_bytes if isinstance(each, bytes) else socket.send_json)(each)
            told = (await listen(socket))[-1]
        assert told["type"] == "error"
        assert told["error"] in ("BadRequest", "UsageError", "AudioError")
        assert words in told["message"]
        await client.until_open(0)

    with_server(scenario)


@pytest.mark.usefixtures("_of_sessions")
@pytest.mark.parametrize(("query", "words"), [("text=a", "'text'"), ("id=" + 20 * "a", "not kept")])
def test_a_session_has_no_texts_and_no_id(with_server: Any, query: str, words: str) -> None:
    async def scenario(client: Client) -> None:
        (told,) = await _session(client, {}, query=f"sample_rate_hz=16000&{query}")
        assert words in told["message"]

    with_server(scenario)


@pytest.mark.usefixtures("_of_sessions")
def test_recordings_are_not_sessions(with_server: Any) -> None:
    async def scenario(client: Client) -> None:
        async with client.assess(b"RIFF") as response:
            assert response.status == 400
            assert "/v1/session" in (await response.json())["hint"]
        async with client.stream() as socket:
            (told,) = await listen(socket)
        assert "/v1/session" in told["hint"]

    with_server(scenario)


def test_sessions_are_not_recordings(with_server: Any) -> None:
    async def scenario(client: Client) -> None:
        (told,) = await _session(client, {})
        assert "/v1/stream" in told["hint"]

    with_server(scenario)


@pytest.mark.usefixtures("_of_sessions")
def test_a_pause_between_responses_is_longer_than_one_within(
    with_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(client: Client) -> None:
        url = f"{client.server.url}/v1/session?sample_rate_hz=16000"
        async with client.session.ws_connect(url) as socket:
            await asyncio.sleep(0.5)  # more than an idle timeout
            await socket.send_json(BEGIN)
            await socket.send_bytes(HALF)
            await socket.send_json(END)
            await asyncio.sleep(0.5)
            await socket.send_json(BEGIN)
            told = (await listen(socket))[-1]
        assert told["error"] == "TooSlow"

    with_server(scenario, idle_timeout_s=0.2)


def test_the_session_grader_is_served(with_server: Any, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    samples = pytest.importorskip("session_samples")
    exporter = pytest.importorskip("asa_export.exporter")
    from asa_export.speech import synthetic_speech

    bundle = tmp_path / "bundle"
    variants = exporter.plan(["native"], ["fp32"], "speech_llm_session")
    checkpoint = samples.make_checkpoint(tmp_path / "made")
    exporter.export(checkpoint, bundle, variants, synthetic_speech(samples.PARTS))
    (session,) = read_sessions(_folder(tmp_path / "session", samples.session()))
    expected = assess_session(asa.load(bundle, backend="native", threads=1), session)

    async def scenario(client: Client) -> None:
        messages = await _session(client, samples.session())
        _agree(messages[-1]["assessment"], expected)

    with_server(scenario, bundle=bundle, backend="native")
