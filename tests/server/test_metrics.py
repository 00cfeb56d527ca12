"""The page that Prometheus reads."""

from __future__ import annotations

import re
from typing import Any

import pytest
from audio_samples import encoded, speech
from server_client import Client, pcm, streamed

from asa_engine.server.metrics import CONTENT_TYPE, RECENT, Metrics

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
            'asa_requests_total{path="/v1/assess",status="200"} 1',
            'asa_requests_total{path="/v1/assess",status="422"} 1',
            'asa_requests_total{path="/v1/stream",status="101"} 1',
            'asa_requests_total{path="other",status="404"} 1',
            'asa_open{kind="stream"} 0',
            "asa_waiting_audio_seconds 0.000",
            'asa_ended_total{kind="upload",outcome="failed"} 1',
            'asa_ended_total{kind="upload",outcome="finished"} 1',
            'asa_ended_total{kind="stream",outcome="finished"} 1',
            "asa_windows_encoded_total 6",
            "asa_audio_seconds_total 4.400",
            'asa_time_to_score_seconds_count{kind="stream"} 1',
        ):
            assert expected in lines

    with_server(scenario)


@pytest.mark.parametrize(
    ("count", "median", "p99"),
    [(1, 1, 1), (100, 51, 100), (200, 101, 199), (RECENT + 500, 1001, 1491)],
)
def test_quantiles_are_of_the_most_recent(count: int, median: int, p99: int) -> None:
    metrics = Metrics()
    for second in range(1, count + 1):
        metrics.scored("stream", float(second), 1.0)
    lines = metrics.render({}, 0.0).splitlines()
    name = "asa_time_to_score_seconds"
    assert f'{name}{{kind="stream",quantile="0.5"}} {median:.6f}' in lines
    assert f'{name}{{kind="stream",quantile="0.99"}} {p99:.6f}' in lines
    assert f'{name}_count{{kind="stream"}} {count}' in lines
    assert f'{name}_sum{{kind="stream"}} {count * (count + 1) / 2:.6f}' in lines
