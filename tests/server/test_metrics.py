"""The page that Prometheus reads."""

from __future__ import annotations

import re
from typing import Any

from audio_samples import encoded, speech
from server_client import Client, pcm, streamed

from asa_engine.server.metrics import CONTENT_TYPE, Metrics

ANSWER = speech(2.2, seed=3)
# The text format's grammar: a comment, or name{labels} value.
LINE = re.compile(r'# (HELP|TYPE) \w+ .+|\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? [0-9.e+-]+')


def test_requests_windows_and_scores_are_counted(with_server: Any) -> None:
    async def scenario(client: Client) -> None:
        async with client.assess(encoded(ANSWER)):
            pass
        async with client.assess(b"no audio"):
            pass
        await streamed(client, pcm(ANSWER))
        async with client.get("/v1/anything/a/client/made/up"):
            pass
        async with client.get("/metrics") as response:
            assert response.headers["Content-Type"] == CONTENT_TYPE
            text = await response.text()
        lines = text.splitlines()
        assert all(LINE.fullmatch(line) for line in lines)
        for expected in (
            'asa_requests_total{path="/v1/assess",status="200"} 1.0',
            'asa_requests_total{path="/v1/assess",status="422"} 1.0',
            'asa_requests_total{path="/v1/stream",status="101"} 1.0',
            'asa_requests_total{path="other",status="404"} 1.0',
            'asa_open{kind="stream"} 0.0',
            "asa_waiting_audio_seconds 0.0",
            'asa_ended_total{kind="upload",outcome="failed"} 1.0',
            'asa_ended_total{kind="upload",outcome="finished"} 1.0',
            'asa_ended_total{kind="stream",outcome="finished"} 1.0',
            "asa_windows_encoded_total 6.0",
            "asa_audio_seconds_total 4.4",
            'asa_time_to_score_seconds_count{kind="stream"} 1.0',
        ):
            assert expected in lines

    with_server(scenario)


def test_times_to_score_fall_into_buckets() -> None:
    metrics = Metrics()
    for second in (0.015, 0.06, 0.06, 40.0):
        metrics.scored("stream", second, 1.0)
    lines = metrics.render({}, 0.0).decode().splitlines()
    name = "asa_time_to_score_seconds"
    for bound, count in (("0.01", 0), ("0.02", 1), ("0.1", 3), ("30.0", 3), ("+Inf", 4)):
        assert f'{name}_bucket{{kind="stream",le="{bound}"}} {count}.0' in lines
    assert f'{name}_sum{{kind="stream"}} 40.135' in lines
