"""Spans of requests: which there are, whose they are, what they tell; none unless asked for."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from audio_samples import encoded, speech
from server_client import Client, pcm, streamed

from asa_engine.errors import ArtifactError, UsageError
from asa_engine.server import traces
from asa_engine.server.traces import Traces

pytest.importorskip("opentelemetry.sdk", reason="needs the extra 'otel'")
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

ENDPOINT = "http://127.0.0.1:9"
ANSWER = speech(3.3, seed=3)
TRACE = "0af7651916cd43dd8448eb211c80319c"
ALLOWED = {
    "http.request.method",
    "http.route",
    "http.response.status_code",
    "asa.frames",
    "asa.windows",
}


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    made = InMemorySpanExporter()
    monkeypatch.setattr(traces, "_exporter", lambda endpoint: made)
    return made


def _spans(exporter: InMemorySpanExporter) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for span in exporter.get_finished_spans():
        found.setdefault(span.name, []).append(span)
    return found


def test_an_uploads_spans(with_server: Any, exporter: InMemorySpanExporter) -> None:
    async def scenario(client: Client) -> None:
        headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
        async with client.assess(encoded(ANSWER), headers=headers) as response:
            assert response.status == 200

    with_server(scenario, otlp_endpoint=ENDPOINT)
    spans = _spans(exporter)
    (request,) = spans["POST /v1/assess"]
    assert f"{request.context.trace_id:032x}" == TRACE
    assert f"{request.parent.span_id:016x}" == "b7ad6b7169203331"
    assert dict(request.attributes) == {
        "http.request.method": "POST",
        "http.route": "/v1/assess",
        "http.response.status_code": 200,
    }
    assert len(spans["window"]) == 4
    assert spans["decode"]
    assert len(spans["score"]) == 1
    for name in ("window", "decode", "score"):
        for span in spans[name]:
            assert span.parent.span_id == request.context.span_id
            assert request.start_time <= span.start_time <= span.end_time <= request.end_time


def test_a_streams_spans_tell_nothing_of_it(
    with_server: Any, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "LEAST_WAIT_S", 0.0)

    async def scenario(client: Client) -> None:
        final = (await streamed(client, pcm(ANSWER)))[-1]
        assert final["type"] == "final"
        async with client.get("/v1/made-up-by-a-client?text=secret") as response:
            assert response.status == 404

    with_server(scenario, otlp_endpoint=ENDPOINT)
    spans = _spans(exporter)
    assert {"WEBSOCKET /v1/stream", "queueing", "decode", "window", "score"} <= spans.keys()
    (stream,) = spans["WEBSOCKET /v1/stream"]
    assert stream.attributes["http.response.status_code"] == 101
    assert spans["GET other"][0].attributes["http.route"] == "other"
    for span in exporter.get_finished_spans():
        assert span.attributes.keys() <= ALLOWED
        assert not span.events
        told = json.loads(span.to_json())
        assert "secret" not in json.dumps(told)
        assert "made-up" not in json.dumps(told)


def test_a_long_streams_spans_are_bounded(
    with_server: Any, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "MOST_SPANS", 3)

    async def scenario(client: Client) -> None:
        await streamed(client, pcm(ANSWER))

    with_server(scenario, otlp_endpoint=ENDPOINT)
    spans = _spans(exporter)
    assert sum(map(len, spans.values())) == 3 + 2  # and the score, and the stream
    assert spans["WEBSOCKET /v1/stream"][0].attributes["asa.spans_left_out"] > 0


def test_a_dead_collector_holds_nobody_up(with_server: Any) -> None:
    async def scenario(client: Client) -> None:
        async with client.assess(encoded(ANSWER)) as response:
            assert response.status == 200

    with_server(scenario, otlp_endpoint=ENDPOINT)


def test_nothing_is_traced_unless_asked(with_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", ENDPOINT)

    def fail(*_: Any) -> Any:
        raise AssertionError("traced")

    monkeypatch.setattr(Traces, "__init__", fail)

    async def scenario(client: Client) -> None:
        async with client.assess(encoded(ANSWER)) as response:
            assert response.status == 200

    with_server(scenario)


@pytest.mark.parametrize("endpoint", ["collector", "ftp://collector", "http://", "file:///tmp"])
def test_an_endpoint_is_an_address(endpoint: str) -> None:
    with pytest.raises(UsageError, match="no address"):
        Traces(endpoint, "1")


@pytest.mark.parametrize(
    ("endpoint", "sent_to"),
    [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("https://collector/", "https://collector/v1/traces"),
        ("https://collector/own/traces", "https://collector/own/traces"),
    ],
)
def test_where_spans_are_sent(endpoint: str, sent_to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def noting(address: str) -> InMemorySpanExporter:
        asked.append(address)
        return InMemorySpanExporter()

    monkeypatch.setattr(traces, "_exporter", noting)
    Traces(endpoint, "1").stop()
    assert asked == [sent_to]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ArtifactError, match="otel"):
        Traces(ENDPOINT, "1")
