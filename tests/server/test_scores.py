"""One audio, one score: served as offline, uploaded or streamed, alone or among others."""

from __future__ import annotations

import asyncio
from typing import Any

import container_samples
import numpy as np
import pytest
from assessments import assessment
from audio_samples import RATE_HZ, encoded, silence, speech
from server_client import Client, agree, listen, pcm, streamed, values

import asa_engine as asa
from asa_engine.bundle import DEFAULT_BUNDLE, MANIFEST_NAME
from asa_engine.formats import FORMATS
from asa_engine.stream import Stream

ANSWER = speech(3.3, seed=3)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_an_upload_scores_as_offline(with_server: Any, offline: asa.Engine, kind: str) -> None:
    data = encoded(ANSWER, kind)

    async def scenario(client: Client) -> None:
        async with client.assess(data) as response:
            assert response.status == 200
            agree(await response.json(), offline.assess(data).to_dict())

    with_server(scenario)


@pytest.mark.parametrize("suffix", [".webm", ".m4a", ".amr", ".opus"])
def test_what_phones_and_browsers_write_is_taken(
    with_server: Any, offline: asa.Engine, suffix: str
) -> None:
    pytest.importorskip("av")
    answer = encoded(ANSWER)
    if suffix == ".amr":
        data = container_samples.made("sox", ("IN", "-r", "8000", "OUT"), ".amr-nb", answer)
    else:
        data = container_samples.ffmpeg(answer, suffix)

    async def scenario(client: Client) -> None:
        async with client.assess(data) as response:
            assert response.status == 200
            agree(await response.json(), offline.assess(data).to_dict())
        async with client.assess(data[: len(data) // 2]) as response:
            assert response.status == 422
            assert "cut short" in (await response.json())["message"]

    with_server(scenario)


@pytest.mark.parametrize("chunk_bytes", [7, 640, 3200, 500_000])
@pytest.mark.parametrize(
    ("query", "dtype", "rate_hz"),
    [
        ("", "<i2", 16_000),
        ("?format=s16le&sample_rate_hz=48000", "<i2", 48_000),
        ("?format=f32le&sample_rate_hz=44100", "<f4", 44_100),
    ],
)
def test_a_stream_scores_as_offline(
    with_server: Any, offline: asa.Engine, query: str, dtype: str, rate_hz: int, chunk_bytes: int
) -> None:
    samples = np.frombuffer(pcm(ANSWER), "<i2")
    if dtype == "<f4":
        samples = (samples / 32768).astype("<f4")
    expected = offline.assess((samples, rate_hz))

    async def scenario(client: Client) -> None:
        messages = await streamed(client, samples.tobytes(), query, chunk_bytes)
        assert messages[-1]["type"] == "final"
        agree(messages[-1]["assessment"], expected.to_dict())

    with_server(scenario)


def test_provisional_scores_come_as_windows_close(with_server: Any, offline: asa.Engine) -> None:
    samples = np.frombuffer(pcm(ANSWER), "<i2")
    expected = []
    with offline.stream() as stream:
        for start in range(0, len(samples), RATE_HZ):
            stream.feed(samples[start : start + RATE_HZ])
            told = stream.provisional
            assert told is not None
            expected.append({name: score.to_dict() for name, score in told.items()})

    async def scenario(client: Client) -> None:
        async with client.stream() as socket:
            await socket.send_bytes(samples.tobytes())
            messages = [await socket.receive_json() for _ in range(3)]
            await socket.send_json({"type": "finish"})
            rest = await listen(socket)
        assert [message["type"] for message in messages] == ["provisional"] * 3
        assert [message["windows"] for message in messages] == [1, 2, 3]
        assert [message["scores"] for message in messages] == expected[:3]
        assert [message["type"] for message in rest] == ["final"]
        assert socket.close_code == 1000

    with_server(scenario)


def test_an_answer_has_the_form_that_is_asked_for(with_server: Any, offline: asa.Engine) -> None:
    data = encoded(ANSWER, "FLAC")
    expected = offline.assess(data)

    async def scenario(client: Client) -> None:
        for name, kind in (("azure", "json"), ("csv", "csv"), ("textgrid", "plain")):
            async with client.assess(data, params={"format": name}) as response:
                assert response.status == 200
                assert response.content_type.endswith(kind)
                form = FORMATS[name]
                assert await response.text() == form.header + form.write(expected, "")
        async with client.assess(data, params={"format": "xml"}) as response:
            assert response.status == 400
            assert "azure" in (await response.json())["hint"]

    with_server(scenario)


def test_words_come_as_they_are_passed(with_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    words = assessment().words[:2]
    monkeypatch.setattr(Stream, "provisional_words", words)

    async def scenario(client: Client) -> None:
        messages = await streamed(client, pcm(ANSWER))
        assert messages[0]["words"] == [word.to_dict() for word in words]

    with_server(scenario)


def test_a_rationale_comes_as_it_is_written(
    with_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = Stream.finish

    def explaining(self: Stream, on_text: Any = None) -> asa.Assessment:
        if on_text is not None:
            on_text("Clear, ")
            on_text("but slow.")
        return finish(self)

    async def scenario(client: Client) -> None:
        monkeypatch.setattr(Stream, "finish", explaining)
        messages = await streamed(client, pcm(ANSWER))
        pieces = [message for message in messages if message["type"] == "rationale"]
        assert pieces == [
            {"type": "rationale", "text": "Clear, "},
            {"type": "rationale", "text": "but slow."},
        ]
        assert [message["type"] for message in messages[-3:]] == ["rationale"] * 2 + ["final"]

    with_server(scenario)


def test_what_cannot_be_judged_is_an_answer(with_server: Any) -> None:
    async def scenario(client: Client) -> None:
        async with client.assess(encoded(silence(2.0))) as response:
            assert response.status == 200
            uploaded = await response.json()
        final = (await streamed(client, pcm(silence(2.0))))[-1]["assessment"]
        for result in (uploaded, final):
            assert result["validity"]["reasons"] == ["silence"]
            assert result["scores"] == {}

    with_server(scenario)


def test_the_time_to_score_counts_waiting(
    with_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The stream itself reports no time at all: what is left is what the server adds.
    monkeypatch.setattr("asa_engine.stream.since_ms", lambda start: 0.0)

    async def scenario(client: Client) -> None:
        final = (await streamed(client, pcm(ANSWER)))[-1]["assessment"]
        assert final["timing"]["time_to_score_ms"] > 0

    with_server(scenario)


@pytest.mark.parametrize("workers", [1, 3])
def test_many_streams_at_once_do_not_touch(
    with_server: Any, offline: asa.Engine, workers: int
) -> None:
    answers = [speech(1.5 + 0.3 * seed, seed=seed) for seed in range(8)]
    expected = [offline.assess((np.frombuffer(pcm(a), "<i2"), RATE_HZ)) for a in answers]

    async def scenario(client: Client) -> None:
        talks = [
            streamed(client, pcm(answer), chunk_bytes=400 + 614 * index)
            for index, answer in enumerate(answers)
        ]
        for messages, offline_result in zip(await asyncio.gather(*talks), expected, strict=True):
            agree(messages[-1]["assessment"], offline_result.to_dict())
        async with client.get("/metrics") as response:
            text = await response.text()
        windows = sum(len(answer) // RATE_HZ + bool(len(answer) % RATE_HZ) for answer in answers)
        assert f"asa_windows_encoded_total {windows}.0\n" in text
        assert 'asa_ended_total{kind="stream",outcome="finished"} 8.0\n' in text

    with_server(scenario, workers=workers, max_streams=8)


@pytest.mark.skipif(
    not (DEFAULT_BUNDLE / MANIFEST_NAME).is_file(), reason="the package carries no bundle"
)
def test_the_shipped_bundle_scores_as_offline(with_server: Any) -> None:
    # One thread on both sides: an encoder may add in another order with more.
    engine = asa.load(threads=1)
    answer = speech(9.0, seed=4)
    heard = np.frombuffer(pcm(answer), "<i2")
    data = encoded(heard)
    expected = engine.assess(data)

    async def scenario(client: Client) -> None:
        async with client.assess(data) as response:
            agree(await response.json(), expected.to_dict())
        final = (await streamed(client, heard.tobytes()))[-1]["assessment"]
        agree(final, expected.to_dict())
        assert values(final).keys() == expected.scores.keys()

    with_server(scenario, bundle=None, backend="auto")
